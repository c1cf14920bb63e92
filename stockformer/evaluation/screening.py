"""Screens factors for look-ahead: rank ICs with the returns of days before and after.

A prepared factor cannot be recomputed from truncated data, so its origin cannot be checked. What
can be checked is whether it correlates with later returns more than a leak-free factor does.
Returns reveal leaks of price factors, absolute returns those of volatility and volume factors,
which do not forecast a direction. Lag k compares the factor of day t with the return of day t + k,
so lags from 1 on are the future. T dates, N stocks, F factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stockformer.data.factors.cross_section import percentile_ranks
from stockformer.evaluation.statistics import newey_west

TOO_GOOD = 0.1
"""A mean daily rank IC above what leak-free forecasts of daily stock returns reach.

The highest published daily figures are about half of it: StockMixer (AAAI 2024) reports an IC of
0.043 on NASDAQ, and LightGBM on Alpha158 reaches a rank IC of 0.034 on NIFTY-200.
"""

LAGS = range(-5, 6)
LATER = range(2, 6)  # what tomorrow is compared with
SIGNIFICANT_T = 4.0  # high, because hundreds of factors, lags and kinds are tested
MIN_STOCKS = 5  # with both values on a day, for it to have a rank IC
DAYS_AT_ONCE = 100  # to save memory

PEAKS = {"return": 0.06, "absolute_return": 0.05}
"""By how much the rank IC with tomorrow's (absolute) return may exceed that of the days after.

Measured on leak-free factors: at most 0.011 and 0.033 (158 of Alpha158, NIFTY-200), 0.005 and 0.028
(22 prepared ones, NIFTY-200), 0.020 and below 0 (4 of NASDAQ-1026), 0.030 and 0.009 (158, simulated
market with a planted signal). If the 158 of NIFTY-200 are shifted a day early, 134 are found; long
windows of volatility, volume or correlation change too little in a day. The margins were chosen
after these maxima were seen.
"""


@dataclass(frozen=True)
class LikelyLeak:
    """A factor that correlates too much with the future, and the evidence."""

    name: str
    reason: str


def screen(
    factors: np.ndarray,
    names: Sequence[str],
    returns: np.ndarray,
    member: np.ndarray | None = None,
) -> pd.DataFrame:
    """The mean daily rank IC of each factor with the returns around it, a row a factor.

    factors (T, N, F), returns (T, N), NaN where unknown; member (T, N): cells that count. Columns
    (kind, lag, figure): kind is return or absolute_return, lag one of -5 to 5, figure `rank_ic` or
    `t` (Newey-West). (kind, 1, "peak") is the rank IC at lag 1 minus the largest of the four later
    lags, with the sign that makes lag 1 positive; (kind, 1, "peak_t") is the t of that daily
    difference. Raises ValueError where the shapes do not fit.
    """
    if factors.shape != (*returns.shape, len(names)):
        raise ValueError(
            f"screening: factors are {factors.shape}, expected returns by names, "
            f"{(*returns.shape, len(names))}"
        )
    columns: dict[tuple[str, int, str], list[float]] = {}
    for kind, daily in daily_rank_ic(factors, returns, member).items():
        for i in range(len(names)):
            of_factor = {lag: series[:, i] for lag, series in daily.items()}
            figures = {lag: _mean_and_t(series) for lag, series in of_factor.items()}
            for lag, (mean, t) in figures.items():
                columns.setdefault((kind, lag, "rank_ic"), []).append(mean)
                columns.setdefault((kind, lag, "t"), []).append(t)
            peak, t = _peak(of_factor, {lag: mean for lag, (mean, _) in figures.items()})
            columns.setdefault((kind, 1, "peak"), []).append(peak)
            columns.setdefault((kind, 1, "peak_t"), []).append(t)
    return pd.DataFrame(columns, index=pd.Index(names, name="factor"))


def likely_leaks(screened: pd.DataFrame, limit: float = TOO_GOOD) -> list[LikelyLeak]:
    """The factors of `screen` that are likely to leak, each with the reason.

    Too good: a rank IC with a later day's return beyond `limit`. A peak: a rank IC with tomorrow's
    return, or absolute return, far beyond that of the days after.
    """
    found = []
    for name, row in screened.iterrows():
        reason = _too_good(row, limit) or _peaked(row)
        if reason:
            found.append(LikelyLeak(str(name), reason))
    return found


def daily_rank_ic(
    factors: np.ndarray, returns: np.ndarray, member: np.ndarray | None = None
) -> dict[str, dict[int, np.ndarray]]:
    """By kind and lag, (T, F): Spearman's correlation of day t's factors with returns of t + lag.

    member (T, N): cells whose factors count; None: all.
    NaN where fewer than five stocks have both values, or nothing varies. Each side is ranked among
    all its known stocks, so a day on which the other side lacks many is slightly inexact.
    """
    days, reach = len(returns), LAGS[-1]
    padded = np.full((days + 2 * reach, returns.shape[1]), np.nan)
    padded[reach : reach + days] = returns
    shifted = {"return": _lagged(padded, days), "absolute_return": _lagged(np.abs(padded), days)}
    shape = (days, factors.shape[-1], len(LAGS))
    ics = {kind: np.full(shape, np.nan, np.float32) for kind in shifted}
    for first in range(0, days, DAYS_AT_ONCE):
        rows = slice(first, first + DAYS_AT_ONCE)
        values = factors[rows]
        if member is not None:
            values = np.where(member[rows, :, None], values, np.nan)
        x = _ranks(np.swapaxes(values, 1, 2))
        for kind, (ranks, known) in shifted.items():
            ics[kind][rows] = _correlation(*x, ranks[rows], known[rows])
    return {
        kind: {lag: values[..., i] for i, lag in enumerate(LAGS)} for kind, values in ics.items()
    }


def _lagged(padded: np.ndarray, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the returns of day t + lag, and where they are known, (T, N, lags) each."""
    return tuple(  # type: ignore[return-value]
        np.stack([array[lag - LAGS[0] :][:days] for lag in LAGS], axis=-1)
        for array in _ranks(padded)
    )


