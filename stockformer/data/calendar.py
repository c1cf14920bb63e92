"""The two calendar features of a day, integers, and the trading days that are to come."""

from __future__ import annotations

import numpy as np
import pandas as pd

RECENT = 60
USUAL = 0.25  # of the most frequent weekday's sessions


def real_calendar(dates: np.ndarray) -> np.ndarray:
    """(T, 2): day of week (0 Monday .. 6 Sunday) and day of month (0 .. 30)."""
    days = pd.DatetimeIndex(dates)
    return np.stack([days.day_of_week, days.day - 1], axis=1).astype(np.int64)


def published_calendar(dates: np.ndarray) -> np.ndarray:
    """(T, 2): the published code's artificial months of 21 rows, counted from "month 2"."""
    row = np.arange(len(dates))
    return np.stack([(2 + row // 21) % 12, row % 21], axis=1)


def with_following_days(dates: np.ndarray, number: int) -> np.ndarray:
    """(T + number,): the dates, and those after them that fall on the market's weekdays.

    These are the weekdays of the last `RECENT` dates, without those of single special sessions.
    Holidays to come are not known.
    """
    counts = pd.DatetimeIndex(dates[-RECENT:]).day_of_week.value_counts()
    weekdays = set(counts.index[counts >= USUAL * counts.max()])
    days = dates[-1] + np.arange(1, 7 * number + 1)
    following = days[np.isin(pd.DatetimeIndex(days).day_of_week, list(weekdays))]
    return np.concatenate([dates, following[:number]])


CALENDARS = {"real": real_calendar, "published": published_calendar}
