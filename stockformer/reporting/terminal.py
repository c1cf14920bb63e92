"""What the terminal shows of a run: its verdict and the table against the baselines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rich import box
from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from stockformer.reporting import tables
from stockformer.reporting.run_reader import RecordedRun
from stockformer.reporting.tables import Table

LEFT_OUT = ("mae_t", "accuracy_t")
"""Columns that 80 characters have no room for; the page has them."""


def summary(run: RecordedRun) -> Iterator[RenderableType]:
    """What to print, piece by piece. No text of the run is taken for markup."""
    yield Text(run.headline, style="bold")
    yield Text(f"{run.name}: {tables.subtitle(run)}")
    if run.comparison is not None:
        yield from (Text(), _laid_out(tables.comparison(run.comparison, LEFT_OUT)), Text())
    if run.evaluation is not None:
        yield Text(tables.HOW_TO_READ_COMPARISON, style="dim")
        for name, met, value in tables.targets(run.evaluation).rows:
            yield Text(f"target {name}: {met} ({value})")
        yield from (Text(f"note: {remark}") for remark in tables.remarks(run.evaluation))


def _laid_out(table: Table) -> RichTable:
    """Words to the left, numbers to the right, the marked row in bold."""
    laid_out = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for position, heading in enumerate(table.header):
        side: Literal["left", "right"] = "left" if position in table.words else "right"
        laid_out.add_column(heading, justify=side, no_wrap=True, vertical="bottom")
    for row in table.rows:
        laid_out.add_row(*map(Text, row), style="bold" if row[0] == table.marked else "")
    return laid_out
