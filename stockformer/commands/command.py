"""Turns a function of a checked configuration into a command: check, run, errors in one line."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import platform
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from stockformer import __version__
from stockformer.commands.single import single_run
from stockformer.commands.sweep import Stopped, requested_sweep, sweep
from stockformer.config.build import check_config
from stockformer.config.composition import names_config_dir, options_of
from stockformer.config.hydra_lines import VERSION_BASE, only_building
from stockformer.config.overrides import check_sources
from stockformer.config.quoting import as_path, quoted
from stockformer.config.schema import CONFIG_NAME, config_folder
from stockformer.config.trust import trust_named
from stockformer.runs.console import make_console, make_streams_resilient, printable
from stockformer.runs.logs import start_log
from stockformer.runs.resume import continued, names_a_run, requested_run

log = logging.getLogger(__name__)

# A user's mistake is one line; anything else is ours and shows its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError, MemoryError)
# They would compose another configuration than the one that is checked, or unpickle one.
REFUSED_OPTIONS = ("experimental_rerun", "config_name", "config_path")
CONFIG_DIR = ("--config-dir", "-cd")
DEFAULT_EXPERIMENT = "experiment=demo"
MAX_WIDTH = 110  # characters of a line of the configuration's tree
TERMINAL_FORMATTER = "stockformer.runs.logs.PrintableFormatter"  # of hydra_logging/plain.yaml
UNBROKEN = "\0"  # a space within a value, at which no line is broken
MULTIRUN = {"-m", "--multirun"}
PATH_KEY = re.compile(r"\+{0,2}(hydra\.(run|sweep)\.dir|([\w.]+[._])?(dir|file|path|root))")


def command(
    function: Callable[..., object],
    run_folder: bool = True,
    after_run: Callable[[DictConfig, Path], None] | None = None,
) -> Callable[[], None]:
    """Make `function(config, folder, overrides)` a program; with -m a sweep of runs, each called
    with `after_epoch`, too.

    Without `run_folder` nothing is written. `after_run(config, folder)` follows a single run, not a
    job of a sweep. A mistake of the user ends the program with one line and status 1, before any
    data are read where the configuration shows it.
    """

    def run(config: DictConfig, folder: Path, overrides: list[str]) -> None:
        start_log()
        function(config, folder, overrides)
        if after_run is not None:
            after_run(config, folder)

    def main() -> None:
        make_streams_resilient()
        # Hydra hands the exception on instead of printing a message of its own.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            if "--version" in sys.argv[1:]:
                sys.stdout.write(version())
                return
            words = sys.argv[1:] = with_config_dir(sys.argv[1:])
            trust_named(words)
            if any(map(names_a_run, words)):
                start_log()
            several = bool(MULTIRUN & set(words))
            folder = requested_sweep(words) if several else requested_run(words)
            arguments = parsed_arguments(run_folder)
            if is_shown_by_hydra(arguments) and folder is None:
                with only_building([TERMINAL_FORMATTER]), options_of(arguments.overrides):
                    hydra.main(
                        config_path=str(config_folder()), config_name=CONFIG_NAME, **VERSION_BASE
                    )(nothing)()
            elif several:
                sys.exit(sweep(function, arguments.overrides, folder))
            elif folder is not None:
                resumed = resumed_run(folder, arguments, run_folder)
                if resumed is not None:
                    run(*resumed)
            else:
                run(*single_run(arguments.overrides))
        except USER_ERRORS as error:
            sys.exit(printable(f"error: {error}"))
        except Stopped as stop:
            sys.exit(128 + stop.number)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            sys.exit(128 + signal.SIGINT)

    return main


def nothing(config: DictConfig) -> None:
    """Hydra only shows the configuration."""


def parsed_arguments(run_folder: bool) -> argparse.Namespace:
    """What Hydra's parser makes of the command line. Raises ValueError for what is refused.

    What Hydra shows itself, such as `--help`, is checked here.
    """
    demo = needs_default_experiment(sys.argv[1:])
    sys.argv[1:] = as_hydra_reads(sys.argv[1:])
    arguments = get_args_parser().parse_args()
    for name in REFUSED_OPTIONS:
        if getattr(arguments, name):
            raise ValueError(f"--{name.replace('_', '-')} is not supported")
    if demo and not arguments.shell_completion:
        sys.argv.insert(1, DEFAULT_EXPERIMENT)  # argparse wants overrides side by side
        arguments.overrides.append(DEFAULT_EXPERIMENT)
    if arguments.multirun and not run_folder:
        raise ValueError("-m: this command checks one configuration at a time")
    if is_shown_by_hydra(arguments):
        if not arguments.shell_completion:
            check_sources(arguments.overrides)  # Hydra sets its logging up for them too
        return arguments
    require_values(arguments.overrides)
    return arguments


def is_shown_by_hydra(arguments: argparse.Namespace) -> bool:
    """Whether Hydra shows help, the configuration or completions, and nothing is run."""
    names = ("help", "hydra_help", "info", "cfg", "shell_completion")
    return any(getattr(arguments, name) for name in names)


def resumed_run(
    folder: Path, arguments: argparse.Namespace, run_folder: bool
) -> tuple[DictConfig, Path, list[str]] | None:
    """Likewise of the run in `folder`, to be continued; None if there is nothing more to do."""
    if not run_folder:
        raise ValueError("resume: only train.py resumes")
    again = continued(folder, arguments.overrides)
    if again is None:
        return None
    config, overrides = again
    if arguments.cfg == "job":
        sys.stdout.write(OmegaConf.to_yaml(config, resolve=arguments.resolve))
        return None
    return config, folder.absolute(), overrides


def with_config_dir(words: Sequence[str]) -> list[str]:
    """The words with --config-dir FOLDER as config_dir=FOLDER, its path absolute: so it is recorded
    with the run, and holds where the run is continued."""
    rest = list(words)
    kept: list[str] = []
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if option in CONFIG_DIR:
            if not equals and rest:
                value = rest.pop(0)
            if not value:
                raise ValueError(f"{option}: has no value; write {option} FOLDER")
            word = f"config_dir={value}"
        if names_config_dir(word) and not word.endswith(("=", "=null")):
            word = f"config_dir={quoted(str(as_path(word.partition('=')[2]).absolute()))}"
        kept.append(word)
    return kept


def needs_default_experiment(words: Sequence[str]) -> bool:
    """Whether a command line names neither a dataset nor an experiment, and resumes no run."""
    named = {word.lstrip("+~").partition("=")[0] for word in words}
    return not named & {"dataset", "experiment", "resume"}


def version() -> str:
    """One line for --version: ours, and of what results may depend on."""
    torch, hydra_core = (importlib.metadata.version(name) for name in ("torch", "hydra-core"))
    python = platform.python_version()
    return f"stockformer {__version__} (torch {torch}, Python {python}, Hydra {hydra_core})\n"


def as_hydra_reads(words: Sequence[str]) -> list[str]:
    """The words of a command line in the order and form that Hydra's parser wants.

    -m comes first: `a=1 -m b=1,2` is what people type. A path is quoted where Hydra's grammar has
    another use for its characters. resume= is left out: it is ours, and not composed.
    """
    several = bool(MULTIRUN & set(words))
    kept = [path_quoted(word, several) for word in words if not names_a_run(word)]
    return sorted(kept, key=lambda word: word not in MULTIRUN)


def path_quoted(word: str, several: bool) -> str:
    """The word with its value in quotes, if that is a path which is none to Hydra as it is.

    several: commas separate the values of a sweep.
    """
    key, _, value = word.partition("=")
    if not (value and PATH_KEY.fullmatch(key)):
        return word
    try:
        read = OverridesParser.create().parse_override(word)
    except HydraException:
        return f"{key}={quoted(value)}"
    if read.is_sweep_override():
        return word if several else f"{key}={quoted(value)}"
    other = isinstance(read.value(), str) and read.value() != value  # e.g. a space at its end
    return f"{key}={quoted(value)}" if other and value[0] not in "'\"" else word


def require_values(overrides: Sequence[str]) -> None:
    """Raises ValueError for a key alone."""
    for word in overrides:
        if "=" not in word and not word.startswith("~"):
            raise ValueError(f"{word}: has no value; write {word}=VALUE")


def log_config(config: DictConfig) -> None:
    """Check a job's values, of a sweep only some were before, and log the configuration."""
    check_config(config)
    # Of a resumed run the command line chose nothing.
    choices = HydraConfig.get().runtime.choices if config.resume is None else {}
    log.info("%s", describe(config, choices, min(MAX_WIDTH, make_console().width)))


def describe(config: DictConfig, choices: dict[str, Any], width: int) -> str:
    """The configuration as a short tree: a line a group, its choice, its plain values.

    Lines are broken between values; one that is longer than `width` characters stays whole. rich's
    tree would crop or split it, and a path must be one word that can be copied.
    """
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
            first, *more = textwrap.wrap(
                "  ".join(value.replace(" ", UNBROKEN) for value in shown),
                max(width - 32, 20),
                break_long_words=False,
                break_on_hyphens=False,
            ) or [""]
            branch = [f"├─ {group!s:11}{choice:18}{first}".rstrip()]
            lines.append("\n".join([*branch, *(f"│{'':31}{rest}" for rest in more)]))
    lines[-1] = lines[-1].replace("├", "└").replace("│", " ")
    return "\n".join(lines).replace(UNBROKEN, " ")


def plain(value: float | str | Enum) -> str:
    return value.name if isinstance(value, Enum) else str(value)
