"""Turns a function of a checked configuration into a command: check, run, errors in one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from stockformer.config import CONFIG_NAME, check_command_line, check_values, config_folder

log = logging.getLogger(__name__)


def command(function: Callable[[DictConfig, Path, list[str]], float | None]) -> Callable[[], None]:
    """Make `function(config, folder, overrides)` a program; its result is a sweep's objective."""

    def job(config: DictConfig) -> float | None:
        start_log()
        check_values(config)  # of a sweep only the first job was checked before
        hydra_config = HydraConfig.get()
        folder = Path(hydra_config.runtime.output_dir)
        return function(config, folder, list(hydra_config.overrides.task))

    def main() -> None:
        # Hydra hands the exception on instead of printing a message of its own.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        # Hydra's parser wants overrides in one piece: `a=1 -m b=1,2` is what people type.
        sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
        arguments = get_args_parser().parse_args()
        try:
            if not (arguments.help or arguments.hydra_help or arguments.info or arguments.cfg):
                check_command_line(arguments.overrides)
            hydra.main(
                version_base="1.3", config_path=str(config_folder()), config_name=CONFIG_NAME
            )(job)()
        except (ValueError, OSError, ArithmeticError) as error:
            log.debug("traceback", exc_info=True)
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit("interrupted")

    return main


def start_log() -> None:
    """Log lines of this project on the terminal, each once, as plain text."""
    package = logging.getLogger("stockformer")
    package.setLevel(logging.DEBUG)
    if not package.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setLevel(logging.INFO)
        handler.setFormatter(logging.Formatter("%(message)s"))
        package.addHandler(handler)
