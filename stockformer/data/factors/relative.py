"""Factors of a stock relative to its sector, to the market, to its peers, and of longer history.

Alpha158 describes each stock by its own last 60 days. These say how it moved compared with others,
which it may follow, and what it did before:

- SECREL, SECMOM: the return less the sector's mean return, and that mean, without a sector of one
  stock (industry momentum: Moskowitz and Grinblatt, J. of Finance 1999; reversal within industries:
  Da, Liu and Schaumburg, Management Science 2014).
- RES: the return less beta times the market's (Blitz, Huij and Martens, J. of Empirical Finance
  2011); MBETA: that beta; IVOL: the deviation of RES1 (Ang et al., J. of Finance 2006).
- PEER: how far the stock lags behind those that moved with it (pairs: Chen, Chen, Chen and Li,
  Management Science 2019).
- MOM, RESMOM: the return before the last month (Jegadeesh and Titman, J. of Finance 1993), and its
  residual; TOHIGH: close over the highest close (George and Hwang, J. of Finance 2004).
- OVERNIGHT, INTRADAY: mean return from close to open and from open to close (Lou, Polk and Skouras,
  J. of Financial Economics 2019).
- TRADED: the value traded that day over its mean.

All are ratios of prices within a stock: the level of an adjusted price tells of later dividends.

Causal: row t uses rows up to t. A window of d days is the last d rows; unknown values are skipped,
and with less than half of them known there is no factor. T dates, N stocks; arrays are (T, N).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from stockformer.data.panel import Panel

BETA_DAYS = 60
MONTH = 20  # trading days
LEAST_CORRELATION = 0.15  # of a peer, over BETA_DAYS


class Market:
    """The members of a panel's universe, and intermediates of several factors, computed lazily."""

    def __init__(self, panel: Panel) -> None:
        self.prices = panel.prices
        member = True if panel.member is None else panel.member
        self.returns = np.where(member, panel.returns, np.nan)
        self.sectors = np.full(panel.tickers.shape, "") if panel.sectors is None else panel.sectors

    def price(self, name: str) -> np.ndarray:
        """Raises ValueError where the data set has no such price."""
        if name not in self.prices:
            raise ValueError(
                f"dataset.factors: the data set has no price {name!r}, which the relative factors "
                f"{', '.join(USES[name])} are made of; leave them out"
            )
        return self.prices[name]

    @property
    def close(self) -> np.ndarray:
        return self.price("close")

    @property
    def open(self) -> np.ndarray:
        return self.price("open")

    @property
    def value(self) -> np.ndarray:
        return self.close * self.price("volume")

    @cached_property
    def mean(self) -> np.ndarray:
        """(T, 1) the market's return: the mean of the members'."""
        return _mean(self.returns)

    @cached_property
    def sector_mean(self) -> np.ndarray:
        result = np.full_like(self.returns, np.nan)
        for sector in set(self.sectors.tolist()) - {""}:
            inside = np.flatnonzero(self.sectors == sector)
            if len(inside) > 1:
                result[:, inside] = _mean(self.returns[:, inside])
        return result

    @cached_property
    def beta(self) -> np.ndarray:
        """The slope of the regression on the market's return, over the days known of both."""
        own = self.returns
        market = np.where(np.isfinite(own), self.mean, np.nan)
        own_mean, mean = average(own, BETA_DAYS), average(market, BETA_DAYS)
        shared = average(own * market, BETA_DAYS) - own_mean * mean
        slope: np.ndarray = shared / (average(market**2, BETA_DAYS) - mean**2)
        return slope

    @cached_property
    def residual(self) -> np.ndarray:
        return self.returns - self.beta * self.mean

    @cached_property
    def lag_behind_peers(self) -> np.ndarray:
        """(T, 2, N): the peers' mean return less the stock's, of one and of five days.

        Returns are those over the market's; peers are weighted by their correlation.
        """
        excess = np.nan_to_num(self.returns - self.mean)
        week = _rolling(excess, 5, least=1).sum().to_numpy()
        result = np.full((len(excess), 2, excess.shape[1]), np.nan)
        for row in range(BETA_DAYS - 1, len(excess)):
            window = excess[row + 1 - BETA_DAYS : row + 1]
            length = np.linalg.norm(window, axis=0)
            scaled = np.divide(window, length, out=np.zeros_like(window), where=length > 0)
            weights = scaled.T @ scaled
            np.fill_diagonal(weights, 0.0)
            weights[weights < LEAST_CORRELATION] = 0.0
            total = weights.sum(axis=0)
            recent = np.stack([excess[row], week[row]])  # (2,N)
            with np.errstate(invalid="ignore"):
                result[row] = recent @ weights / total - recent  # NaN without a peer
        return result

    def peers(self, days: int) -> np.ndarray:
        lag: np.ndarray = self.lag_behind_peers[:, 0 if days == 1 else 1]
        return lag


