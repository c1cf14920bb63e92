"""Where the skill is: the rank IC within sectors, sizes and volatility regimes.

S signal dates, N stocks, T dates of the market. Every grouping uses only what is known at the
close of the signal date.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd

from stockformer.evaluation.backtest import Market, universe_returns
from stockformer.evaluation.metrics import correlation, mean, ranks
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.statistics import estimate

MIN_STOCKS = 5
"""With fewer valid stocks a group has no rank IC on that date."""

WINDOW = 21
"""Days, up to the signal date, of a volatility and of a mean traded value."""

TERCILES = ("lowest third", "middle third", "highest third")


def rank_ic_within(predictions: Predictions, cells: np.ndarray) -> pd.Series:
    """By signal date, the rank IC among the stocks in `cells` (S, N) bool, mean over the steps.

    NaN where fewer than `MIN_STOCKS` of them are valid, or all forecasts or outcomes are the same.
    """
    valid = predictions.valid & cells[:, None]
    valid &= valid.sum(axis=-1, keepdims=True) >= MIN_STOCKS
    forecast, outcome = (
        ranks(np.where(valid, values, np.nan))
        for values in (predictions.prediction, predictions.label)
    )
    by_step = correlation(forecast, outcome, valid)
    dates = pd.DatetimeIndex(predictions.signal_dates, name="signal_date")
    return pd.Series(mean(by_step, np.isfinite(by_step)), index=dates)


def by_sector(predictions: Predictions, sectors: np.ndarray) -> pd.DataFrame:
    """Mean rank IC within each sector and month; sectors (N,) str, "" where unknown.

    A row a sector and month that has any: sector, month (YYYY-MM), rank_ic, n_dates (with a rank
    IC), n_stocks (mean number valid on these dates).
    """
    tables = []
    for sector in sorted(set(sectors.tolist()) - {""}):
        cells = np.broadcast_to(sectors == sector, predictions.valid[:, 0].shape)
        series = rank_ic_within(predictions, cells)
        stocks = (predictions.valid & cells[:, None]).sum(axis=-1).max(axis=1)
        frame = pd.DataFrame({"rank_ic": series, "n_stocks": stocks}).dropna()
        months = frame.groupby(pd.DatetimeIndex(frame.index).strftime("%Y-%m"))
        table = months.agg(
            rank_ic=("rank_ic", "mean"), n_dates=("rank_ic", "size"), n_stocks=("n_stocks", "mean")
        )
        tables.append(table.rename_axis("month").reset_index().assign(sector=sector))
    columns = ["sector", "month", "rank_ic", "n_dates", "n_stocks"]
    found = [table for table in tables if len(table)]
    return pd.concat(found)[columns] if found else pd.DataFrame(columns=columns)


def by_volatility(predictions: Predictions, market: Market) -> pd.DataFrame:
    """The rank IC of dates in calm, normal and volatile markets: terciles of the test dates.

    The volatility is the standard deviation of the equal-weight universe's daily return over the
    `WINDOW` days up to the signal date. By tercile, `statistics.Estimate` of the rank IC, and
    from, to: the range of the volatility. No rows with fewer than three dates.
    """
    volatility = pd.Series(universe_returns(market)[1:], index=market.dates[1:]).rolling(WINDOW)
    known = volatility.std().reindex(predictions.signal_dates).to_numpy()
    groups = _terciles(known)
    everything = np.ones(predictions.valid[:, 0].shape, bool)
    series = rank_ic_within(predictions, everything).to_numpy()
    members = {name: groups == place for place, name in enumerate(TERCILES)}
    return _estimates(
        {name: series[which] for name, which in members.items()},
        predictions.horizon,
        {name: known[which] for name, which in members.items()},
    )


def by_size(predictions: Predictions, market: Market) -> pd.DataFrame | None:
    """The rank IC within terciles of the stocks by traded value; None without volumes.

    The traded value is the mean of close times volume over the `WINDOW` days up to the signal date;
    the terciles are those of each date's valid stocks. By tercile, `statistics.Estimate` of
    the rank IC, and from, to: the range of the traded value, in the prices' currency.
    """
    if market.volume is None:
        return None
    value = pd.DataFrame(market.close * market.volume).rolling(WINDOW, min_periods=1).mean()
    rows = np.searchsorted(market.dates, predictions.signal_dates)
    valid = predictions.valid.any(axis=1)
    known = np.where(valid, value.to_numpy()[rows], np.nan)
    groups = np.array([_terciles(values) for values in known]).reshape(known.shape)
    members = {name: groups == place for place, name in enumerate(TERCILES)}
    return _estimates(
        {n: rank_ic_within(predictions, which).to_numpy() for n, which in members.items()},
        predictions.horizon,
        {name: known[which] for name, which in members.items()},
    )


def _terciles(values: np.ndarray) -> np.ndarray:
    """0, 1 or 2 by size; -1 where the value is NaN."""
    known = np.isfinite(values)
    groups = np.full(values.shape, -1)
    if known.any():
        share = ranks(values[known]) / known.sum()
        groups[known] = np.clip(np.ceil(share * len(TERCILES) - 1e-9), 1, len(TERCILES)) - 1
    return groups


def _estimates(
    series: Mapping[str, np.ndarray], horizon: int, values: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    rows = {
        name: asdict(estimate(each, horizon))
        | {"from": float(values[name].min()), "to": float(values[name].max())}
        for name, each in series.items()
        if np.isfinite(each).any()
    }
    return pd.DataFrame.from_dict(rows, orient="index")
