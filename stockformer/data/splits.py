"""The split into training, validation and test signal days. No target lies in two parts.

Every split has the same signature: its settings, then the facts dates (T,), lookback and
target_span, the number of rows a target reaches past its signal day. A part is a range of rows: a
signal day belongs to it if the day and the end of its target lie in the range, so the last
`target_span` days of a range are purged.
context: "across" lets a window of `lookback` days start before its part, "inside" does not (as
published: each part loses its first days).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """The signal days of each part: increasing rows of the panel; no part is empty."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def without(self, session_gaps: Sequence[int], lookback: int, target_span: int) -> Split:
        """Without the signal days whose window or target would cross a gap.

        session_gaps: as in `Panel`. Raises ValueError if a part is left empty.
        """
        parts = {}
        for name, signals in self.parts().items():
            across = [
                (signals - lookback + 1 < b) & (b <= signals + target_span) for b in session_gaps
            ]
            parts[name] = signals[~np.any(across, axis=0)] if across else signals
            if not len(parts[name]):
                raise ValueError(f"split: every {name} window crosses a gap in the dates")
        return Split(**parts)


def by_ratio(
    *, train: float, test: float, context: str, dates: np.ndarray, lookback: int, target_span: int
) -> Split:
    """Consecutive shares of all days: train, validation (the remaining share), test."""
    days = len(dates)
    bounds = (0, round(train * days), days - round(test * days), days)
    return _cut(bounds, dates, lookback, target_span, context)


def by_dates(
    *,
    validation_start: str | int,
    test_start: str | int,
    counted_by: str,
    context: str,
    dates: np.ndarray,
    lookback: int,
    target_span: int,
) -> Split:
    """Parts that begin on given days: ISO dates, or rows counted from 0.

    counted_by "target" assigns a sample by the first day of its target instead of its signal day.
    """
    wanted = {"validation_start": validation_start, "test_start": test_start}
    starts = [_row(key, start, dates) for key, start in wanted.items()]
    if starts[0] >= starts[1]:
        raise ValueError(
            f"split.validation_start={validation_start}: no session before "
            f"split.test_start={test_start}"
        )
    bounds = (0, *starts, len(dates))
    return _cut(bounds, dates, lookback, target_span, context, early=int(counted_by == "target"))


def walk_forward(
    *,
    fold: int,
    first_train: int,
    first_test: int,
    test_days: int,
    validation_days: int,
    train_days: int | None,
    dates: np.ndarray,
    lookback: int,
    target_span: int,
) -> Split:
    """Fold `fold` (from 0): test signal days [s, s + test_days), s = first_test + fold * test_days.

    Training begins at row first_train (expanding), or covers the last train_days before its end
    (rolling); validation is the last part of the days before s, with its own purge.
    """
    start = first_test + fold * test_days
    if first_test + target_span >= len(dates):
        raise ValueError(
            f"split.first_test={first_test}: the data have {len(dates)} days, rows 0 to "
            f"{len(dates) - 1}, and a target reaches {target_span} days ahead"
        )
    if first_train >= first_test:
        raise ValueError(f"split.first_train={first_train}: not before split.first_test")
    if fold < 0 or start + target_span >= len(dates):
        folds = max(0, -(-(len(dates) - target_span - first_test) // test_days))
        raise ValueError(f"split.fold={fold}: there are {folds} folds, 0 to {folds - 1}")
    validation = start - target_span - validation_days
    first = (
        first_train
        if train_days is None
        else max(first_train, validation - target_span - train_days)
    )
    # The targets of test days may reach past the fold, because nothing is trained on them.
    end = min(start + test_days + target_span, len(dates))
    return _cut((first, validation, start, end), dates, lookback, target_span, "across")


def _cut(
    bounds: Sequence[int],
    dates: np.ndarray,
    lookback: int,
    target_span: int,
    context: str,
    early: int = 0,
) -> Split:
    """Rows from each bound to the next, purged; a part's signals begin `early` rows sooner."""
    parts = {}
    for name, start, end in zip(("train", "validation", "test"), bounds, bounds[1:]):
        if context == "across":
            first = max(start - early, lookback - 1)
        else:
            first = start + lookback - 1
        parts[name] = np.arange(first, end - target_span)
        if not len(parts[name]):
            raise ValueError(
                f"split: no {name} samples in rows {start} to {end - 1} of {len(dates)}: too few "
                f"for dataset.lookback={lookback} and a target {target_span} days ahead"
            )
    return Split(**parts)


def _row(key: str, day: str | int, dates: np.ndarray) -> int:
    """The row of a date. Raises ValueError if it is outside the data, or no date."""
    try:
        row = day if isinstance(day, int) else int(np.searchsorted(dates, np.datetime64(day, "D")))
    except ValueError as error:
        raise ValueError(f"split.{key}={day!r}: neither an ISO date nor a row") from error
    if not 0 < row < len(dates):
        raise ValueError(
            f"split.{key}={day}: the data are of {dates[0]} to {dates[-1]}, rows 0 to "
            f"{len(dates) - 1}"
        )
    return row
