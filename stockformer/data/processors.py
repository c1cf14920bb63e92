"""Preparation of factors. Causal only: a row is made of itself and of rows before it."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

UNIFORM_DEVIATION = 12**-0.5  # standard deviation of a rank spread evenly over one
WIDEST = 3.0  # z-scores are cut there: one odd price is not worth ten other stocks


def fill_forward_then_zero(factors: np.ndarray) -> np.ndarray:
    """Each missing cell takes the stock's last known value, 0 before there is one. (T, N, F)."""
    known = ~np.isnan(factors)
    row = np.where(known, np.arange(len(factors))[:, None, None], 0)
    last = np.maximum.accumulate(row, axis=0)
    return np.nan_to_num(np.take_along_axis(factors, last, axis=0), nan=0.0)


def cross_sectional(values: np.ndarray, kind: str, axis: int) -> np.ndarray:
    """Each day's values across stocks (along `axis`) on a common scale of about unit deviation.

    kind "rank": percentile rank, centred, ties averaged; "zscore": by the day's mean and standard
    deviation, cut at 3; "none": as they are. NaN stays NaN and counts for nothing.
    """
    if kind == "none":
        return values
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=axis, keepdims=True), 1)
    if kind == "rank":
        ranks = rankdata(np.where(known, values, np.nan), axis=axis, nan_policy="omit")
        return ((ranks - 0.5) / count - 0.5) / UNIFORM_DEVIATION
    mean = np.where(known, values, 0.0).sum(axis=axis, keepdims=True) / count
    centred = np.where(known, values - mean, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=axis, keepdims=True) / count)
    scaled = centred / np.where(deviation > 0, deviation, 1.0)
    return np.where(known, scaled.clip(-WIDEST, WIDEST), np.nan)
