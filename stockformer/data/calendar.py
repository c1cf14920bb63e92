"""The two calendar features of a day, integers."""

from __future__ import annotations

import numpy as np
import pandas as pd


def real_calendar(dates: np.ndarray) -> np.ndarray:
    """(T, 2): day of week (0 Monday .. 6 Sunday) and day of month (0 .. 30)."""
    days = pd.DatetimeIndex(dates)
    return np.stack([days.day_of_week, days.day - 1], axis=1).astype(np.int64)


def published_calendar(dates: np.ndarray) -> np.ndarray:
    """(T, 2): the published code's artificial months of 21 rows, counted from "month 2"."""
    row = np.arange(len(dates))
    return np.stack([(2 + row // 21) % 12, row % 21], axis=1)


CALENDARS = {"real": real_calendar, "published": published_calendar}
