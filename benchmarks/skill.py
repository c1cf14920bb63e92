"""What the rank IC of runs is worth: python -m benchmarks.skill RUN [RUN ...] [--tried FILE]

RUN: a run, or all folds of a walk-forward sweep as one (SWEEP/walk_forward). For each: the mean
daily rank IC with its Newey-West t, the mean of each 60 dates (a fold of NIFTY-WF), that of all
dates from the fourth fold on, which confirm what was chosen on the first three, and the null by
permutation: each date's forecasts shuffled among its stocks, 1,000 times; then how long the signal
lasts (the rank IC with the return of each of the 10 days after it) and what it earns a day over the
universe: traded at the signal's close without costs, and what delay, holding, cash and costs change
of it. Of several runs every later one is tested against the first, paired by date. --tried: a table
of all configurations tried, such as docs/experiments.csv, and --protocol, whose rows to count: the
best rank IC that noise would have reached in as many trials. --table: instead of all that a row of
a Markdown table for each run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from stockformer.evaluation.backtest import BASIS_POINT
from stockformer.evaluation.money import NET, PARTS
from stockformer.evaluation.predictions import Predictions, daily
from stockformer.evaluation.record import EvaluationRecord
from stockformer.evaluation.statistics import (
    estimate,
    expected_maximum,
    newey_west,
    paired_comparison,
)
from stockformer.runs.recorded_run import read_run

SHUFFLES, WINDOW, DAYS = 1000, 60, 10


def finished(folder: Path) -> tuple[Predictions, EvaluationRecord]:
    try:
        run = read_run(folder)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    if run.predictions is None or run.evaluation is None:
        raise SystemExit(f"error: {folder}: no test predictions; name a finished run")
    return run.predictions, run.evaluation


def permutation_null(predictions: Predictions, seed: int = 0) -> np.ndarray:
    """(SHUFFLES,) mean rank IC of the first step with each date's forecasts shuffled."""
    rng = np.random.default_rng(seed)
    totals, dates = np.zeros(SHUFFLES), 0
    for day in range(len(predictions.signal_dates)):
        valid = predictions.valid[day, 0]
        scores = [rankdata(x[day, 0, valid]) for x in (predictions.prediction, predictions.label)]
        if valid.sum() < 3 or min(np.ptp(score) for score in scores) == 0:
            continue
        one, other = (score - score.mean() for score in scores)
        length = np.linalg.norm(one) * np.linalg.norm(other)
        shuffled = rng.permuted(np.broadcast_to(one, (SHUFFLES, len(one))), axis=1)
        totals += shuffled @ other / length
        dates += 1
    return totals / max(dates, 1)


def best_of_noise(trials: int, standard_error: float) -> float:
    """The expected largest mean of that many independent trials without skill."""
    return standard_error * expected_maximum(trials) if trials > 1 else 0.0


def decay(record: EvaluationRecord) -> list[str]:
    """The rank IC with the return of each of the days after the signal."""
    if record.signal is None:
        return []
    return [f"{value:+.3f}" for value in record.signal.decay["rank_ic"].loc[1:DAYS]]


def money(record: EvaluationRecord) -> list[str]:
    """Basis points a day over the universe: at the signal's close without costs, what a day's
    delay, holding, cash and costs add, and their sum, what is left, with its 95 % interval."""
    if record.backtest is None or record.backtest.waterfall is None:
        return []
    parts = record.backtest.waterfall
    figures = [f"{parts[name].mean / BASIS_POINT:+.1f}" for name in PARTS]
    net = parts[NET]
    ends = (net.lower / BASIS_POINT, net.upper / BASIS_POINT)
    return [*figures, f"{net.mean / BASIS_POINT:+.1f} ({ends[0]:+.1f} to {ends[1]:+.1f})"]


