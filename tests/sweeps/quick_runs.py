"""train.py with a training of milliseconds, to test sweeps: the same command and run folder.

Environment: QUICK_FAULTS, what befalls which job, e.g. 3=killed,7=nan; QUICK_LOG, a file with a
line for each training that starts or ends; QUICK_SECONDS, of a training.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from reporting.run_folder import manifest, some_predictions, summary, write_epochs

from stockformer.commands.command import command
from stockformer.config.recorded import recorded
from stockformer.evaluation.record import EvaluationRecord
from stockformer.runs.folder import AfterEpoch, RunDir
from stockformer.runs.interruption import open_run


def train_quickly(
    config: DictConfig,
    folder: Path,
    overrides: list[str],
    after_epoch: AfterEpoch | None = None,
) -> None:
    """The validation rank IC grows with each epoch, and is the better the nearer lr is to 1e-3."""
    epochs = config.trainer.max_epoch
    note("start", folder)
    with open_run(folder, resume=config.resume is not None) as run:
        run.write_config(recorded(config), overrides)
        run.write_manifest(manifest() | {"kind": "run", "seed": config.seed})
        for epoch in range(1, epochs + 1):
            time.sleep(float(os.environ.get("QUICK_SECONDS", "0")) / epochs)
            rank_ic = 0.1 * epoch / epochs - 0.02 * abs(math.log10(config.optimizer.lr) + 3)
            if after_epoch is not None:
                after_epoch(epoch, {"rank_ic": rank_ic})
        suffer(faults().get(folder.name, ""))
        write_epochs(run, epochs, rank_ic)
        record = replace(evaluation(config.seed + config.trainer.batch_size), epoch=epochs)
        run.write_evaluation(record.to_json())
    note("end", folder)


def suffer(fault: str) -> None:
    if fault == "exception":
        raise RuntimeError("a bug in a model" + 100_000 * " and more")  # more than a pipe takes
    if fault == "nan":
        raise FloatingPointError("loss is not finite; lower optimizer.lr")
    if fault == "memory":
        raise MemoryError("out of memory; lower trainer.batch_size")
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def faults() -> dict[str, str]:
    return dict(word.split("=") for word in os.environ.get("QUICK_FAULTS", "").split(",") if word)


def states(folder: Path) -> Counter[str]:
    """How many runs of the sweep in the folder are in which state."""
    return Counter(RunDir(file.parent).status()["state"] for file in folder.glob("*/status.json"))


def note(what: str, folder: Path) -> None:
    if file := os.environ.get("QUICK_LOG"):
        with open(file, "a") as lines:
            lines.write(f"{what} {folder.name}\n")


@cache
def evaluation(seed: int) -> EvaluationRecord:
    return summary(some_predictions(seed=seed))


main = command(train_quickly)

if __name__ == "__main__":
    main()
