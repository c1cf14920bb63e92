"""Scaling of a day's values across stocks."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.stats import rankdata

UNIFORM_DEVIATION = 12**-0.5  # standard deviation of a rank spread evenly over one

NORMAL_MAD = 1.4826  # standard deviation of a normal variable in median absolute deviations
KINDS = ("rank", "zscore", "robust")


def cross_sectional(values: np.ndarray, kind: str, axis: int, clip: float = np.inf) -> np.ndarray:
    """Each day's values scaled across stocks (along `axis`); NaN stays NaN.

    kind "rank": percentile rank, centred, ties averaged, to unit deviation; "zscore": by the day's
    mean and standard deviation, "robust": by its median and median absolute deviation (0 where that
    is 0), both clipped at `clip`. Raises ValueError for another kind.
    """
    if kind == "rank":
        return percentile_ranks(values, axis) / UNIFORM_DEVIATION
    if kind == "robust":
        return _robust_zscores(values, axis).clip(-clip, clip)
    if kind != "zscore":
        raise ValueError(f"a cross-section is scaled by {', '.join(KINDS)}, not by {kind!r}")
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=axis, keepdims=True), 1)
    mean = np.where(known, values, 0.0).sum(axis=axis, keepdims=True) / count
    centred = np.where(known, values - mean, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=axis, keepdims=True) / count)
    scaled = centred / np.where(deviation > 0, deviation, 1.0)
    return np.where(known, scaled.clip(-clip, clip), np.nan)


def percentile_ranks(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Percentile ranks minus 0.5 along `axis`, ties averaged; NaN stays NaN."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=axis, keepdims=True), 1)
    ranks = rankdata(np.where(known, values, np.inf), axis=axis)  # faster than leaving NaN out
    return np.where(known, (ranks - 0.5) / count - 0.5, np.nan)


def _robust_zscores(values: np.ndarray, axis: int) -> np.ndarray:
    known = np.isfinite(values)
    centred = np.where(known, values, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a day without any value
        centred = centred - np.nanmedian(centred, axis=axis, keepdims=True)
        spread = NORMAL_MAD * np.nanmedian(np.abs(centred), axis=axis, keepdims=True)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    return centred * scale
