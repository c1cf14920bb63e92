"""Forecasts by date, quantile, size, stock and month, and their probabilities.

Frames have a row a scored cell: signal_date, step, ticker, prediction, label (`Predictions.frame`,
the valid cells). Returns are fractions.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
from scipy import stats

from stockformer.evaluation.metrics import QUANTILES
from stockformer.evaluation.predictions import Predictions, calibration
from stockformer.evaluation.statistics import Estimate, estimate, newey_west

CELL = ["signal_date", "step"]
ROUNDING = 1e-6
"""Of their size: forecasts that differ by less differ by single-precision rounding."""
LEAST_FORECASTS = 30
"""With fewer in a bin, a realised frequency says nothing."""
WINDOWS = (63, 21)
"""Dates of a rolling mean: the first window that fits three times into the dates."""


def quantile_returns(cells: pd.DataFrame, quantiles: int = QUANTILES) -> pd.DataFrame:
    """Mean realised return by quantile of the forecast, minus that of all stocks.

    Dates by quantile, 1 for the lowest forecasts; mean over the steps of a date. NaN for an empty
    quantile: fewer stocks than quantiles, or forecasts tied over a whole quantile. A date and step
    on which forecasts differ by no more than rounding ranks nothing and is left out.
    """
    dates = pd.Index(cells["signal_date"].unique(), name="signal_date")
    cells = cells[ranked(cells)]
    days = cells.groupby(CELL)
    share = days["prediction"].rank(pct=True)
    quantile = np.ceil(share * quantiles - 1e-9).clip(1, quantiles).astype(int)
    excess = cells["label"] - days["label"].transform("mean")
    by_step = excess.groupby([cells["signal_date"], cells["step"], quantile.rename("q")]).mean()
    by_date = by_step.groupby(level=["signal_date", "q"]).mean().unstack()
    return by_date.reindex(index=dates, columns=range(1, quantiles + 1)).astype(float)


def ranked(cells: pd.DataFrame) -> pd.Series:
    """For each cell, whether the forecasts of its date and step differ by more than rounding."""
    forecasts = cells.groupby(CELL)["prediction"]
    highest, lowest = forecasts.transform("max"), forecasts.transform("min")
    size = np.maximum(highest.abs(), lowest.abs())
    return (highest - lowest) > ROUNDING * size


def quantile_estimates(days: pd.DataFrame, horizon: int) -> pd.DataFrame:
    """`statistics.Estimate` of each quantile's daily return. days: `quantile_returns`."""
    rows = {q: asdict(estimate(series, horizon)) for q, series in days.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def rolling_mean(series: pd.Series) -> tuple[pd.Series, int] | None:
    """Mean of the last dates that have a value, and how many; None if the dates are too few."""
    known = series.dropna()
    window = next((dates for dates in WINDOWS if len(known) >= 3 * dates), None)
    return None if window is None else (known.rolling(window).mean().dropna(), window)


def brier_skill(brier: pd.Series, reference: pd.Series, horizon: int) -> Estimate:
    """1 - Brier / reference, of means over dates, with its test and interval.

    By the linear part of that ratio's error (delta method): both means are over the same dates.
    Positive is better than the reference.
    """
    known = brier.notna() & reference.notna()
    own, base = brier[known], reference[known]
    ratio, scale = own.mean() / base.mean(), base.mean()
    return estimate(1 - ratio + (ratio * base - own) / scale, horizon)


def calibration_intervals(predictions: Predictions, bins: int) -> pd.DataFrame:
    """`predictions.calibration` of the bins with at least `LEAST_FORECASTS`, with lower_frequency
    and upper_frequency: the 95 % interval of the realised frequency.

    Stocks of a date rise and fall together, so the date is the unit: Newey-West over the dates of
    the linear part of the ratio of sums.
    """
    table = calibration(predictions, bins)
    enough = table[table["n"] >= LEAST_FORECASTS]
    ends = {}
    for place, row in enough.iterrows():
        last = row["upper"] >= 1
        probability = predictions.probability
        below = probability <= row["upper"] if last else probability < row["upper"]
        inside = predictions.valid & (probability >= row["lower"]) & below
        n, ups = (each.sum(axis=(1, 2)) for each in (inside, inside & predictions.up))
        error = newey_west((ups - row["frequency"] * n) / n.mean(), predictions.horizon)
        width = stats.t.ppf(0.975, max(error.n - 1, 1)) * error.standard_error
        ends[place] = (max(row["frequency"] - width, 0.0), min(row["frequency"] + width, 1.0))
    columns = ["lower_frequency", "upper_frequency"]
    return enough.join(pd.DataFrame.from_dict(ends, orient="index", columns=columns))


def rank_ic_by_stock(cells: pd.DataFrame) -> pd.DataFrame:
    """Contribution of each stock to the mean rank IC.

    By ticker, the largest first: contribution (their sum is that mean), the number of cells, mean
    prediction and mean label.

    A date's rank IC is a sum over stocks of products of centred ranks. Dates on which forecasts or
    outcomes are all the same have no rank IC and are left out.
    """
    ranks = cells.groupby(CELL)[["prediction", "label"]].rank()
    centred = ranks - ranks.groupby([cells[name] for name in CELL]).transform("mean")
    keys = [cells[name] for name in CELL]
    scale = (centred**2).groupby(keys).transform("sum").prod(axis=1) ** 0.5
    product = (centred["prediction"] * centred["label"] / scale).where(scale > 0)
    steps = product.groupby(keys).sum(min_count=1).groupby(level=0).count()
    dates = int((steps > 0).sum())
    weight = 1 / cells["signal_date"].map(steps).where(lambda n: n > 0) / max(1, dates)
    parts = cells.assign(contribution=product * weight).groupby("ticker")
    table = parts.agg(
        contribution=("contribution", "sum"),
        cells=("label", "size"),
        prediction=("prediction", "mean"),
        label=("label", "mean"),
    )
    return table.sort_values(["contribution"], ascending=False, kind="stable")


def outcome_by_prediction(cells: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Mean prediction and label, and n (cells), in bins of equally many forecasts.

    No rows without any cell.
    """
    if cells.empty:
        return pd.DataFrame(columns=["prediction", "label", "n"], dtype=float)
    edges = np.unique(np.quantile(cells["prediction"], np.linspace(0, 1, bins + 1)))
    bin_of = np.searchsorted(edges[1:-1], cells["prediction"], side="left")
    groups = cells.groupby(bin_of)[["prediction", "label"]]
    return groups.mean().assign(n=groups.size())


def rank_ic_by_month(days: pd.DataFrame) -> pd.DataFrame:
    """Mean rank IC, years by months 1 to 12 and `year`; NaN for a month without a date.

    days: `predictions.daily`.
    """
    rank_ic = days["rank_ic"]
    dates = pd.DatetimeIndex(days.index)
    table = rank_ic.groupby([dates.year, dates.month]).mean().unstack()
    return table.reindex(columns=range(1, 13)).assign(year=rank_ic.groupby(dates.year).mean())