def row(folder: Path, predictions: Predictions, record: EvaluationRecord) -> str:
    """The run's row of the table that `HEADER` begins; left: after a day's delay and costs."""
    rank_ic = daily(predictions.step(1))["rank_ic"]
    test = estimate(rank_ic, predictions.horizon)
    by_fold = " ".join(f"{value:.3f}" for value in by_window(rank_ic))
    later = newey_west(rank_ic.iloc[3 * WINDOW :], predictions.horizon)
    cells = (
        "/".join(folder.resolve().parts[-2:]),
        f"{test.mean:.4f}",
        f"{test.lower:.3f} to {test.upper:.3f}",
        f"{test.t:.1f}",
        by_fold.replace("0.", "."),
        f"{later.mean:.4f}" if later.n else "-",
        "".join(decay(record)[1:2]),
        "".join(money(record)[-1:]),
    )
    return f"| {' | '.join(cells)} |"


HEADER = """\
| run | rank IC | 95 % interval | t | by fold | folds 3 to 5 | second day | left, bp a day |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def by_window(rank_ic: pd.Series) -> list[float]:
    return [rank_ic.iloc[i : i + WINDOW].mean() for i in range(0, len(rank_ic), WINDOW)]


def show(
    folder: Path, predictions: Predictions, record: EvaluationRecord, trials: int
) -> pd.Series:
    rank_ic = daily(predictions.step(1))["rank_ic"]
    test = estimate(rank_ic, predictions.horizon)
    null = permutation_null(predictions)
    half = rank_ic.iloc[3 * WINDOW :]
    later = newey_west(half, predictions.horizon)
    print(f"{folder}")
    print(
        f"  rank IC {test.mean:+.4f} over {test.n} dates, 95 % interval {test.lower:+.4f} to "
        f"{test.upper:+.4f}, t {test.t:.2f}, p {test.p:.2g}; ICIR "
        f"{test.mean / rank_ic.std():.3f}"
    )
    print(f"  by {WINDOW} dates: " + " ".join(f"{value:+.3f}" for value in by_window(rank_ic)))
    if len(half) > 1:
        print(f"  from date {3 * WINDOW} on: {later.mean:+.4f}, t {later.t:.2f}, {later.n} dates")
    print(
        f"  permutation null: deviation {null.std():.4f}, largest of {SHUFFLES} {null.max():+.4f}; "
        f"p {(1 + (null >= test.mean).sum()) / (1 + SHUFFLES):.3f}"
    )
    print(f"  smallest rank IC that these dates can show: {test.detectable():.4f}")
    if trials:
        best = best_of_noise(trials, test.standard_error)
        print(f"  best of {trials} trials of noise: {best:+.4f}; above it {test.mean - best:+.4f}")
    print(f"  with the return of day 1 to {DAYS}: {' '.join(decay(record))}")
    print(
        f"  bp a day: at the close, delay, {', '.join(PARTS[2:])}, left: {', '.join(money(record))}"
    )
    return rank_ic


def main() -> None:
    parser = argparse.ArgumentParser(description="What the rank IC of runs is worth.")
    parser.add_argument("runs", nargs="+", type=Path, help="finished runs")
    parser.add_argument("--tried", type=Path, help="CSV with a row for each configuration tried")
    parser.add_argument("--protocol", default="NIFTY-WF", help="the rows of --tried to count")
    parser.add_argument("--table", action="store_true", help="a row of Markdown for each run")
    arguments = parser.parse_args()
    if arguments.table:
        print(HEADER)
        for folder in arguments.runs:
            print(row(folder, *finished(folder)))
        return
    trials = 0
    if arguments.tried:
        if not arguments.tried.is_file():
            raise SystemExit(f"error: {arguments.tried}: no such file")
        protocols = pd.read_csv(arguments.tried).get("protocol", pd.Series(dtype=str))
        trials = int((protocols == arguments.protocol).sum())
        if not trials:
            raise SystemExit(f"error: {arguments.tried}: no row of protocol {arguments.protocol}")
    first: pd.Series | None = None
    for folder in arguments.runs:
        predictions, record = finished(folder)
        rank_ic = show(folder, predictions, record, trials)
        if first is None:
            first = rank_ic
            continue
        if not first.index.equals(rank_ic.index):
            raise SystemExit(f"error: {folder}: not on the dates of {arguments.runs[0]}")
        lead = paired_comparison(first, rank_ic, predictions.horizon)
        print(f"  the first run leads by {lead.mean:+.4f}, t {lead.t:.2f}, p {lead.p:.2g}")


if __name__ == "__main__":
    main()
