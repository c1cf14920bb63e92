"""Forecasts without exposure to common factors.

The factors are the asymptotic principal components of past returns (Connor and Korajczyk, "Risk and
return in an equilibrium APT", Journal of Financial Economics 21, 1988): stocks move together along
them, so that a ranking that follows them is one bet, not one per stock.

T dates, H steps of the horizon, N stocks, D days of the window, K exposures.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

MAX_DEVIATIONS = 5.0  # up to which a return counts: one split must not be a component
MIN_RETURNS = 20  # that a stock's exposures are estimated from
MAX_CACHED = 300  # dates; their exposures serve the validation of every epoch


@dataclass(frozen=True, eq=False)
class Neutraliser:
    """Takes the exposures to common factors out of each date's forecasts.

    returns (T, N): of each day, a fraction, NaN where unknown. member (T, N) bool: of the universe;
    None: all. components: number of principal components. volatility: also the log of each stock's
    volatility. days: of returns, up to the signal date, that all of them are estimated on.
    """

    returns: np.ndarray
    member: np.ndarray | None
    components: int
    volatility: bool
    days: int
    _cache: OrderedDict[int, np.ndarray] = field(
        init=False, repr=False, default_factory=OrderedDict
    )

    def __call__(self, rows: np.ndarray, forecasts: np.ndarray) -> np.ndarray:
        """The forecasts (S, H, N) made at the close of the dates at `rows` (S,), neutralised.

        What is left of a step's forecasts after their regression on the exposures, with a constant,
        across the universe's stocks with a return on that date; their mean stays. A stock with less
        than MIN_RETURNS returns keeps its forecast, and so do all on a date with less than twice as
        many other stocks as exposures.
        """
        if not self.components and not self.volatility:
            return forecasts
        neutralised = np.array(forecasts)
        for place, row in enumerate(rows):
            exposures = self.exposures(int(row))
            fitted = np.isfinite(self.returns[row]) & np.isfinite(exposures).all(axis=1)
            if self.member is not None:
                fitted &= self.member[row]
            if fitted.sum() < 2 * exposures.shape[1]:
                continue
            centred = np.nan_to_num(exposures - exposures[fitted].mean(axis=0))
            forecast = neutralised[place]
            deviations = forecast[:, fitted] - forecast[:, fitted].mean(axis=1, keepdims=True)
            slopes = np.linalg.lstsq(centred[fitted], deviations.T, rcond=None)[0]
            neutralised[place] = forecast - (centred @ slopes).T
        return neutralised

    def exposures(self, row: int) -> np.ndarray:
        """(N, K) of the date at `row`: a column of unit length for each factor; NaN where a stock
        has too few returns, or none but zeros."""
        if row in self._cache:
            self._cache.move_to_end(row)
            return self._cache[row]
        window = self.returns[max(0, row + 1 - self.days) : row + 1]  # (D, N)
        known = np.isfinite(window)
        counts = np.maximum(known.sum(axis=0), 1)
        values = np.where(known, window, 0.0)
        deviations = np.where(known, values - values.sum(axis=0) / counts, 0.0)
        volatility = np.sqrt(np.square(deviations).sum(axis=0) / counts)
        usable = (counts >= MIN_RETURNS) & (volatility > 0)
        scale = np.where(usable, volatility, 1.0)
        scores = np.clip(deviations / scale, -MAX_DEVIATIONS, MAX_DEVIATIONS) * usable
        # N may be large: the vectors of the D x D product give those of the N x N one.
        vectors = np.linalg.eigh(scores @ scores.T)[1]
        number = min(self.components, len(window) // 2)
        # Of the returns themselves: those of standardised returns times the volatility.
        exposures = scale[:, None] * (scores.T @ vectors[:, len(window) - number :])
        if self.volatility:
            exposures = np.column_stack([exposures, np.log(scale)])
        lengths = np.linalg.norm(exposures[usable], axis=0)
        exposures /= np.where(lengths > 0, lengths, 1.0)
        exposures[~usable] = np.nan
        self._cache[row] = exposures
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)
        return exposures


def neutralise_notes(components: int, volatility: bool, days: int) -> list[str]:
    """What a report on forecasts with these settings must say."""
    names = [f"{components} principal components of returns"] * (components > 0)
    names += ["volatility"] * volatility
    if not names:
        return []
    return [f"forecasts without exposure to {' and '.join(names)} of up to {days} days"]
