"""Preparation of factors. Causal only: a row is made of itself and of rows before it."""

from __future__ import annotations

import numpy as np


def fill_forward_then_zero(factors: np.ndarray) -> np.ndarray:
    """Each missing cell takes the stock's last known value, 0 before there is one. (T, N, F)."""
    known = ~np.isnan(factors)
    row = np.where(known, np.arange(len(factors))[:, None, None], 0)
    last = np.maximum.accumulate(row, axis=0)
    return np.nan_to_num(np.take_along_axis(factors, last, axis=0), nan=0.0)
