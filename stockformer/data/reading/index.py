"""The closes of a market index, to compare a strategy with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stockformer.data.reading.files import Folder
from stockformer.data.reading.findings import Findings

CLOSE = "close"


def index_closes(path: Path, dates: np.ndarray) -> np.ndarray:
    """(T,) closes on `dates` from a CSV of date and close; NaN where the file has none.

    Raises ValueError naming the file and what is wrong with it.
    """
    findings = Findings()
    table = Folder(path.parent).table(path.name, findings)
    findings.refuse()
    assert table is not None, "a table that cannot be read has an error"
    table.columns = table.columns.str.lower()
    if CLOSE not in table:
        raise ValueError(f"{path}: no column {CLOSE!r}, only {', '.join(table.columns)}")
    closes = table[CLOSE].reindex(pd.DatetimeIndex(dates))
    if len(wrong := closes[closes <= 0]):
        raise ValueError(f"{path}: close {wrong.iloc[0]} on {wrong.index[0]:%Y-%m-%d}, not above 0")
    known = closes.to_numpy()
    if not np.isfinite(known).any():
        raise ValueError(f"{path}: no close on any date of the data, {dates[0]} to {dates[-1]}")
    return known
