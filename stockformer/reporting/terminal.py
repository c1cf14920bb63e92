"""Terminal output of analyze.py: a run's verdict and comparison table, or the ranking of runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pandas as pd
from rich import box
from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from stockformer.evaluation.record import closing_table
from stockformer.reporting import leaderboard, report, tables
from stockformer.reporting.tables import Table
from stockformer.runs.console import printable
from stockformer.runs.recorded_run import RecordedRun, is_run, read_run
from stockformer.sweeps.trials import Trials, read_trials

SHOWN_RUNS = 10
"""Number of runs of a ranking on the terminal; the page has all."""


def analyse(folder: Path, output: Path | None) -> Iterator[RenderableType]:
    """Write the page of a run, or of the runs in a folder; yields what to print.

    Raises ValueError if there is no run, or the page cannot be written.
    """
    if is_run(folder):
        run = read_run(folder)
        yield from summary(run)
        path = report.write_report(run, output)
    else:
        trials = read_trials(folder)
        yield from ranking(trials)
        path = leaderboard.write_leaderboard(trials, output)
    yield _text(f"report: {path}")


def ranking(trials: Trials) -> Iterator[RenderableType]:
    """The best runs by validation, without test metrics, and the runs that were not completed."""
    yield _text(leaderboard.headline(trials), style="bold")
    yield _text(f"{trials.folder}: {leaderboard.subtitle(trials)}")
    if trials.completed:
        yield from (Text(), configurations(trials), Text())
    for name, run in trials.unfinished.items():
        yield _text(f"{run.status.state}: {name} {run.reason}".rstrip())
    for name, reason in trials.refused.items():
        yield _text(f"unreadable: {name}: {reason}")


def configurations(trials: Trials) -> RenderableType:
    """The best by validation, without test metrics; runs of one configuration are one line."""
    settings = trials.settings.to_dict("index")
    titles = [f"validation\n{leaderboard.SCORES[name].heading}" for name in trials.objectives]
    rows = [
        (
            *(name, each.repeats, *leaderboard.scores(trials, name)),
            " ".join(f"{key}={value}" for key, value in settings[name].items()),
        )
        for name, each in list(trials.configurations.items())[:SHOWN_RUNS]
    ]
    header = ("run", "mean of", *titles, "settings that differ")
    table = Table(header, rows, words=(0, 1, len(header) - 1))
    return laid_out(table, fold=True)


def summary(run: RecordedRun) -> Iterator[RenderableType]:
    """The parts to print. Text from the run is never interpreted as markup."""
    answers = run.answers
    yield _text(run.headline if answers is None else answers.headline, style="bold")
    yield _text(f"{run.name}: {tables.subtitle(run)}")
    if answers is not None:
        yield Text()
        for line in answers.lines():
            yield _text(line, style="" if line.startswith(" ") else "bold")
    if run.comparison is not None:
        yield Text()
        for line in _closing_table(run, run.comparison):
            yield _text(line, style="bold" if line.startswith("model ") else "")
        yield Text()
    if run.evaluation is not None:
        yield from map(_text, [run.evaluation.verdict, *run.evaluation.conclusions()])


def _closing_table(run: RecordedRun, table: pd.DataFrame) -> list[str]:
    """The table at the end of the run's log, with the oracle if there is one."""
    if run.evaluation is None:
        return closing_table(table, None, math.nan)
    return closing_table(table, run.evaluation.oracle_rank_ic, run.evaluation.first_step_rank_ic)


def laid_out(table: Table, fold: bool = False) -> RichTable:
    """Words on the left, numbers on the right, the marked row in bold, the title above.

    fold: wrap cells that are too wide.
    """
    laid_out = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=_text(table.title) if table.title else None,
        title_justify="left",
    )
    for position, heading in enumerate(table.header):
        side: Literal["left", "right"] = "left" if position in table.words else "right"
        laid_out.add_column(
            heading,
            justify=side,
            no_wrap=not fold,
            overflow="fold",
            vertical="top" if fold else "bottom",
        )
    for row in table.rows:
        laid_out.add_row(*map(_text, row), style="bold" if row[0] == table.marked else "")
    return laid_out


def _text(words: str, style: str = "") -> Text:
    """Text from a run, without markup or terminal control characters."""
    return Text(printable(words), style=style)
