"""Small runs to interrupt, damage and compare."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig
from small_data import Phase5Files, composed

from stockformer.data.dataset import Dataset
from stockformer.experiment import Experiment, read_dataset
from stockformer.runs.folder import RunDir
from stockformer.training.checkpoint import load_checkpoint, read_checkpoint
from stockformer.training.trainer import Trainer

TIMING = ["seconds", "samples_per_second", "peak_memory_mib"]
# Three epochs of four steps, the second the best; dropout is on, epochs are kept.
SETTINGS = (
    *("dataset=nifty200_phase5", "model.width=4", "model.layers=1", "dataset.lookback=5"),
    *("trainer.device=cpu", "trainer.max_epoch=3", "trainer.batch_size=16", "optimizer.lr=0.01"),
    *("trainer.keep_every=1", "trainer.keep=2", "scheduler.patience=0", "seed=3", "report=false"),
)


class Stopped(BaseException):
    """What a test ends a run with, where a signal would end the process."""


class SmallRuns:
    """Runs on one small data set, read once."""

    def __init__(self, folder: Path) -> None:
        self.files = Phase5Files(folder / "data")

    def words(self, *changes: str) -> list[str]:
        """The command line of such a run."""
        data = self.files.data_dir
        return [*SETTINGS, f"paths.data_dir={data}", f"paths.cache_dir={data}/cache", *changes]

    def config(self, *changes: str) -> DictConfig:
        return composed(*self.words(*changes))

    @cached_property
    def data(self) -> Dataset:
        return read_dataset(self.config())

    def experiment(self, *changes: str) -> Experiment:
        """`changes` of anything but the data."""
        config = self.config(*changes)
        return Experiment(config, self.data)

    def run(self, folder: Path, *changes: str) -> None:
        """A whole run, or the rest of one that `folder` holds."""
        experiment = self.experiment(*changes)
        with (RunDir.reopen if folder.exists() else RunDir.claim)(folder) as run:
            experiment.train(run, self.words(*changes))


class Clock:
    """Stops the runs of a process, as a signal would, at the n-th of its moments.

    A moment is one within a forward or a backward pass, after a step, before and after a
    validation, after an epoch was written, and before and within the test.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen, self.at = 0, 0
        self.run: RunDir | None = None
        self.watch(patch, Trainer, "take_step", after=True)
        self.watch(patch, Trainer, "validate", before=True, after=True)
        self.watch(patch, Trainer, "close_epoch", after=True)
        self.watch(patch, Experiment, "test", before=True)
        self.watch(patch, sys.modules[Experiment.__module__], load_checkpoint.__name__, after=True)
        train = Experiment.train

        def watched(experiment: Experiment, run: RunDir, overrides: list[str]) -> float:
            self.run = run
            *_, module = (m for m in experiment.model.modules() if isinstance(m, torch.nn.Linear))
            module.register_forward_hook(lambda *_: self.tick())
            module.weight.register_hook(lambda _: self.tick())
            return train(experiment, run, overrides)

        patch.setattr(Experiment, "train", watched)

    def watch(
        self,
        patch: pytest.MonkeyPatch,
        owner: Any,
        name: str,
        *,
        before: bool = False,
        after: bool = False,
    ) -> None:
        function = getattr(owner, name)

        def watched(*arguments: Any) -> Any:
            if before:
                self.tick()
            result = function(*arguments)
            if after:
                self.tick()
            return result

        patch.setattr(owner, name, watched)

    def stop_at(self, moment: int) -> None:
        """0: never."""
        self.seen, self.at = 0, moment

    def tick(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            assert self.run is not None
            self.run.save_on_interrupt()
            raise Stopped


def left_by(folder: Path) -> dict[str, Any]:
    """Everything of a run that must not depend on whether it was interrupted."""
    left: dict[str, Any] = {"predictions": (folder / "predictions.parquet").read_bytes()}
    metrics = pd.read_csv(folder / "metrics.csv").drop(columns=TIMING, errors="ignore")
    left["metrics"] = metrics.to_csv()
    for path in sorted((folder / "checkpoints").glob("*.safetensors")):
        tensors, facts = read_checkpoint(path)
        for name, tensor in tensors.items():
            left[f"{path.stem}/{name}"] = (str(tensor.dtype), tensor.numpy().tobytes())
        for row in facts.get("train_state", {}).get("history", []):
            for column in TIMING:
                del row[column]
        facts.get("train_state", {}).pop("seconds", None)
        del facts["run"]
        left[f"{path.stem}/facts"] = json.dumps(facts)
    return left


def differences(one: Path, other: Path) -> list[str]:
    """What two runs did not leave alike. `previous` is the epoch before, or the interruption."""
    left, right = left_by(one), left_by(other)
    return [
        name
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name) and not name.startswith("previous/")
    ]


def forked(function: Callable[[], object], output: int) -> int:
    """Start `function` in a copy of this process that prints to the open file `output`; its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        logging.getLogger("stockformer").handlers.clear()
        # pytest's would keep what an ordinary process prints.
        threading.excepthook = threading.__excepthook__
        sys.unraisablehook = sys.__unraisablehook__
        function()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(child: int) -> int:
    """Its exit status, 128 + n if signal n ended it."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status >= 0 else 128 - status


def captured(function: Callable[[], object]) -> tuple[int, str]:
    """Exit status and output of `function` in a copy of this process."""
    reader, writer = os.pipe()
    child = forked(function, writer)
    os.close(writer)
    with os.fdopen(reader) as file:
        output = file.read()
    return ended(child), output


def train_main(words: list[str]) -> None:
    """What `python train.py WORDS` does."""
    import train

    sys.argv = ["train.py", *words]
    train.main()
