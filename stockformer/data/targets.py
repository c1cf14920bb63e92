"""Targets: the returns after a signal date. This is the only file that looks ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stockformer.data.factors.cross_section import cross_sectional
from stockformer.data.panel import Panel

CLIP = 3.0  # z-scores of targets are clipped, so that one jump does not outweigh ten stocks


@dataclass(frozen=True)
class Targets:
    """Targets of T signal dates, H steps ahead, for N stocks.

    returns (T, H, N) float64: a fraction, 0 where not valid. values (T, H, N): the training
    target, the returns or a transform of them across stocks; scale: return per unit of it.
    up, valid (T, H, N) bool; `valid` is the one mask of both tasks and of all metrics.
    start, end (H,): the target runs from the close of row t + start to that of row t + end.
    """

    returns: np.ndarray
    values: np.ndarray
    up: np.ndarray
    valid: np.ndarray
    start: np.ndarray
    end: np.ndarray
    scale: float = 1.0

    @property
    def horizon(self) -> int:
        return self.values.shape[1]

    def arrays(self) -> list[np.ndarray]:
        """Everything but the dates."""
        return [self.returns, self.values, self.up, self.valid]

    @property
    def span(self) -> int:
        """Rows that a target reaches past its signal date; every purge uses it."""
        return int(self.end[-1])


def next_returns(
    panel: Panel,
    *,
    horizon: int,
    offset: int,
    excess: bool,
    median_class: bool,
    limit_threshold: float,
) -> Targets:
    """The daily returns of the `horizon` days that begin `offset` days after the signal's close.

    excess: minus the mean of the universe that day. Class "up": the return is above zero, or, with
    median_class, above the day's median across stocks. Not valid: unknown returns, stocks that are
    no members on the signal date, and stocks locked at their limit on the day whose close the
    target starts from, because they could not be bought.
    """
    days, stocks = panel.returns.shape
    start = offset + np.arange(horizon)
    if start[-1] + 1 >= days:
        raise ValueError(
            f"target.horizon={horizon}, target.offset={offset}: the data set has only {days} days"
        )
    locked = panel.locked(limit_threshold)
    returns = np.full((days, horizon, stocks), np.nan)
    for step, first in enumerate(start):
        known = panel.returns[first + 1 :]
        tradable = ~locked[first : days - 1]
        returns[: days - 1 - first, step] = np.where(tradable, known, np.nan)
    if panel.member is not None:
        returns[~np.broadcast_to(panel.member[:, None], returns.shape)] = np.nan
    valid = np.isfinite(returns)
    if excess:
        returns -= _over_stocks(np.nanmean, returns, valid)
    above = _over_stocks(np.nanmedian, returns, valid) if median_class else 0.0
    up = valid & (returns > above)
    returns = np.where(valid, returns, 0.0)
    return Targets(returns=returns, values=returns, up=up, valid=valid, start=start, end=start + 1)


def standardise(targets: Targets, transform: str, training_days: np.ndarray) -> Targets:
    """Train on each day's z-score or rank across stocks instead of the return ("none").

    `scale` converts a forecast back to a return, by least squares through the origin on the
    training days, rows of the panel.
    """
    if transform == "none":
        return targets
    known = np.where(targets.valid, targets.returns, np.nan)
    values = np.nan_to_num(cross_sectional(known, transform, axis=2, clip=CLIP))
    seen_values, seen_returns = values[training_days], targets.returns[training_days]
    power = float((seen_values**2).sum())
    scale = float((seen_values * seen_returns).sum()) / power if power else 1.0
    return replace(targets, values=values, scale=scale)


def _over_stocks(
    statistic: Callable[..., np.ndarray], returns: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """(T, H, 1) the statistic of each day's known returns; 0 on days without any."""
    out = np.zeros((*returns.shape[:2], 1))
    some = valid.any(axis=-1)
    out[some, 0] = statistic(returns[some], axis=-1)
    return out
