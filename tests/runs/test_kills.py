"""A run may be killed at any moment from its start to its end: it goes on as if it had not been."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs.small_run import SmallRuns, captured, differences, ended, forked, train_main
from runs.test_atomic import CRASHED, crash_before_call
from runs.test_signals import PHASES, Child, sleep

from stockformer.experiment import Experiment
from stockformer.reporting import report
from stockformer.runs import atomic
from stockformer.runs.folder import RunDir
from stockformer.runs.resume import requested_run
from stockformer.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
MOMENTS: dict[str, tuple[Any, str, int]] = {
    "data are read": PHASES["load"],
    "the manifest is written": (RunDir, "write_manifest", 1),
    "the first checkpoint is written": (Trainer, "fit", 1),
    "the first step is taken": (Trainer, "take_step", 1),
    "an epoch is written": (Trainer, "close_epoch", 2),
    "the test is judged": (Experiment, "test", 1),
    "the verdict is written": (RunDir, "write_evaluation", 1),
    "the report is written": (report, "write_report", 1),
}
OFTEN = ("data are read", "the first checkpoint is written", "the report is written")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def go_on(folder: Path, words: list[str]) -> None:
    """What a person does next: continue the run, or start it again where it had not begun."""
    begun = RunDir(folder).begun()
    status, output = captured(lambda: train_main([f"resume={folder}"] if begun else words))
    assert status == 0, output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "moment",
    [m if m in OFTEN else pytest.param(m, marks=pytest.mark.full) for m in MOMENTS],
)
def test_killed_when(
    moment: str,
    small: SmallRuns,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PHASES, moment, MOMENTS[moment])
    folder = Path("outputs/day/run")
    words = small.words(f"hydra.run.dir={folder}", f"report={'report' in moment}")
    child = Child(moment, words, tmp_path / "output", sleep)
    child.signal(signal.SIGKILL)
    run = RunDir(folder)
    assert run.begun()
    if moment == "the report is written":
        assert run.status()["state"] == "finished"
        status, output = captured(lambda: train_main([f"resume={folder}"]))
        assert (status, "python analyze.py run=outputs/day/run" in output) == (0, True), output
    else:
        assert run.killed()
        assert requested_run(["resume=latest"]) == folder
        go_on(folder, words)
    assert not differences(whole, folder)


def test_killed_before_its_settings_were_kept(
    small: SmallRuns, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newest = Path("outputs/day/1"), Path("outputs/day/2")
    monkeypatch.setitem(PHASES, "settings", (RunDir, "write_config", 1))
    for moment, folder in (("train", older), ("settings", newest)):
        words = small.words(f"hydra.run.dir={folder}")
        Child(moment, words, tmp_path / "output", sleep).signal(signal.SIGKILL)
    status, output = captured(lambda: train_main([f"resume={newest}"]))
    assert status == 1
    assert "was stopped before it had saved its settings" in output
    assert "start it again" in output
    assert len(output.splitlines()) == 1
    status, output = captured(lambda: train_main(["resume=latest"]))
    assert status == 0, output
    assert output.startswith(f"skipped {newest}: ")
    assert not differences(whole, older)
    status, output = captured(lambda: train_main(["resume=latest"]))
    assert status == 1
    assert "no unfinished run in outputs or multirun" in output
    go_on(newest, words)  # in the same folder
    assert not differences(whole, newest)


def test_an_empty_folder_and_a_foreign_one(small: SmallRuns, tmp_path: Path) -> None:
    Path("empty").mkdir()
    Path("foreign").mkdir()
    Path("foreign/config.yaml").write_text("mine: 1")
    for folder in ("empty", "foreign", "nowhere"):
        status, output = captured(lambda folder=folder: train_main([f"resume={folder}"]))
        assert (status, len(output.splitlines())) == (1, 1)
        assert f"error: {folder}" in output
    status, output = captured(lambda: train_main(small.words("hydra.run.dir=foreign")))
    assert (status, "is taken or not empty" in output) == (1, True)
    assert os.listdir("foreign") == ["config.yaml"]


def test_a_start_that_dies_at_any_write_has_begun_or_can_be_started_again(tmp_path: Path) -> None:
    folder, begun = tmp_path / "run", []

    def start() -> None:
        with RunDir.claim(folder) as run:
            run.write_config("a: 1", ["a=1"])
            os._exit(0)

    for number in range(1, 99):

        def crash(number: int = number) -> None:
            crash_before_call(number)
            start()

        status, output = captured(crash)
        if status == 0:
            break
        assert status == CRASHED, output
        run = RunDir(folder)
        begun.append(run.begun())
        if begun[-1]:
            assert run.read_config() == ("a: 1", ["a=1"])
        else:
            assert captured(start)[0] == 0
        shutil.rmtree(folder)
    assert len(begun) > 15
    assert begun == sorted(begun)
    assert set(begun) == {False, True}


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.full)])
def test_killed_at_random_moments(
    kills: int, small: SmallRuns, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every fifth is killed again as it goes on, every seventh has loader processes."""
    started = time.perf_counter()
    status, output = captured(lambda: train_main(small.words("hydra.run.dir=timed", "report=true")))
    assert status == 0, output
    length, random, states = time.perf_counter() - started, np.random.default_rng(kills), []
    for number in range(kills):
        folder = tmp_path / f"{number}"
        loaders = ["trainer.num_workers=2"] if number % 7 == 6 else []
        words = small.words(f"hydra.run.dir={folder}", "report=true", *loaders)
        for _ in range(2 if number % 5 == 4 else 1):
            begun = RunDir(folder).begun()
            with (tmp_path / "output").open("w") as file:
                again = [f"resume={folder}"] if begun else words
                child = forked(lambda again=again: train_main(again), file.fileno())
            time.sleep(random.uniform(0, length))
            os.kill(child, signal.SIGKILL)
            assert ended(child) in (0, 128 + signal.SIGKILL), (tmp_path / "output").read_text()
        run = RunDir(folder)
        states.append(("trained" if run.trained() else "begun") if run.begun() else "nothing")
        go_on(folder, words)
        assert not differences(whole, folder), number
        shutil.rmtree(folder)
    assert len(states) == kills
    if kills == 50:
        assert set(states) == {"nothing", "begun", "trained"}