def _mean(values: np.ndarray) -> np.ndarray:
    """(T, 1) the mean of each row's known values, NaN without any."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=1, keepdims=True)
    count = known.sum(axis=1, keepdims=True)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def _rolling(values: np.ndarray, days: int, least: int | None = None) -> pd.api.typing.Rolling:
    """least: known values of a window without which it has no result; by default, half of it."""
    import pandas as pd  # noqa: PLC0415 - the names are needed before it is loaded

    return pd.DataFrame(values).rolling(days, min_periods=least or (days + 1) // 2)


def total(values: np.ndarray, days: int) -> np.ndarray:
    """The mean of the known values of the window, times its days."""
    return days * average(values, days)


def average(values: np.ndarray, days: int) -> np.ndarray:
    result: np.ndarray = _rolling(values, days).mean().to_numpy()
    return result


def before_last_month(values: np.ndarray, days: int) -> np.ndarray:
    """The sum over a window without its last month."""
    return total(values, days) - total(values, MONTH)


def deviation(values: np.ndarray, days: int) -> np.ndarray:
    result: np.ndarray = _rolling(values, days).std().to_numpy()
    return result


def highest(values: np.ndarray, days: int) -> np.ndarray:
    result: np.ndarray = _rolling(values, days).max().to_numpy()
    return result


def overnight(market: Market) -> np.ndarray:
    """Return from the last close to the open; only where the day's return is known."""
    growth = (1 + market.returns) * market.open / market.close
    return growth - 1


Factor = Callable[[Market, int], np.ndarray]
RECENT, LONG = (1, 2, 3, 5, 10, 20), (60, 120, 240)

FAMILIES: dict[str, tuple[Factor, tuple[int, ...]]] = {
    "SECREL": (lambda m, days: total(m.returns - m.sector_mean, days), RECENT),
    "SECMOM": (lambda m, days: total(m.sector_mean, days), RECENT),
    "RES": (lambda m, days: total(m.residual, days), RECENT),
    "PEER": (lambda m, days: m.peers(days), (1, 5)),
    "MOM": (lambda m, days: before_last_month(m.returns, days), LONG),
    "RESMOM": (lambda m, days: before_last_month(m.residual, days), LONG),
    "TOHIGH": (lambda m, days: m.close / highest(m.close, days), LONG),
    "MBETA": (lambda m, days: m.beta, (BETA_DAYS,)),
    "IVOL": (lambda m, days: deviation(m.residual, days), (20, 60)),
    "OVERNIGHT": (lambda m, days: average(overnight(m), days), (1, 5, 20, 60)),
    "INTRADAY": (lambda m, days: average(m.close / m.open - 1, days), (1, 5, 20, 60)),
    "TRADED": (lambda m, days: m.value / average(m.value, days), (5, 20)),
}
FACTORS: dict[str, tuple[Factor, int]] = {
    f"{family}{days}": (factor, days)
    for family, (factor, spans) in FAMILIES.items()
    for days in spans
}
RELATIVE: tuple[str, ...] = tuple(FACTORS)
USES = {
    "close": ("TOHIGH", "OVERNIGHT", "INTRADAY", "TRADED"),
    "open": ("OVERNIGHT", "INTRADAY"),
    "volume": ("TRADED",),
}
"""The families that need a price besides returns."""


def compute(panel: Panel, names: tuple[str, ...], out: np.ndarray) -> None:
    """Write the factors `names` into out (T, N, F) float32, NaN where unknown or not traded.

    Raises ValueError where the panel lacks a price that one of them needs.
    """
    market = Market(panel)
    traded = np.isfinite(panel.prices.get("close", panel.returns))
    for place, name in enumerate(names):
        factor, days = FACTORS[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            values = factor(market, days)
        out[..., place] = np.where(traded & np.isfinite(values), values, np.nan)
