"""A report's tables as text, for the terminal and the page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from markupsafe import Markup

from stockformer.evaluation.backtest import BASIS_POINT
from stockformer.evaluation.comparison import label
from stockformer.evaluation.metrics import COMPARED, METRICS, OVER_DATES
from stockformer.evaluation.predictions import Predictions, daily, score
from stockformer.evaluation.quantities import (
    Quantity,
    format_count,
    format_interval,
    format_p,
    format_t,
)
from stockformer.evaluation.record import EvaluationRecord
from stockformer.evaluation.statistics import summary
from stockformer.runs.recorded_run import Manifest, RecordedRun

HOW_TO_READ_COMPARISON = (
    "Lead: of the model over the row; positive means the model is better, whatever the metric. "
    "It is paired by date, with a 95 % block-bootstrap interval and a Newey-West p. The model's "
    "own row tests its rank IC against zero. Ranking is compared with baselines that rank, level "
    "forecasts with constants; the best constant in hindsight uses the test outcomes."
)

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Table:
    """A table of formatted cells; the first cell of a row is its name.

    words: positions of the columns that hold words, not numbers. marked: the name of the
    highlighted row. board: an id, if the table can be sorted and filtered; filters: columns with a
    list of values to filter by. groups: titles, and the number of columns under each; aside:
    columns that are set apart. links: addresses by row name. shades: colour strength from -1 to 1
    by (row, column). members: rows that are folded under a row, by its name.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[int] = (0,)
    marked: str = ""
    title: str = ""
    board: str = ""
    filters: Sequence[int] = ()
    groups: Sequence[tuple[str, int]] = ()
    aside: Collection[int] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    shades: Mapping[tuple[int, int], float] = field(default_factory=dict)
    members: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)

    def kind(self, column: int) -> str:
        """The CSS classes of a column's cells."""
        words, aside = column in self.words, column in self.aside
        return " ".join(["words"] * words + ["aside"] * aside)

    def members_json(self) -> Markup:
        """For a script element: by row the cells of each member, with its link."""
        rows = {
            name: [{"cells": list(row), "link": self.links.get(row[0], "")} for row in found]
            for name, found in self.members.items()
        }
        return Markup(json.dumps(rows, separators=(",", ":")).replace("<", "\\u003c"))

    def values(self, column: int) -> list[str]:
        """The distinct values of a column."""
        return sorted({row[column] for row in self.rows})


def subtitle(run: RecordedRun) -> str:
    """The run in one line: its state, when it ended, and the test dates and stocks."""
    parts = [f"{run.status.state} {run.status.time:%Y-%m-%d %H:%M}"]
    if run.evaluation is not None:
        epoch = run.evaluation.epoch
        parts.append("an ensemble" if epoch is None else f"tested epoch {epoch}")
    if run.predictions is not None:
        dates, tickers = run.predictions.signal_dates, run.predictions.tickers
        parts.append(f"{format_count(len(dates), 'test date')} from {dates[0]} to {dates[-1]}")
        parts.append(format_count(len(tickers), "stock"))
    return ", ".join(parts)


def comparison(table: pd.DataFrame) -> list[Table]:
    """A table a metric: value, lead and test of the model and the baselines.

    Ranking leaves out the baselines that rank nothing.
    """
    tables = []
    for metric, compared in COMPARED.items():
        rows = table
        if not compared.compared_with:
            rows = table[table[metric].notna() | (table.index == "model")]
        tables.append(_comparison(rows, metric))
    return tables


def _comparison(table: pd.DataFrame, metric: str) -> Table:
    title = METRICS[metric].heading
    return Table(
        ("", "value", "model's lead", "95 % interval", "p"),
        [
            (label(str(name)), *_compared(row, METRICS[metric], metric))
            for name, row in zip(table.index, table.to_dict("records"))
        ],
        marked="model",
        title=f"{title[0].upper()}{title[1:]}",
    )


def _compared(
    row: Mapping[Hashable, float], quantity: Quantity, metric: str
) -> tuple[str, str, str, str]:
    lead, lower, upper, p = (
        row.get(f"{metric}_{column}", math.nan) for column in ("lead", "lower", "upper", "p")
    )
    signed = replace(quantity, around_zero=True)
    return (
        quantity.format(row[metric]),
        signed.format(lead),
        format_interval(signed, lower, upper),
        format_p(p),
    )


def targets(evaluation: EvaluationRecord) -> Table:
    """The project targets and whether the model meets them."""
    rows = [(t.name, t.outcome, t.shown) for t in evaluation.targets]
    return Table(("project target", "", "value"), rows, words=(0, 1))


def remarks(evaluation: EvaluationRecord) -> list[str]:
    """The share of the best attainable rank IC, if known, and the notes."""
    oracle = evaluation.oracle_rank_ic
    if oracle is None:
        return list(evaluation.notes)
    share = evaluation.first_step_rank_ic / oracle
    reached = (
        f"The best attainable rank IC of this simulated market (oracle) is {oracle:.4f}; the model "
        f"reaches {f'{share:.0%}' if share > 0 else 'none'} of it."
    )
    return [reached, *evaluation.notes]


