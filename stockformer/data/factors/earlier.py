"""Factors of a panel of which an earlier version is known, such as that of the day before."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from stockformer.data.factors import library
from stockformer.data.panel import Panel

log = logging.getLogger(__name__)


def extended(panel: Panel, names: Sequence[str], out: np.ndarray, earlier: Panel) -> bool:
    """Write the factors `names` of `panel` into out (T, N, F) float32, taking those of `earlier`
    for its days and for the stocks whose prices on these days are the same, bit by bit.

    False, and `out` is of no use, where the earlier panel does not help.
    """
    days = len(earlier.dates)
    same_form = (
        earlier.factor_names == tuple(names) and earlier.prices.keys() == panel.prices.keys()
    )
    if not (days and same_form and np.array_equal(earlier.dates, panel.dates[:days])):
        return False
    columns = _columns(panel, earlier)
    unchanged = int((columns >= 0).sum())
    if not unchanged or not library.extend(panel, names, out, earlier.factors, columns):
        return False
    log.info(
        "factors of %d stocks on %d days taken from the data set prepared before", unchanged, days
    )
    return True


def _columns(panel: Panel, earlier: Panel) -> np.ndarray:
    """(N,) the position in `earlier` of each stock with the same prices on its days, or -1."""
    position = {ticker: i for i, ticker in enumerate(earlier.tickers.tolist())}
    columns = np.array([position.get(ticker, -1) for ticker in panel.tickers.tolist()])
    days = len(earlier.dates)
    for name, prices in panel.prices.items():
        both = np.flatnonzero(columns >= 0)
        now, before = prices[:days, both], earlier.prices[name][:, columns[both]]
        same = (_bits(now) == _bits(before)).all(axis=0)
        columns[both[~same]] = -1
    return columns


def _bits(values: np.ndarray) -> np.ndarray:
    """Float64 as integers, so that NaN equals itself and 0.0 is not -0.0."""
    return np.ascontiguousarray(values, np.float64).view(np.int64)
