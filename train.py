"""Train one model, or with -m a sweep: python train.py trainer.max_epoch=20"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from stockformer.cli import announce, command
from stockformer.config import recorded
from stockformer.interruption import own
from stockformer.run import leads


def train(config: DictConfig, folder: Path, overrides: list[str]) -> float:
    """The best validation value of `trainer.monitor`."""
    with own(folder, resume=config.resume is not None) as run:
        announce(config)
        if leads() and not run.resumed:  # a resumed run's are replaced once its data are known
            run.write_config(recorded(config), overrides)
        from stockformer.dataset import Data  # noqa: PLC0415 (torch, after checks)
        from stockformer.experiment import Experiment  # noqa: PLC0415 (torch, after checks)

        best = Experiment(config, Data.read(config)).train(run, overrides)
    if config.report and leads() and HydraConfig.get().mode is RunMode.RUN:
        from stockformer.reporting.report import try_report  # noqa: PLC0415 (plotly, after all)

        try_report(folder)
    return best


main = command(train)

if __name__ == "__main__":
    main()
