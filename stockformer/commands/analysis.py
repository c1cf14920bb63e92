"""What `analyze.py` does: judge a model again if asked, then say and show what there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType

from stockformer.commands.arguments import Arguments
from stockformer.reporting import terminal
from stockformer.runs import recorded_run as run_reader


def analyse(asked: Arguments) -> Iterator[RenderableType]:
    """Write the page of what was asked for; what to print meanwhile.

    Raises ValueError where that is not there, or cannot be judged.
    """
    if asked.ensemble:
        from stockformer.runs.ensemble import ensemble  # noqa: PLC0415 (torch, only here)

        folder = ensemble(asked.ensemble, asked.into)
    else:
        folder = asked.run or run_reader.newest_run(Path())
    if asked.evaluate:
        from stockformer.runs.reevaluation import reevaluate  # noqa: PLC0415

        folder = reevaluate(folder, asked.overrides, asked.into)
    yield from terminal.analyse(folder, asked.output)
