"""What the terminal shows: of a run its verdict and the table against the baselines, of several the
ranking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from stockformer.reporting import leaderboard, report, tables
from stockformer.reporting.run_reader import RecordedRun, is_run, read_run
from stockformer.reporting.tables import Table
from stockformer.reporting.trials import Trials, read_trials

LEFT_OUT = ("mae_t", "accuracy_t")
"""Columns that 80 characters have no room for; the page has them."""


SHOWN_RUNS = 10
"""So many of a ranking; the page has all."""


def analyse(folder: Path, output: Path | None) -> Iterator[RenderableType]:
    """Write the page of a run, or of the runs in a folder; what to print meanwhile.

    Raises ValueError where there is none, or the page cannot be written.
    """
    if is_run(folder):
        run = read_run(folder)
        yield from summary(run)
        path = report.write_report(run, output)
    else:
        trials = read_trials(folder)
        yield from ranking(trials)
        path = leaderboard.write_leaderboard(trials, output)
    yield Text(f"report: {path}")


def ranking(trials: Trials) -> Iterator[RenderableType]:
    """The leaders by validation, without their test metrics, and what was not completed."""
    yield Text(leaderboard.headline(trials), style="bold")
    yield Text(f"{trials.folder}: {leaderboard.subtitle(trials)}")
    if trials.completed:
        quantity = leaderboard.SCORES[trials.monitor]
        header = ("run", *trials.settings, f"validation {quantity.title}")
        rows = [
            (name, *map(str, trials.settings.loc[name]), quantity.tell(trials.score[name]))
            for name in list(trials.completed)[:SHOWN_RUNS]
        ]
        yield from (Text(), _laid_out(Table(header, rows), fold=True), Text())
    for name, run in trials.unfinished.items():
        yield Text(f"{run.status.state}: {name} {run.status.reason}".rstrip())
    for name, reason in trials.refused.items():
        yield Text(f"unreadable: {name}: {reason}")


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


def _laid_out(table: Table, fold: bool = False) -> RichTable:
    """Words to the left, numbers to the right, the marked row in bold.

    fold: what is too wide goes on in the next line.
    """
    laid_out = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for position, heading in enumerate(table.header):
        side: Literal["left", "right"] = "left" if position in table.words else "right"
        laid_out.add_column(
            heading, justify=side, no_wrap=not fold, overflow="fold", vertical="bottom"
        )
    for row in table.rows:
        laid_out.add_row(*map(Text, row), style="bold" if row[0] == table.marked else "")
    return laid_out
