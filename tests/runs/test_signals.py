"""A signal ends a run within seconds, whatever it is doing, and the run can go on exactly."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs.small_run import SmallRuns, differences, ended, forked, train_main

from stockformer import experiment
from stockformer.experiment import Experiment
from stockformer.runs.folder import RunDir
from stockformer.runs.interruption import open_run
from stockformer.training.checkpoint_manager import CheckpointManager
from stockformer.training.evaluate import Evaluator
from stockformer.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
LIMIT = 5.0  # seconds from the signal to the end
PHASES: dict[str, tuple[Any, str, int]] = {  # the n-th call of what the signal comes into
    "load": (experiment, "read_dataset", 1),
    "train": (Trainer, "take_step", 6),
    "validate": (Trainer, "validate", 2),
    "evaluate": (Evaluator, "evaluate", 2),
    "save": (CheckpointManager, "save_epoch", 2),
    "test": (Experiment, "test", 1),
}


class Child:
    """`python train.py WORDS` in a copy of this process, which stops within a call and waits.

    wait: what it does there, e.g. sleep; "save" cannot be waited in, it is what is waited for.
    """

    def __init__(
        self, phase: str, words: list[str], output: Path, wait: Callable[[], object] | None = None
    ) -> None:
        reader, writer = os.pipe()
        owner, name, number = PHASES[phase]

        def run() -> None:
            os.setsid()
            self.patch(owner, name, number, writer, wait)
            train_main(words)

        self.output = output
        with output.open("w") as file:
            self.id = forked(run, file.fileno())
        os.close(writer)
        assert os.read(reader, 1), output.read_text()  # it is there
        os.close(reader)

    @staticmethod
    def patch(
        owner: Any, name: str, number: int, writer: int, wait: Callable[[], object] | None
    ) -> None:
        function, calls = getattr(owner, name), 0

        def watched(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.write(writer, b"!")
                if wait is not None:
                    wait()
            return function(*arguments)

        setattr(owner, name, watched)

    def signal(self, number: int, group: bool = False) -> tuple[int, float]:
        """Send it; the exit status, and the seconds it took."""
        started = time.perf_counter()
        (os.killpg if group else os.kill)(self.id, number)
        status = ended(self.id)
        return status, time.perf_counter() - started


def sleep() -> None:
    time.sleep(60)


def require_left(child: Child, number: int, folder: Path, group: bool = False) -> float:
    """It ends with the signal's status, and says in status.json what it kept; the seconds."""
    status, seconds = child.signal(number, group)
    output = child.output.read_text()
    assert status == 128 + number, output
    assert seconds < LIMIT
    assert "Traceback" not in output
    said = json.loads((folder / "status.json").read_text())
    assert said["state"] == "interrupted"
    assert said["reason"].startswith(signal.Signals(number).name)
    return seconds


def resume(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "resumed").open("w") as file:
        status = ended(forked(lambda: train_main([f"resume={folder}"]), file.fileno()))
    assert status == 0, (tmp_path / "resumed").read_text()


CASES = [
    *((phase, signal.SIGTERM, 0) for phase in PHASES),
    ("train", signal.SIGINT, 0),
    ("train", signal.SIGUSR1, 2),
]
ALL = [
    (phase, number, workers)
    for phase in PHASES
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    for workers in (0, 2)
]


@pytest.mark.parametrize(
    ("phase", "number", "workers"),
    [*CASES, *(pytest.param(*c, marks=pytest.mark.full) for c in ALL if c not in CASES)],
)
def test_a_signal_ends_a_run_that_then_goes_on_exactly(
    small: SmallRuns,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    number: int,
    workers: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    words = small.words(f"hydra.run.dir={folder}", f"trainer.num_workers={workers}")
    child = Child(phase, words, tmp_path / "output", None if phase == "save" else sleep)
    require_left(child, number, folder)
    if phase == "load":
        assert "before the first step: continue with resume=" in child.output.read_text()
    resume(folder, tmp_path)
    assert not differences(whole, folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_loaders_processes_too(
    small: SmallRuns, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As a scheduler or a terminal sends it: their death must not be what the run dies of."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    words = small.words(f"hydra.run.dir={folder}", "trainer.num_workers=2")
    child = Child(
        "train", words, tmp_path / "output", lambda: [time.sleep(0.02) for _ in range(99)]
    )
    require_left(child, number, folder, group=True)
    resume(folder, tmp_path)
    assert not differences(whole, folder)


def test_one_long_operation_need_not_end_first(
    small: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"

    def backward() -> None:
        large = torch.rand(8000, 8000, requires_grad=True)
        (large @ large).sum().backward()

    words = small.words(f"hydra.run.dir={folder}")
    child = Child("train", words, tmp_path / "output", backward)
    assert require_left(child, signal.SIGTERM, folder) < 3


def test_a_second_signal_ends_it_at_once(
    small: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the state cannot be kept: an epoch is being written, for a minute."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    words = small.words(f"hydra.run.dir={folder}")
    child = Child("save", words, tmp_path / "output", sleep)
    os.kill(child.id, signal.SIGTERM)
    time.sleep(0.5)
    assert os.waitpid(child.id, os.WNOHANG) == (0, 0)  # it waits
    status, seconds = child.signal(signal.SIGINT)
    assert status == 128 + signal.SIGINT
    assert seconds < 1


def test_a_signal_stops_the_whole_sweep(
    small: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = small.words("-m", "seed=0,1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    child = Child("train", words, tmp_path / "output", sleep)
    require_left(child, signal.SIGTERM, tmp_path / "sweep/0")
    assert not (tmp_path / "sweep/1").exists()
    again = f"all of it kept: continue with -m resume={tmp_path}/sweep"
    assert again in child.output.read_text()


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_real_process(small: SmallRuns, whole: Path, tmp_path: Path, number: int) -> None:
    """The command itself, at whatever it is doing."""
    for delay in (0.0, 0.1, 0.3):
        folder = tmp_path / f"{delay}"
        words = small.words(f"hydra.run.dir={folder}", "trainer.max_epoch=2000")
        process = subprocess.Popen(
            [sys.executable, ROOT / "train.py", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (folder / "metrics.csv").exists():
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(delay)
        started = time.perf_counter()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert time.perf_counter() - started < LIMIT
        assert process.returncode == 128 + number
        assert errors == ""
        assert RunDir(folder).status()["state"] == "interrupted"


def test_a_run_that_has_ended_is_not_held_in_memory(tmp_path: Path) -> None:
    """A sweep's jobs are runs of one process: each would keep its model and its data."""

    class Kept:
        def save_on_interrupt(self) -> str:
            return ""

    kept = Kept()
    with open_run(tmp_path / "run", resume=False) as run:
        run.save_on_interrupt = kept.save_on_interrupt
    left = weakref.ref(kept)
    del kept, run
    gc.collect()
    assert left() is None
