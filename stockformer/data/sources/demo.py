"""A simulated market: prices with a planted, known, cross-sectional signal that lasts some days.

It shows whether a model can learn a signal, because the best attainable rank IC (the oracle's) is
known here, unlike in a real market. Results here are no evidence about real markets.
N stocks, T dates, K days ahead.

Returns are a market, a sector and a stock's own shock, each with GARCH(1,1) volatility (Bollerslev,
Journal of Econometrics 31, 1986), plus the expected return planted the day before: a sum of past
impulses, each of which decays with the signal's half-life, and of which a new one is added at the
close of every day. An impulse is a weighted sum of three effects, each observable at that close:

flow       minus the day's cross-sectional z-score of the return, times its volume surprise: a move
           on high volume reverts, on low volume continues. An interaction: a linear model of one
           day's factors finds only its small constant part.
lag        the volume surprise of four to seven days ago, summed: not in one day's factors.
spillover  the day's mean z-score of the stock's sector.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stockformer.data.panel import Panel

GARCH = (0.05, 0.10, 0.85)  # constant, last squared shock, last variance: unit variance on average
MAX_ZSCORE = 3.0  # cross-sectional z-scores are clipped there
MAX_SIGNAL = 4.0  # the signal, in standard deviations, is clipped there
SURPRISE_DAYS = 5  # volume surprise: log of today's volume over the mean of so many days
LAG = (4, 7)
FIRST_SIGNAL = 15  # days before the planted signal starts
DAYS_AHEAD = 10  # of the oracle
# Typical sizes of the unscaled effects, so that `weights` are comparable.
FLOW_SIZE, LAG_SIZE, SPILLOVER_SIZE = 1.12, 1.0, 0.42
FLOW_CONSTANT = 0.3
MIN_STOCKS = 10  # listed from the start: with fewer, a day with many missing may have no z-score


def input_paths(settings: Mapping[str, Any]) -> list[Path]:
    """None: the market is simulated."""
    return []


def load(
    *,
    stocks: int,
    days: int,
    sectors: int,
    seed: int,
    start: str,
    market_volatility: float,
    sector_volatility: float,
    stock_volatility: float,
    missing_share: float,
    listing_days: list[int],
    signal_strength: float,
    half_life_days: float,
    weights: Mapping[str, float],
) -> Panel:
    """Simulate OHLCV and the oracle, whose row t has the expected returns of the next days.

    Volatilities are daily, as fractions; missing_share of the cells is not traded; one stock is
    listed on each of the rows `listing_days`. signal_strength: the size of the planted effects in
    standard deviations of the return across stocks; half_life_days: after which half of an impulse
    is left; weights: of `flow`, `lag` and `spillover`. The same settings give the same bits; more
    days do not change the earlier ones. Raises ValueError for invalid settings.
    """
    _check(stocks, days, sectors, missing_share, listing_days, half_life_days)
    kept = 0.5 ** (1 / half_life_days)  # share of the signal that is left a day later
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(9)]
    facts, market, sector_shocks, own, volume_noise, gap, upper, lower, absent = streams
    sector = np.arange(stocks) % sectors
    beta = facts.uniform(0.8, 1.2, stocks)
    nervous = np.exp(facts.normal(0, 0.15, stocks))
    usual_volume = np.exp(facts.normal(np.log(1e6), 0.6, stocks))
    close = np.exp(facts.normal(np.log(200), 0.7, stocks))
    listed = np.zeros(stocks, dtype=int)
    listed[facts.choice(stocks, len(listing_days), replace=False)] = listing_days

    fields = ("open", "high", "low", "close", "volume")
    prices = {name: np.full((days, stocks), np.nan) for name in fields}
    returns, oracle = np.full((days, stocks), np.nan), np.zeros((days, stocks, DAYS_AHEAD))
    zscores, surprises = np.zeros((days, stocks)), np.zeros((days, stocks))
    variances = [np.ones(()), np.ones(sectors), np.ones(stocks)]
    signal, activity, dispersion = np.zeros(stocks), np.zeros(stocks), np.zeros(days)
    expected = oracle[0, :, 0]
    for t in range(days):
        noise = (
            market.standard_normal(),
            sector_shocks.standard_normal(sectors),
            own.standard_normal(stocks),
        )
        shocks = [np.sqrt(h) * e for h, e in zip(variances, noise)]
        busy = nervous * np.sqrt(variances[2])
        variances = [GARCH[0] + GARCH[1] * x**2 + GARCH[2] * h for x, h in zip(shocks, variances)]
        move = (
            expected
            + market_volatility * beta * shocks[0]
            + sector_volatility * shocks[1][sector]
            + stock_volatility * nervous * shocks[2]
        )
        previous, close = close, close * (1 + np.maximum(move, -0.5))
        activity = 0.4 * activity + 0.45 * volume_noise.standard_normal(stocks)
        excitement = 0.35 * (np.minimum(np.abs(move) / 0.018, 3) - 0.8)
        opened = previous * (1 + 0.15 * move + 0.0024 * busy * gap.standard_normal(stocks))
        above = 1 + 0.0064 * busy * np.abs(upper.standard_normal(stocks))
        below = 1 + 0.0064 * busy * np.abs(lower.standard_normal(stocks))
        day = {
            "open": opened,
            "high": np.maximum(opened, close) * above,
            "low": np.minimum(opened, close) / below,
            "close": close,
            "volume": np.round(usual_volume * np.exp(activity + excitement)),
        }
        traded = (absent.random(stocks) >= missing_share) & (t >= listed)
        for name, values in day.items():
            prices[name][t, traded] = values[traded]
        if t:
            returns[t] = prices["close"][t] / prices["close"][t - 1] - 1
        if t >= FIRST_SIGNAL:
            zscores[t] = _zscore(returns[t])
            surprises[t] = _surprise(prices["volume"][t + 1 - SURPRISE_DAYS : t + 1])
            dispersion[t] = np.nanstd(returns[t])
            recent = dispersion[max(FIRST_SIGNAL, t - 9) : t + 1].mean()
            impulse = _impulse(zscores[: t + 1], surprises[: t + 1], sector, weights)
            signal = _decayed(signal, impulse, kept)
            coming = _coming_impulses(surprises[: t + 1], weights)
            oracle[t] = signal_strength * recent * _ahead(signal, coming, kept)
        expected = oracle[t, :, 0].copy()
        oracle[t, np.isnan(returns[t])] = np.nan
    return Panel(
        dates=_business_days(start, days),
        tickers=np.array([f"SIM{i + 1:03d}" for i in range(stocks)]),
        returns=returns,
        factors=np.empty((days, stocks, 0), dtype=np.float32),
        factor_names=(),
        prices=prices,
        oracle=oracle,
        sectors=np.array([f"sector {i + 1}" for i in sector]),
    )


def _check(
    stocks: int,
    days: int,
    sectors: int,
    missing_share: float,
    listing_days: list[int],
    half_life_days: float,
) -> None:
    least = MIN_STOCKS + len(listing_days)
    rules = {
        f"stocks={stocks}": (stocks >= least, f"must be at least {least}"),
        f"sectors={sectors}": (1 <= sectors <= stocks, f"must be 1 to stocks={stocks}"),
        f"days={days}": (days > FIRST_SIGNAL, f"must be above {FIRST_SIGNAL}"),
        f"missing_share={missing_share}": (0 <= missing_share <= 0.1, "must be 0 to 0.1"),
        f"listing_days={listing_days}": (
            all(0 <= day < days for day in listing_days),
            f"must be rows below days={days}",
        ),
        f"half_life_days={half_life_days}": (half_life_days > 0, "must be above 0"),
    }
    for setting, (obeyed, rule) in rules.items():
        if not obeyed:
            raise ValueError(f"dataset.source.{setting}: {rule}")


def _impulse(
    zscores: np.ndarray, surprises: np.ndarray, sector: np.ndarray, weights: Mapping[str, float]
) -> np.ndarray:
    """(N,) the weighted effects at the close of the last row of the inputs, (t+1, N) each.

    Less their mean over stocks, so that the market as a whole has no drift.
    """
    last = zscores[-1]
    flow = -last * (np.clip(surprises[-1] / 0.4, -2, 2) + FLOW_CONSTANT) / FLOW_SIZE
    means = np.bincount(sector, weights=last) / np.bincount(sector)
    effects = {
        "flow": flow,
        "lag": _lag(surprises, 0),
        "spillover": means[sector] / SPILLOVER_SIZE,
    }
    if effects.keys() != weights.keys():
        raise ValueError(f"demo: weights are of {list(effects)}, got {list(weights)}")
    total: np.ndarray = sum((weights[name] * e for name, e in effects.items()), np.zeros(len(last)))
    return total - total.mean()


def _lag(surprises: np.ndarray, ahead: int) -> np.ndarray:
    """(N,) the lag effect `ahead` days after the last row, of the surprises known by then."""
    first = len(surprises) - 1 + ahead - LAG[1]
    total: np.ndarray = surprises[first : first + LAG[1] - LAG[0] + 1].sum(axis=0) / LAG_SIZE
    return total


def _decayed(signal: np.ndarray, impulse: np.ndarray, kept: float) -> np.ndarray:
    """The signal a day later; its variance stays that of an impulse, if impulses are unrelated.

    Clipped, as moves that feed on themselves (spillover of a large weight) must not run away.
    """
    later: np.ndarray = kept * signal + np.sqrt(1 - kept**2) * impulse
    return later.clip(-MAX_SIGNAL, MAX_SIGNAL)


def _coming_impulses(surprises: np.ndarray, weights: Mapping[str, float]) -> np.ndarray:
    """(K - 1, N) the part of the next days' impulses that is known today: of the lag.

    Flow and spillover follow coming shocks, whose expectation is small and left out.
    """
    coming = weights["lag"] * np.stack([_lag(surprises, days) for days in range(1, DAYS_AHEAD)])
    return coming - coming.mean(axis=1, keepdims=True)


def _ahead(signal: np.ndarray, coming: np.ndarray, kept: float) -> np.ndarray:
    """(N, K) the expected signal at today's close and those of the K - 1 days after it."""
    expected = [signal]
    for impulse in coming:
        expected.append(_decayed(expected[-1], impulse, kept))
    return np.stack(expected, axis=1)


def _zscore(values: np.ndarray) -> np.ndarray:
    """Across stocks, clipped at 3, 0 where unknown."""
    scaled = (values - np.nanmean(values)) / np.nanstd(values)
    return np.nan_to_num(scaled.clip(-MAX_ZSCORE, MAX_ZSCORE))


def _surprise(volume: np.ndarray) -> np.ndarray:
    """(days, N) -> (N,): log of the last day's volume over the mean of the known ones."""
    known = np.isfinite(volume)
    mean = np.where(known, volume, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    ratio = np.where(known[-1], volume[-1] / np.where(mean > 0, mean, 1.0), 1.0)
    return np.log(np.maximum(ratio, 1e-3)).clip(-1.5, 1.5)


def _business_days(start: str, days: int) -> np.ndarray:
    first = np.busday_offset(start, 0, roll="forward")
    return np.asarray(np.busday_offset(first, np.arange(days))).astype("datetime64[D]")
