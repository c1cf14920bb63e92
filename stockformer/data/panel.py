"""The panel: data of N stocks on T dates, aligned by label, never by position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from stockformer.data.reading.findings import Finding


@dataclass(frozen=True)
class Panel:
    """Stocks by dates. T dates, N stocks, F factors; an unknown cell is NaN.

    dates (T,) datetime64[D], strictly increasing; tickers (N,) str, unique.
    returns (T, N) float64: close-to-close simple return of the day, a fraction (0.01 = 1 %).
    factors (T, N, F) float32, named in order by factor_names.
    prices: (T, N) float64 by field (open, high, low, close, volume, vwap), if the source has
        them; only ratios within a stock are meaningful.
    sources: SHA-256 of every file that was read, by file name.
    oracle (T, N, K): the expected returns of the next K days; None unless the market is simulated.
    sectors (N,) str: "" where unknown; None if the source has none.
    member (T, N) bool: whether a stock belongs to the universe that day; None: all, always.
    session_gaps: rows before which there was a gap between sessions so long that no window may
        cross it.
    notes: caveats that every report on this data must show.
    findings: findings of the source's checks that are not errors.
    stored_in: the folder of the cache that it is mapped from; None for a copy with other content.
    """

    dates: np.ndarray
    tickers: np.ndarray
    returns: np.ndarray
    factors: np.ndarray
    factor_names: tuple[str, ...]
    prices: Mapping[str, np.ndarray] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    oracle: np.ndarray | None = None
    sectors: np.ndarray | None = None
    member: np.ndarray | None = None
    session_gaps: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    stored_in: Path | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        days, stocks = len(self.dates), len(self.tickers)
        ahead = () if self.oracle is None else self.oracle.shape[2:3]
        shapes: dict[str, tuple[np.ndarray | None, tuple[int, ...]]] = {
            "returns": (self.returns, (days, stocks)),
            "factors": (self.factors, (days, stocks, len(self.factor_names))),
            "oracle": (self.oracle, (days, stocks, *ahead)),
            "sectors": (self.sectors, (stocks,)),
            "member": (self.member, (days, stocks)),
        }
        for name, prices in self.prices.items():
            shapes[f"prices[{name}]"] = (prices, (days, stocks))
        for name, (array, expected) in shapes.items():
            if array is not None and array.shape != expected:
                raise ValueError(f"panel: {name} has shape {array.shape}, expected {expected}")
        if not (np.diff(self.dates) > np.timedelta64(0, "D")).all():
            raise ValueError("panel: dates are not strictly increasing")
        for what, names in (("tickers", self.tickers), ("factor names", self.factor_names)):
            if len(set(names)) != len(names):
                raise ValueError(f"panel: {what} are not unique")

    def locked(self, limit_threshold: float) -> np.ndarray:
        """(T, N) bool: locked at a price limit, where a trade is uncertain.

        A day without a range (high = low) whose close differs from the last known one by more than
        limit_threshold, a fraction. Without high and low no day counts as locked.
        """
        if not {"high", "low", "close"} <= set(self.prices):
            return np.zeros(self.returns.shape, dtype=bool)
        close = self.prices["close"]
        last = pd.DataFrame(close).ffill().shift().to_numpy()
        move = np.abs(close / last - 1)
        locked: np.ndarray = (self.prices["high"] == self.prices["low"]) & (move > limit_threshold)
        return locked

    def tradable(self, limit_threshold: float) -> np.ndarray:
        """(T, N) bool: traded that day and not locked at a price limit."""
        known = np.isfinite(self.prices.get("close", self.returns))
        return known & ~self.locked(limit_threshold)

    def between(self, first: int, stop: int) -> Panel:
        """Only those rows, without gaps between sessions."""
        rows = slice(first, stop)
        return replace(
            self,
            dates=self.dates[rows],
            returns=self.returns[rows],
            factors=self.factors[rows],
            prices={name: array[rows] for name, array in self.prices.items()},
            oracle=None if self.oracle is None else self.oracle[rows],
            member=None if self.member is None else self.member[rows],
            session_gaps=(),
        )

    def with_tickers(self, tickers: np.ndarray) -> Panel:
        """The same panel of these stocks, in this order; one that it lacks has only NaN."""
        places = pd.Index(self.tickers).get_indexer(pd.Index(tickers))

        def chosen(array: np.ndarray | None, missing: object = np.nan) -> np.ndarray | None:
            if array is None:
                return None
            axis = min(1, array.ndim - 1)
            found: np.ndarray = np.take(array, places, axis=axis)
            found[(slice(None),) * axis + (places < 0,)] = missing
            return found

        member = np.ones(self.returns.shape, bool) if self.member is None else self.member
        arrays = {
            "returns": chosen(self.returns),
            "factors": chosen(self.factors),
            "oracle": chosen(self.oracle),
            "sectors": chosen(self.sectors, ""),
            "member": chosen(member, False),
            "prices": {name: chosen(array) for name, array in self.prices.items()},
        }
        return replace(self, tickers=tickers, **arrays)  # type: ignore[arg-type]

    def with_factors(self, factors: np.ndarray, names: tuple[str, ...]) -> Panel:
        """The same panel with other factors (T, N, F)."""
        return replace(self, factors=factors, factor_names=names)
