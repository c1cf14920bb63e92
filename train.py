"""Train one model, or with -m a sweep: python train.py trainer.max_epoch=20"""

from pathlib import Path

from omegaconf import DictConfig

from stockformer.cli import command


@command
def main(config: DictConfig, folder: Path, overrides: list[str]) -> float:
    from stockformer.run import RunDir  # noqa: PLC0415

    with RunDir.claim(folder) as run:
        from stockformer.experiment import Experiment  # noqa: PLC0415 (torch)

        return Experiment(config).train(run, overrides)


if __name__ == "__main__":
    main()