def scores(predictions: Predictions) -> Table:
    """Every metric of `evaluation.metrics`, with interval and test where they are defined."""
    means = score(predictions)
    tests = summary(daily(predictions), predictions.horizon).to_dict("index")
    rows = []
    for name, quantity in (METRICS | OVER_DATES).items():
        interval, t, p = "", "", ""
        if name in tests:
            test = tests[name]
            interval = format_interval(quantity, test["lower"], test["upper"])
            if quantity.around_zero:
                t, p = format_t(test["t"]), format_p(test["p"])
        rows.append((quantity.title, quantity.format(means[name]), interval, t, p, quantity.unit))
    return Table(
        ("metric", "mean", "95 % interval", "t", "p", "unit"), rows, (0, 5), title="All metrics"
    )


def by_month(
    years: pd.DataFrame, title: str, quantity: Quantity, counts: pd.Series | None = None
) -> Table:
    """A row a year, shaded by sign and evidence; months without any value are left out.

    years: columns 1 to 12 and, last, one for the whole year. counts: the number of dates by (year,
    month), if the values are means: the shade is then of mean * sqrt(dates), which is proportional
    to t, so that a month with one date is not the darkest.
    """
    years = years.loc[:, years.notna().any()]
    named = [MONTHS[c - 1] if isinstance(c, int) else str(c) for c in years.columns]
    values = years.to_numpy(float)
    months = values[:, :-1]
    if counts is not None:
        dates = counts.unstack().reindex(index=years.index, columns=years.columns[:-1])
        months = months * np.sqrt(dates.to_numpy(float))
    largest = np.nanmax(np.abs(months), initial=0.0)
    shades = {
        (row, column + 1): round(float(months[row, column] / largest), 3)
        for row, column in np.argwhere(np.isfinite(months)).tolist()
        if largest > 0
    }
    rows = [
        (str(year), *("" if math.isnan(v) else quantity.format(v) for v in row))
        for year, row in zip(years.index, values.tolist())
    ]
    return Table((quantity.unit, *named), rows, title=title, shades=shades)


def days_by(days: pd.DataFrame, name: str, title: str, shown: int = 5) -> list[Table]:
    """The best and the worst signal dates by one metric. days: `predictions.daily`."""
    columns = [name for name, metric in METRICS.items() if metric.brief]
    ordered = days[days[name].notna()].sort_values(name, ascending=False, kind="stable")
    header = ("signal date", *(METRICS[column].heading for column in columns), "stocks")

    def rows(part: pd.DataFrame) -> list[tuple[str, ...]]:
        return [
            (
                f"{date:%a %Y-%m-%d}",
                *(METRICS[column].format(row[column]) for column in columns),
                f"{row['n_valid']:.0f}",
            )
            for date, row in zip(part.index, part.to_dict("records"))
        ]

    return best_and_worst(header, rows, ordered, title, shown)


def stocks_by_rank_ic(stocks: pd.DataFrame, shown: int = 10) -> list[Table]:
    """The stocks with the largest and the smallest contribution to the rank IC.

    stocks: `forecasts.rank_ic_by_stock`.
    """
    returns = ("mean forecast (basis points)", "mean outcome (basis points)")
    header = ("stock", "share of the rank IC", *returns, "scored cells")

    def rows(part: pd.DataFrame) -> list[tuple[str, ...]]:
        return [
            (
                str(ticker),
                f"{row['contribution']:+z.5f}",
                f"{row['prediction'] / BASIS_POINT:+z.1f}",
                f"{row['label'] / BASIS_POINT:+z.1f}",
                f"{row['cells']:.0f}",
            )
            for ticker, row in zip(part.index, part.to_dict("records"))
        ]

    return best_and_worst(header, rows, stocks, "Stocks by contribution to the rank IC", shown)


def best_and_worst(
    header: Sequence[str],
    rows: Callable[[pd.DataFrame], Sequence[Sequence[str]]],
    ordered: pd.DataFrame,
    title: str,
    shown: int,
) -> list[Table]:
    """Two tables, the first and the last rows of a frame sorted best first; no row is in both."""
    best = ordered.iloc[: min(shown, (len(ordered) + 1) // 2)]
    worst = ordered.iloc[len(best) :].iloc[-shown:][::-1]
    return [
        Table(header, rows(best), title=f"{title}: best"),
        Table(header, rows(worst), title=f"{title}: worst"),
    ]


def facts(manifest: Manifest) -> Table:
    """Versions, seed, device and the other single values of the manifest."""
    rows = {
        "code": manifest.git_commit,
        **{
            name.replace("_", " "): f"{value:.6g}" if isinstance(value, float) else str(value)
            for name, value in manifest.facts.items()
        },
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
    }
    return Table(("fact", "value"), list(rows.items()), words=(0, 1))


def split(parts: pd.DataFrame) -> Table:
    """The dates of each part of the split."""
    header = ("part", *(column.replace("_", " ") for column in parts.columns))
    return Table(header, [tuple(map(str, row)) for row in parts.itertuples()])