def _ranks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centred percentile ranks over the last axis, 0 where unknown, and where known (as 0 or 1)."""
    known = np.isfinite(values).astype(np.float32)
    return np.nan_to_num(percentile_ranks(values)).astype(np.float32), known


def _correlation(x: np.ndarray, of_x: np.ndarray, y: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    """(days, F, lags) of x (days, F, N) and y (days, N, lags) over the stocks known in both."""
    count = of_x @ of_y
    safe = np.maximum(count, 1)
    mean_x, mean_y = (x @ of_y) / safe, (of_x @ y) / safe
    spread_x = (x**2 @ of_y) / safe - mean_x**2
    spread_y = (of_x @ y**2) / safe - mean_y**2
    both = (x @ y) / safe - mean_x * mean_y
    known = (count >= MIN_STOCKS) & (spread_x > 1e-6) & (spread_y > 1e-6)
    scale = np.sqrt(np.where(known, spread_x * spread_y, 1.0))
    return np.where(known, both / scale, np.nan)


def _mean_and_t(series: np.ndarray) -> tuple[float, float]:
    known = series[np.isfinite(series)].astype(np.float64)
    test = newey_west(known, 1)
    return test.mean, test.t


def _peak(daily: dict[int, np.ndarray], means: dict[int, float]) -> tuple[float, float]:
    """How far tomorrow's rank IC exceeds the largest of the days after, and its t."""
    sign = -1.0 if means[1] < 0 else 1.0
    later = {lag: sign * means[lag] for lag in LATER if np.isfinite(means[lag])}
    if not later:
        return np.nan, np.nan
    nearest = max(later, key=later.__getitem__)
    return _mean_and_t(sign * (daily[1] - daily[nearest]))


def _too_good(row: pd.Series, limit: float) -> str:
    for lag in (lag for lag in LAGS if lag > 0):
        ic, t = row["return", lag, "rank_ic"], row["return", lag, "t"]
        if abs(ic) > limit and abs(t) > SIGNIFICANT_T:
            return (
                f"its rank IC with the return {lag} day{'s' if lag > 1 else ''} later is {ic:+.3f} "
                f"(t {t:.1f}), beyond {limit}, the limit for leak-free daily forecasts"
            )
    return ""


def _peaked(row: pd.Series) -> str:
    for kind, margin in PEAKS.items():
        peak, t = row[kind, 1, "peak"], row[kind, 1, "peak_t"]
        if peak > margin and t > SIGNIFICANT_T:
            ic = row[kind, 1, "rank_ic"]
            what = kind.replace("_", " ")
            return (
                f"its rank IC with tomorrow's {what} is {ic:+.3f}, {peak:.3f} beyond that of the "
                f"days after (t {t:.1f}); a leak-free factor's is at most {margin} beyond"
            )
    return ""
