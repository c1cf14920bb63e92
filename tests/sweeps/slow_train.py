"""train.py whose epochs take a second longer, so that a job cannot end within Slurm's minute."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from stockformer.commands.command import command
from stockformer.programs.train import train
from stockformer.runs.folder import AfterEpoch


def train_slowly(
    config: DictConfig,
    folder: Path,
    overrides: list[str],
    after_epoch: AfterEpoch | None = None,
) -> float:
    def wait(epoch: int, metrics: Mapping[str, float]) -> None:
        time.sleep(1)
        if after_epoch is not None:
            after_epoch(epoch, metrics)

    return train(config, folder, overrides, wait)


main = command(train_slowly)

if __name__ == "__main__":
    main()
