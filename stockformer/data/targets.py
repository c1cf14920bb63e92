"""The only file that looks ahead: what happens after a signal date, and how far that reaches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stockformer.data.panel import Panel
from stockformer.data.processors import cross_sectional


@dataclass(frozen=True)
class Targets:
    """What follows each of T signal dates, H steps ahead, for N stocks.

    returns (T, H, N) float64: step h of row t is the return from the close of t+h to that of t+h+1
    (h from 0), a fraction, 0 where not valid. values (T, H, N): what a model is trained on, the
    returns or a transform of them across stocks; unit: return per unit of it. up, valid (T, H, N)
    bool. `valid` is the one mask of both tasks and of all metrics.
    """

    returns: np.ndarray
    values: np.ndarray
    up: np.ndarray
    valid: np.ndarray
    unit: float = 1.0

    @property
    def horizon(self) -> int:
        return self.values.shape[1]

    @property
    def span(self) -> int:
        """Rows a target reaches past its signal date; it drives the purge."""
        return self.horizon


def next_returns(panel: Panel, horizon: int) -> Targets:
    """The next `horizon` daily returns of each stock; class "up" where the return is above zero."""
    days, stocks = panel.returns.shape
    returns = np.full((days, horizon, stocks), np.nan)
    for step in range(horizon):
        returns[: days - 1 - step, step] = panel.returns[1 + step :]
    valid = np.isfinite(returns)
    returns[~valid] = 0.0
    return Targets(returns=returns, values=returns, up=returns > 0, valid=valid)


def standardise(targets: Targets, transform: str, training_days: np.ndarray) -> Targets:
    """Train on each day's z-score or rank across stocks instead of the return ("none").

    `unit` turns a forecast back into a return: least squares through the origin on the training
    days, rows of the panel.
    """
    if transform == "none":
        return targets
    known = np.where(targets.valid, targets.returns, np.nan)
    values = np.nan_to_num(cross_sectional(known, transform, axis=2))
    seen_values, seen_returns = values[training_days], targets.returns[training_days]
    power = float((seen_values**2).sum())
    unit = float((seen_values * seen_returns).sum()) / power if power else 1.0
    return replace(targets, values=values, unit=unit)
