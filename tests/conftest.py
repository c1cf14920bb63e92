"""What the tests share: reference material, a small data set, and the command line's own main."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

# Before torch is imported, here or by what a test starts: a worker of pytest has one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from small_data import Phase5Files

ROOT = Path(__file__).parents[1]
SMALL = (
    "model.width=8",
    "model.layers=1",
    "trainer.max_epoch=2",
    "trainer.device=cpu",
    "dataset.lookback=5",
    "report=false",
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference data and golden files; the test is skipped where it is absent."""
    folder = Path(os.environ.get("STOCKFORMER_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder} (set STOCKFORMER_SHARED)")
    return folder


@pytest.fixture
def phase5_files(tmp_path: Path) -> Phase5Files:
    return Phase5Files(tmp_path / "data")


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Call a program's own main in `tmp_path`: `command("train", "seed=1")` -> status, output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))

    def call(program: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [f"{program}.py", *arguments])
        # The terminal's log handler holds the stream of the test before.
        logging.getLogger("stockformer").handlers.clear()
        try:
            importlib.import_module(program).main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                sys.stderr.write(end.code)
        captured = capfd.readouterr()
        return status, captured.out + captured.err

    return call


def small_words(files: Phase5Files, *arguments: str) -> list[str]:
    """The command line of a small run on these files."""
    return ["dataset=nifty200_phase5", f"paths.data_dir={files.data_dir}", *SMALL, *arguments]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """`trained(folder, "seed=1")` puts a run of these settings there, trained once a session.

    Its data are shared with other tests: only those that leave the data alone may use it.
    """
    base = tmp_path_factory.mktemp("trained")
    files = Phase5Files(base / "data")

    @cache
    def train_once(*arguments: str) -> Path:
        run = base / f"run{len(list(base.iterdir()))}"
        words = small_words(files, *arguments)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(ROOT))
            patch.setattr(sys, "argv", ["train.py", *words, f"hydra.run.dir={run}"])
            importlib.import_module("train").main()
        return run

    return lambda folder, *arguments: shutil.copytree(train_once(*arguments), folder)


@pytest.fixture
def train(command: Command, phase5_files: Phase5Files) -> Command:
    """`train("seed=1")`: a small run on the small data set."""

    def call(*arguments: str) -> tuple[int, str]:
        return command("train", *small_words(phase5_files, *arguments))

    return call
