"""A run's messages, on the terminal and in its own log file."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from stockformer.runs import atomic
from stockformer.runs.console import make_console, make_streams_resilient, printable, why_lost

log = logging.getLogger(__name__)


def is_main_process() -> bool:
    """Whether this is the one process of a run, or the first of those torchrun started."""
    return os.environ.get("RANK", "0") == "0"


class PrintableFormatter(logging.Formatter):
    """A log's lines, whatever they were made of."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class LogFile(logging.FileHandler):
    """A log that cannot be written ends the run: a full disk is no place to go on quietly."""

    def _open(self) -> Any:
        return os.fdopen(
            atomic.open_to_append(Path(self.baseFilename)),
            "a",
            encoding="utf-8",
            errors="backslashreplace",
        )

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise atomic.not_written(Path(self.baseFilename), error) from error
        super().handleError(record)


class Terminal(logging.Handler):
    """Log records on the terminal, each as it is; coloured where the terminal can (NO_COLOR)."""

    def __init__(self) -> None:
        super().__init__(logging.INFO if is_main_process() else logging.ERROR)
        self.only_warnings = False
        self.shown: set[str] = set()
        self.console = make_console()
        self.lost = ""
        self.setFormatter(PrintableFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        of_sweep = record.name.startswith("stockformer.sweeps")
        if self.only_warnings and not of_sweep and self._is_known(record):
            return
        style = "yellow" if record.levelno >= logging.WARNING else None
        text = self.format(record)
        self.console.print(text, style=style, markup=False, highlight=True, soft_wrap=True)
        if not self.lost and (lost := why_lost()):
            self.lost = lost
            log.warning("the terminal is gone (%s): going on without it, see the run's log", lost)

    def _is_known(self, record: logging.LogRecord) -> bool:
        """Whether it is no warning, or another run of the sweep has given it."""
        text = record.getMessage()
        if record.levelno < logging.WARNING or text in self.shown:
            return True
        self.shown.add(text)
        return False


def start_log(*, only_warnings: bool = False) -> None:
    """Show log lines of this project on the terminal, each once, for as long as there is one.

    only_warnings: a sweep's, each once; its runs' other messages are in their own logs.
    """
    make_streams_resilient()
    package = logging.getLogger("stockformer")
    package.setLevel(logging.DEBUG)
    if not any(isinstance(handler, Terminal) for handler in package.handlers):
        package.addHandler(Terminal())
    for handler in package.handlers:
        if isinstance(handler, Terminal):
            handler.only_warnings = only_warnings