@pytest.mark.full
def test_real_processes_killed_from_their_first_moment_on(
    small: SmallRuns, whole: Path, tmp_path: Path
) -> None:
    for number, delay in enumerate(np.linspace(0.05, 10, 8)):
        folder = tmp_path / f"a (b), 'c' {number}"
        words = [*small.words(), f"hydra.run.dir={folder}"]
        for _ in range(2):
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            program = [sys.executable, str(ROOT / "train.py")]
            begun = RunDir(folder).begun()
            again = [f"resume={folder}"] if begun else words
            process = subprocess.Popen(
                [*program, *again], env=environment, stdout=subprocess.DEVNULL
            )
            try:
                process.wait(timeout=delay)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        go_on(folder, words)
        assert not differences(whole, folder), shlex.join(again)


@pytest.mark.parametrize(
    "crash_at",
    ["epoch-3", *(pytest.param(at, marks=pytest.mark.full) for at in ("epoch-1", "last"))],
)
def test_killed_within_an_epochs_end(
    crash_at: str, small: SmallRuns, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which epochs are kept must not hang on the moment: 1 is removed when 3 is written."""
    folder = tmp_path / "run"

    def crash() -> None:
        write, unlink = atomic.write_checked, Path.unlink

        def written(path: Path, data: bytes) -> None:
            write(path, data)
            if path.stem == crash_at and RunDir(folder).epochs_done() == 3:
                os._exit(CRASHED)

        def removed(path: Path, missing_ok: bool = False) -> None:
            unlink(path, missing_ok)
            if path.stem == crash_at:
                os._exit(CRASHED)

        monkeypatch.setattr(atomic, "write_checked", written)
        monkeypatch.setattr(Path, "unlink", removed)
        train_main(small.words(f"hydra.run.dir={folder}"))

    status, output = captured(crash)
    assert status == CRASHED, output
    go_on(folder, [])
    assert not differences(whole, folder)
