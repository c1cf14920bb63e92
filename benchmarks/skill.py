"""What the rank IC of runs is worth: python -m benchmarks.skill [NAME=]RUN ... [--tried FILE]

RUN: a run, or all folds of a walk-forward sweep as one (SWEEP/walk_forward). For each: the mean
daily rank IC with its Newey-West t, the mean of each 60 dates (a fold of NIFTY-WF), that of all
dates from the fourth fold on, which confirm what was chosen on the first three, and the null by
permutation: each date's forecasts shuffled among its stocks, 1,000 times; then how long the signal
lasts (the rank IC with the return of each of the 10 days after it) and what it earns a day over the
universe: traded at the signal's close without costs, and what delay, holding, cash and costs change
of it. Of several runs every later one is tested against the first, paired by date. --tried: a table
of all configurations tried, such as docs/experiments.csv, and --protocol, whose rows to count: the
best rank IC that noise would have reached in as many trials. --table: instead of all that a row of
a Markdown table for each run. --picture FILE: also draw the sum of each run's daily rank ICs (SVG).
"""

from __future__ import annotations

import argparse
from html import escape
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
COLOURS = ("#4c78a8", "#b3541e", "#2f7d4f", "#7a4fa3", "#8a6d00", "#555555")
DASHES = ("", "7 3", "2 3", "10 3 2 3", "4 4", "1 2")  # told apart in greys too


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


def row(name: str, predictions: Predictions, record: EvaluationRecord) -> str:
    """The run's row of the table that `HEADER` begins; left: after a day's delay and costs."""
    rank_ic = daily(predictions.step(1))["rank_ic"]
    test = estimate(rank_ic, predictions.horizon)
    by_fold = " ".join(f"{value:.3f}" for value in by_window(rank_ic))
    later = newey_west(rank_ic.iloc[3 * WINDOW :], predictions.horizon)
    cells = (
        name,
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


def named(text: str) -> tuple[str, Path]:
    """The name, by default the last two folders, and the folder of `[NAME=]FOLDER`; a folder's own
    name may have an equals sign."""
    name, equals, folder = text.partition("=")
    if not equals or Path(text).is_dir():
        name, folder = "", text
    return name or "/".join(Path(folder).resolve().parts[-2:]), Path(folder)


def picture(series: dict[str, pd.Series]) -> str:
    """The sum of each run's daily rank ICs, from left to right by date."""
    sums = {name: np.concatenate([[0.0], each.cumsum()]) for name, each in series.items()}
    low, high = min(x.min() for x in sums.values()), max(x.max() for x in sums.values())
    dates = next(iter(series.values())).index
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 330" font-family="sans-serif"'
        ' font-size="12" fill="#222"><rect width="760" height="330" fill="#fff"/>',
        '<text x="10" y="20" font-weight="bold">Sum of the daily rank ICs on the test dates</text>',
        '<path d="M40 30V300H560" fill="none" stroke="#999"/>',
        f'<text x="40" y="318">{dates[0]:%Y-%m-%d}</text>',
        f'<text x="560" y="318" text-anchor="end">{dates[-1]:%Y-%m-%d}</text>',
        f'<text x="36" y="40" text-anchor="end">{high:.0f}</text>',
    ]
    ends: list[float] = []
    for i, (name, values) in enumerate(sorted(sums.items(), key=lambda item: -item[1][-1])):
        heights = 300 - 262 * (values - low) / (high - low)
        places = zip(np.linspace(40, 560, len(values)), heights)
        line = " ".join(f"{x:.0f},{y:.0f}" for x, y in places)
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        out.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/>'
        )
        ends.append(max(heights[-1] + 4, ends[-1] + 15) if ends else heights[-1] + 4)
        out.append(f'<text x="566" y="{ends[-1]:.0f}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>\n"])


def by_window(rank_ic: pd.Series) -> list[float]:
    return [rank_ic.iloc[i : i + WINDOW].mean() for i in range(0, len(rank_ic), WINDOW)]


def show(name: str, predictions: Predictions, record: EvaluationRecord, trials: int) -> pd.Series:
    rank_ic = daily(predictions.step(1))["rank_ic"]
    test = estimate(rank_ic, predictions.horizon)
    null = permutation_null(predictions)
    half = rank_ic.iloc[3 * WINDOW :]
    later = newey_west(half, predictions.horizon)
    print(name)
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
    parser.add_argument("runs", nargs="+", type=named, metavar="[NAME=]RUN", help="finished runs")
    parser.add_argument("--tried", type=Path, help="CSV with a row for each configuration tried")
    parser.add_argument("--protocol", default="NIFTY-WF", help="the rows of --tried to count")
    parser.add_argument("--table", action="store_true", help="a row of Markdown for each run")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="an SVG to write")
    arguments = parser.parse_args()
    names = [name for name, _ in arguments.runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SystemExit(f"error: two runs are named {min(twice)}; name them, NAME=RUN")
    if arguments.table:
        print(HEADER)
        for name, folder in arguments.runs:
            print(row(name, *finished(folder)))
        return
    trials = 0
    if arguments.tried:
        if not arguments.tried.is_file():
            raise SystemExit(f"error: {arguments.tried}: no such file")
        protocols = pd.read_csv(arguments.tried).get("protocol", pd.Series(dtype=str))
        trials = int((protocols == arguments.protocol).sum())
        if not trials:
            raise SystemExit(f"error: {arguments.tried}: no row of protocol {arguments.protocol}")
    series: dict[str, pd.Series] = {}
    for name, folder in arguments.runs:
        predictions, record = finished(folder)
        series[name] = rank_ic = show(name, predictions, record, trials)
        first = next(iter(series.values()))
        if len(series) == 1:
            continue
        if not first.index.equals(rank_ic.index):
            raise SystemExit(f"error: {folder}: not on the dates of {arguments.runs[0][1]}")
        lead = paired_comparison(first, rank_ic, predictions.horizon)
        print(f"  the first run leads by {lead.mean:+.4f}, t {lead.t:.2f}, p {lead.p:.2g}")
    if arguments.picture:
        arguments.picture.write_text(picture(series))


if __name__ == "__main__":
    main()
