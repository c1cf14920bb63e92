"""Train one model, or with -m a sweep: python train.py trainer.max_epoch=20"""

from pathlib import Path

from omegaconf import DictConfig

from stockformer.commands.command import command, log_config
from stockformer.config.recorded import recorded
from stockformer.runs.folder import AfterEpoch
from stockformer.runs.interruption import open_run
from stockformer.runs.logs import is_main_process


def train(
    config: DictConfig,
    folder: Path,
    overrides: list[str],
    after_epoch: AfterEpoch | None = None,
) -> float:
    """The best validation value of `trainer.monitor`."""
    with open_run(folder, resume=config.resume is not None) as run:
        log_config(config)
        if (
            is_main_process() and not run.resumed
        ):  # a resumed run's are replaced once its data are known
            run.write_config(recorded(config), overrides)
        from stockformer.experiment import Experiment, read_dataset  # noqa: PLC0415 (torch, after checks)

        return Experiment(config, read_dataset(config)).train(run, overrides, after_epoch)


def report(config: DictConfig, folder: Path) -> None:
    if config.report and is_main_process():
        from stockformer.reporting.report import try_report  # noqa: PLC0415 (plotly, after all)

        try_report(folder)


main = command(train, after_run=report)
