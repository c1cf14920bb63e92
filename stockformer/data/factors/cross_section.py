"""Scaling of a day's values across stocks."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

UNIFORM_DEVIATION = 12**-0.5  # standard deviation of a rank spread evenly over one

KINDS = ("rank", "zscore")


def cross_sectional(values: np.ndarray, kind: str, axis: int, clip: float = np.inf) -> np.ndarray:
    """Each day's values scaled across stocks (along `axis`); NaN stays NaN.

    kind "rank": percentile rank, centred, ties averaged, to unit deviation; "zscore": by the day's
    mean and standard deviation, clipped at `clip`. Raises ValueError for another kind.
    """
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=axis, keepdims=True), 1)
    if kind == "rank":
        ranks = rankdata(np.where(known, values, np.nan), axis=axis, nan_policy="omit")
        return ((ranks - 0.5) / count - 0.5) / UNIFORM_DEVIATION
    if kind != "zscore":
        raise ValueError(f"a cross-section is scaled by rank or zscore, not by {kind!r}")
    mean = np.where(known, values, 0.0).sum(axis=axis, keepdims=True) / count
    centred = np.where(known, values - mean, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=axis, keepdims=True) / count)
    scaled = centred / np.where(deviation > 0, deviation, 1.0)
    return np.where(known, scaled.clip(-clip, clip), np.nan)
