"""The two integers a day the model is told about."""

from __future__ import annotations

import numpy as np
import pandas as pd


def real_calendar(dates: np.ndarray) -> np.ndarray:
    """(T, 2): day of week (0 Monday .. 6 Sunday) and day of month (0 .. 30)."""
    days = pd.DatetimeIndex(dates)
    return np.stack([days.day_of_week, days.day - 1], axis=1).astype(np.int64)


def published_calendar(dates: np.ndarray) -> np.ndarray:
    """(T, 2): the published code's made-up months of 21 rows, counted from "month 2"."""
    row = np.arange(len(dates))
    return np.stack([(2 + row // 21) % 12, row % 21], axis=1)


CALENDARS = {"real": real_calendar, "published": published_calendar}
