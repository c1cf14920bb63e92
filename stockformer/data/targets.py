"""The only file that looks ahead: what happens after a signal date, and how far that reaches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stockformer.data.panel import Panel


@dataclass(frozen=True)
class Targets:
    """What follows each of T signal dates, H steps ahead, for N stocks.

    values (T, H, N) float64: step h of row t is the return from the close of t+h to that of t+h+1
    (h from 0), a fraction, 0 where not valid. up, valid (T, H, N) bool. `valid` is the one
    mask of both tasks and of all metrics. `span` is the number of rows a target reaches past its
    signal date; it drives the purge.
    """

    values: np.ndarray
    up: np.ndarray
    valid: np.ndarray

    @property
    def horizon(self) -> int:
        return self.values.shape[1]

    @property
    def span(self) -> int:
        return self.horizon


def next_returns(panel: Panel, horizon: int) -> Targets:
    """The next `horizon` daily returns of each stock; class "up" where the return is above zero."""
    days, stocks = panel.returns.shape
    values = np.full((days, horizon, stocks), np.nan)
    for step in range(horizon):
        values[: days - 1 - step, step] = panel.returns[1 + step :]
    valid = np.isfinite(values)
    values[~valid] = 0.0
    return Targets(values=values, up=values > 0, valid=valid)
