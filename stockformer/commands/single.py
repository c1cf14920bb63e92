"""The checked configuration of one run, from its command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig

from stockformer.config.overrides import check_command_line, is_search, without_hydra
from stockformer.runs.console import program

SWEEP_SETTINGS = (
    "hydra/launcher",
    "hydra.launcher",
    "hydra/sweeper",
    "hydra.sweeper",
    "hydra.sweep.",
)


def single_run(
    overrides: Sequence[str], *, in_sweep: bool = False
) -> tuple[DictConfig, Path, list[str]]:
    """The checked configuration of one run, its folder, and the overrides it records.

    Raises ValueError for what is wrong with them. Not `hydra.main`, which would compose the
    configuration twice more, and make the folder before it is claimed.
    """
    for word in overrides:
        if not in_sweep and word.lstrip("+~").startswith(SWEEP_SETTINGS):
            raise ValueError(f"{word}: needs -m, it is a setting of sweeps")
    config = check_command_line(overrides, multirun=False)
    if is_search(config) and not in_sweep:
        raise ValueError(f"a search needs -m, e.g. {program('train')} -m search=optuna")
    HydraConfig.instance().set_config(config)
    node = config.hydra
    configure_log(node.job_logging, node.verbose)
    return without_hydra(config), Path(node.run.dir).absolute(), list(node.overrides.task)
