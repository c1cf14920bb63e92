"""A report's tables as text: the same cells on the terminal and in the page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from stockformer.evaluation.metrics import Predictions, daily, score
from stockformer.evaluation.statistics import summary
from stockformer.reporting.quantities import (
    COMPARED,
    METRICS,
    tell_compared,
    tell_count,
    tell_interval,
    tell_p,
    tell_t,
)
from stockformer.reporting.run_reader import FinalEvaluation, Manifest, RecordedRun

HOW_TO_READ_COMPARISON = (
    "t, p: is the model's daily value different from the row's (paired, Newey-West)? In the "
    "model's own row: is its rank IC different from zero?"
)


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; the first of a row is its name.

    words: positions of the columns that hold words, not numbers. marked: the name of the row that
    the table is about.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[int] = (0,)
    marked: str = ""


def subtitle(run: RecordedRun) -> str:
    """The run in one line: how and when it ended, on what it was tested."""
    said = [f"{run.status.state} {run.status.time:%Y-%m-%d %H:%M}"]
    if run.evaluation is not None and run.evaluation.epoch is not None:
        said.append(f"tested epoch {run.evaluation.epoch}")
    if run.predictions is not None:
        dates, tickers = run.predictions.signal_dates, run.predictions.tickers
        said.append(f"{tell_count(len(dates), 'test date')} from {dates[0]} to {dates[-1]}")
        said.append(tell_count(len(tickers), "stock"))
    return ", ".join(said)


def comparison(table: pd.DataFrame, without: Sequence[str] = ()) -> Table:
    """The model beside the baselines; columns that nobody knows, or named `without`, left out."""
    columns = [column for column in COMPARED if column in table and column not in without]
    rows = [
        (str(name).replace("_", " "), *(tell_compared(c, row[c]) for c in columns))
        for name, row in zip(table.index, table.to_dict("records"))
    ]
    return Table(("", *(COMPARED[column] for column in columns)), rows, marked="model")


def targets(evaluation: FinalEvaluation) -> Table:
    """The figures that were hoped for."""
    rows = [(t.name, "met" if t.met else "not met", f"{t.value:.4f}") for t in evaluation.targets]
    return Table(("first target", "", "value"), rows, words=(0, 1))


def remarks(evaluation: FinalEvaluation) -> list[str]:
    """What to bear in mind: how much of the possible was reached, where known, and the notes."""
    oracle = evaluation.oracle_rank_ic
    if oracle is None:
        return list(evaluation.notes)
    share = evaluation.model["rank_ic"] / oracle
    reached = (
        f"The best attainable rank IC of this simulated market (oracle) is {oracle:.4f}; the model "
        f"reaches {share:.0%} of it."
    )
    return [reached, *evaluation.notes]


def scores(predictions: Predictions) -> Table:
    """Every metric of `evaluation.metrics`, with interval and test where they have a meaning."""
    means = score(predictions)
    tests = summary(daily(predictions), predictions.horizon).to_dict("index")
    rows = []
    for name, quantity in METRICS.items():
        interval, t, p = "", "", ""
        if name in tests:
            test = tests[name]
            interval = tell_interval(quantity, test["lower"], test["upper"])
            if quantity.around_zero:
                t, p = tell_t(test["t"]), tell_p(test["p"])
        rows.append((quantity.title, quantity.tell(means[name]), interval, t, p, quantity.unit))
    return Table(("metric", "mean", "95 % interval", "t", "p", "unit"), rows, words=(0, 5))


def facts(manifest: Manifest) -> Table:
    """Versions, seed, device and what else was written down as a single value."""
    rows = {
        "code": manifest.git_commit,
        **{name.replace("_", " "): str(value) for name, value in manifest.facts.items()},
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
    }
    return Table(("fact", "value"), list(rows.items()), words=(0, 1))


def split(parts: pd.DataFrame) -> Table:
    """What each part of the split spans."""
    header = ("part", *(column.replace("_", " ") for column in parts.columns))
    return Table(header, [tuple(map(str, row)) for row in parts.itertuples()])
