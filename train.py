"""Train one model, or with -m a sweep: python train.py trainer.max_epoch=20"""

from pathlib import Path

from omegaconf import DictConfig

from stockformer.cli import announce, command
from stockformer.interruption import own


def train(config: DictConfig, folder: Path, overrides: list[str]) -> float:
    """The best validation value of `trainer.monitor`."""
    with own(folder, resume=config.resume is not None) as run:
        announce(config)
        from stockformer.experiment import Data, Experiment  # noqa: PLC0415 (torch, after checks)

        return Experiment(config, Data.read(config)).train(run, overrides)


main = command(train)

if __name__ == "__main__":
    main()
