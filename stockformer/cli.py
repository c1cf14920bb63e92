"""Turns a function of a checked configuration into a command: check, run, errors in one line."""

from __future__ import annotations

import logging
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from stockformer.config import CONFIG_NAME, check_values, config_folder
from stockformer.overrides import check_command_line, check_sources
from stockformer.printable import PrintableFormatter, printable
from stockformer.resume import asked_run, continued
from stockformer.run import leads

log = logging.getLogger(__name__)

# What a user can mend, said in one line; anything else is our mistake and shows its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError, MemoryError)
# They would compose another configuration than the one that is checked, or unpickle one.
REFUSED_OPTIONS = ("experimental_rerun", "config_name", "config_path", "config_dir")
Job = Callable[[DictConfig, Path, list[str]], float | None]


def command(function: Job, run_folder: bool = True) -> Callable[[], None]:
    """Make `function(config, folder, overrides)` a program; its result is a sweep's objective.

    Without `run_folder` nothing is written. A mistake of the user ends it with one line and
    status 1, before any data are read where the configuration shows it.
    """

    resumed: list[tuple[DictConfig, list[str]]] = []

    def job(config: DictConfig) -> float | None:
        start_log()
        hydra_config = HydraConfig.get()
        folder = Path(hydra_config.runtime.output_dir)
        words = list(hydra_config.overrides.task)
        if resumed:
            config, words = resumed.pop()
        try:
            return function(config, folder, words)
        except USER_ERRORS as error:
            if hydra_config.mode is RunMode.MULTIRUN:  # Hydra keeps it and runs the other jobs
                log.error("job %s failed: %s", hydra_config.job.num, error)
                raise
            sys.exit(printable(f"error: {error}"))

    def main() -> None:
        # Hydra hands the exception on instead of printing a message of its own.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        # Hydra's parser wants overrides in one piece: `a=1 -m b=1,2` is what people type.
        sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
        arguments = get_args_parser().parse_args()
        try:
            for name in REFUSED_OPTIONS:
                if getattr(arguments, name):
                    raise ValueError(f"--{name.replace('_', '-')} is not supported")
            if arguments.multirun and not run_folder:
                raise ValueError("-m: this command checks one configuration at a time")
            if arguments.help or arguments.hydra_help or arguments.info or arguments.cfg:
                check_sources(arguments.overrides)  # Hydra sets its logging up for them too
            else:
                check_command_line(arguments.overrides, multirun=arguments.multirun)
            if not (run_folder and leads()):
                sys.argv.append("hydra.run.dir=.")  # Hydra makes the folder otherwise
            if (run := asked_run(arguments.overrides)) is not None:
                if arguments.multirun or not run_folder:
                    raise ValueError("resume: only train.py resumes, and one run at a time")
                start_log()
                again = continued(run, arguments.overrides)
                if again is None:
                    return
                resumed.append(again)
                sys.argv.append(f"hydra.run.dir='{run}'")
            hydra.main(
                version_base="1.3", config_path=str(config_folder()), config_name=CONFIG_NAME
            )(job)()
        except USER_ERRORS as error:
            sys.exit(printable(f"error: {error}"))
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            sys.exit(128 + signal.SIGINT)

    return main


def announce(config: DictConfig) -> None:
    """Check a job's values, of a sweep only some were before, and say what they are."""
    check_values(config)
    # Of a resumed run the command line chose nothing.
    choices = HydraConfig.get().runtime.choices if config.resume is None else {}
    log.info("%s", describe(config, choices))


def describe(config: DictConfig, choices: dict[str, Any]) -> str:
    """The configuration as a short tree: a line a group, its choice, its plain values."""
    lines = ["configuration"]
    for group, node in config.items():
        choice = choices.get(str(group)) or ""
        values = node.items() if isinstance(node, DictConfig) else [("", node)]
        shown = [
            f"{key}={plain(value)}" if key else plain(value)
            for key, value in ((str(name), value) for name, value in values)
            if key not in ("_target_", "name") and isinstance(value, (int, float, str, Enum))
        ]
        if choice or any(shown):
            first, *more = textwrap.wrap("  ".join(shown), 78) or [""]
            branch = [f"├─ {group!s:11}{choice:18}{first}".rstrip()]
            lines.append("\n".join([*branch, *(f"│{'':31}{rest}" for rest in more)]))
    lines[-1] = lines[-1].replace("├", "└").replace("│", " ")
    return "\n".join(lines)


def plain(value: float | str | Enum) -> str:
    return value.name if isinstance(value, Enum) else str(value)


class Terminal(logging.Handler):
    """Log records on the terminal, each as it is; coloured where the terminal can (NO_COLOR)."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 (not for a config error)

        super().__init__(logging.INFO if leads() else logging.ERROR)
        self.console = Console(highlight=True)
        self.setFormatter(PrintableFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        self.console.print(self.format(record), style=style, markup=False, soft_wrap=True)


def start_log() -> None:
    """Show log lines of this project on the terminal, each once."""
    package = logging.getLogger("stockformer")
    package.setLevel(logging.DEBUG)
    if not any(isinstance(handler, Terminal) for handler in package.handlers):
        package.addHandler(Terminal())
