"""What the rank IC of runs is worth: python -m benchmarks.skill RUN [RUN ...] [--tried FILE]

RUN: a run, or all folds of a walk-forward sweep as one (SWEEP/walk_forward). For each: the mean
daily rank IC with its Newey-West t, the mean of each 60 dates (a fold of NIFTY-WF), that of all
dates from the fourth fold on, which confirm what was chosen on the first three, and the null by
permutation: each date's forecasts shuffled among its stocks, 1,000 times. Of several runs every
later one is tested against the first, paired by date. --tried: a table of all configurations tried,
such as docs/experiments.csv: the best rank IC that noise would have reached in as many trials.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from stockformer.evaluation.predictions import Predictions, daily
from stockformer.evaluation.statistics import (
    estimate,
    expected_maximum,
    newey_west,
    paired_comparison,
)
from stockformer.runs.recorded_run import read_run

SHUFFLES, WINDOW = 1000, 60


def predictions_of(folder: Path) -> Predictions:
    found = read_run(folder).predictions
    if found is None:
        raise SystemExit(f"error: {folder}: no test predictions; name a finished run")
    return found


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


def show(folder: Path, predictions: Predictions, trials: int) -> pd.Series:
    rank_ic = daily(predictions.step(1))["rank_ic"]
    test = estimate(rank_ic, predictions.horizon)
    null = permutation_null(predictions)
    windows = [rank_ic.iloc[i : i + WINDOW].mean() for i in range(0, len(rank_ic), WINDOW)]
    half = rank_ic.iloc[3 * WINDOW :]
    later = newey_west(half, predictions.horizon)
    print(f"{folder}")
    print(
        f"  rank IC {test.mean:+.4f} over {test.n} dates, 95 % interval {test.lower:+.4f} to "
        f"{test.upper:+.4f}, t {test.t:.2f}, p {test.p:.2g}; ICIR "
        f"{test.mean / rank_ic.std():.3f}"
    )
    print(f"  by {WINDOW} dates: " + " ".join(f"{value:+.3f}" for value in windows))
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
    return rank_ic


def main() -> None:
    parser = argparse.ArgumentParser(description="What the rank IC of runs is worth.")
    parser.add_argument("runs", nargs="+", type=Path, help="finished runs")
    parser.add_argument("--tried", type=Path, help="CSV with a row for each configuration tried")
    arguments = parser.parse_args()
    trials = len(pd.read_csv(arguments.tried)) if arguments.tried else 0
    first: pd.Series | None = None
    for folder in arguments.runs:
        predictions = predictions_of(folder)
        rank_ic = show(folder, predictions, trials)
        if first is None:
            first = rank_ic
            continue
        lead = paired_comparison(first, rank_ic, predictions.horizon)
        print(f"  the first run leads by {lead.mean:+.4f}, t {lead.t:.2f}, p {lead.p:.2g}")


if __name__ == "__main__":
    main()
