"""Forked processes run the code of the process that asked for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from pathlib import Path

import pytest

from stockformer.runs.fork_server import start_fork_server

PROGRAM = """
import multiprocessing

from stockformer.runs.fork_server import start_fork_server

import settings


def show(results):
    results.put(settings.__file__)


if __name__ == "__main__":
    start_fork_server(["settings"])
    context = multiprocessing.get_context("forkserver")
    results = context.SimpleQueue()
    process = context.Process(target=show, args=(results,))
    process.start()
    print(results.get())
    process.join()
"""


def test_modules_come_from_the_same_checkout(tmp_path: Path) -> None:
    """`settings` lies next to the program, and another one in the folder it is started in."""
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.py").touch()
    (tmp_path / "here/program.py").write_text(PROGRAM)
    shown = subprocess.run(
        [sys.executable, tmp_path / "here/program.py"],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == str(tmp_path / "here/settings.py")


def test_several_threads_may_start_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the look-ahead audit does; the environment is then as before."""
    monkeypatch.setattr(forkserver, "set_forkserver_preload", lambda names: None)
    monkeypatch.setattr(forkserver, "ensure_running", lambda: time.sleep(0.02))
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start_fork_server, [["stockformer"]] * 8))
    assert "PYTHONPATH" not in os.environ
    assert os.environ["PYTHONSAFEPATH"] == ""
