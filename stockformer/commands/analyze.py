"""`analyze.py`: show a run, or rank the runs of a folder, and write the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType

from stockformer.commands.plain_command import Words
from stockformer.config.quoting import as_path
from stockformer.reporting import terminal
from stockformer.runs.recorded_run import newest_run


def analyze(words: Words) -> Iterator[RenderableType]:
    """Yields what to print. Raises ValueError if there is nothing to show."""
    folder = as_path(words["run"]) if "run" in words else newest_run(Path())
    yield from terminal.analyse(folder, as_path(words["output"]) if "output" in words else None)
