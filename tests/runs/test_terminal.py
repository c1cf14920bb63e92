"""A run outlives its terminal, and does not care what that can show."""

from __future__ import annotations

import io
import locale
import os
import pty
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runs.small_run import SmallRuns, captured, differences, ended, forked, train_main
from runs.test_signals import Child, require_left, resume, sleep

from stockformer.runs.console import make_streams_resilient
from stockformer.runs.folder import RunDir

Ends = Callable[[], tuple[int, int]]  # what reads, what writes


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def left_alone(ends: Ends, program: Callable[[], None]) -> int:
    """The process of a program whose output is read a little, as by head, and then by nobody."""
    reader, writer = ends()

    def run() -> None:
        os.close(reader)
        program()

    child = forked(run, writer)
    os.close(writer)
    os.read(reader, 100)
    os.close(reader)
    return child


@pytest.mark.parametrize("ends", [os.pipe, pty.openpty])
def test_a_run_goes_on_without_its_terminal(
    ends: Ends, small: SmallRuns, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    child = left_alone(ends, lambda: train_main(small.words(f"hydra.run.dir={folder}")))
    assert ended(child) == 0
    assert RunDir(folder).status()["state"] == "finished"
    assert not differences(whole, folder)
    kept = (folder / "train.log").read_text()
    assert kept.count("the terminal is gone") == 1
    assert "epoch 3/3" in kept
    assert "run folder: " in kept


def test_every_job_of_a_sweep_goes_on_without_its_terminal(
    small: SmallRuns, tmp_path: Path
) -> None:
    words = small.words("-m", "seed=3,4", "trainer.max_epoch=1", f"hydra.sweep.dir={tmp_path}/all")
    assert ended(left_alone(pty.openpty, lambda: train_main(words))) == 0
    states = [RunDir(tmp_path / f"all/{job}").status()["state"] for job in range(2)]
    assert states == ["finished", "finished"]


def test_a_closed_terminal_keeps_the_state(small: SmallRuns, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = Child("train", small.words(f"hydra.run.dir={folder}"), tmp_path / "output", sleep)
    require_left(child, signal.SIGHUP, folder)
    resume(folder, tmp_path)
    assert not differences(whole, folder)


def test_nohup_is_respected(small: SmallRuns, whole: Path, tmp_path: Path) -> None:
    folder, step = tmp_path / "run", small.words(f"hydra.run.dir={tmp_path}/run")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a child inherits it, as from nohup
    try:
        child = Child("train", step, tmp_path / "output", lambda: time.sleep(0.5))
    finally:
        signal.signal(signal.SIGHUP, before)
    status, _ = child.signal(signal.SIGHUP)
    assert status == 0, child.output.read_text()
    assert not differences(whole, folder)


def test_a_terminal_and_a_locale_that_know_ascii_alone(
    small: SmallRuns, whole: Path, tmp_path: Path
) -> None:
    """The name of the folder, the tree of the configuration and every file hold other letters."""
    folder = tmp_path / "größe 中"

    def run() -> None:
        locale.setlocale(locale.LC_ALL, "C")
        for stream in (sys.stdout, sys.stderr):
            assert isinstance(stream, io.TextIOWrapper)
            stream.reconfigure(encoding="ascii", errors="strict")
        with (tmp_path / "probe").open("w") as probe:  # the files' encoding is the locale's
            assert sys.flags.utf8_mode or probe.encoding.lower() in ("ascii", "ansi_x3.4-1968")
        train_main(small.words(f"hydra.run.dir='{folder}'", "tags=['größe']", "report=true"))

    status, output = captured(run)
    assert status == 0, output
    assert "|- model" in output
    assert r"gr\xf6\xdfe \u4e2d" in output
    assert not differences(whole, folder)
    assert "größe" in (folder / "config.yaml").read_text(encoding="utf-8")
    assert "├─ model" in (folder / "train.log").read_text(encoding="utf-8")


def test_without_any_streams_a_run_fails_of_its_own_reason(
    small: SmallRuns, tmp_path: Path
) -> None:
    def run() -> None:
        for number in range(3):
            os.close(number)
        sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]  # as Python does
        make_streams_resilient()
        train_main(small.words(f"hydra.run.dir={tmp_path}/run", "backtest.top_k=99"))

    status, output = captured(run)
    assert (status, output) == (1, "")
    assert "backtest.top_k=99" in RunDir(tmp_path / "run").status()["reason"]
