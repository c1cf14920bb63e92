"""Which signal days train, validate and test. A target never lies in two splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """Rows of the panel that are signal days of each part, increasing; none is empty."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def by_ratio(
    *, train: float, test: float, context: str, days: int, lookback: int, span: int
) -> Split:
    """Cut `days` rows into three consecutive ranges by share; validation is what is left.

    A signal day belongs to the range it lies in if its target ends there too: the last `span` days
    of a range are purged. Its window of `lookback` days may reach back across the range's start
    (context "across") or may not ("inside", as published). Raises ValueError for an empty part.
    """
    first_test = days - round(test * days)
    first_validation = round(train * days)
    ranges = {
        "train": (0, first_validation),
        "validation": (first_validation, first_test),
        "test": (first_test, days),
    }
    parts = {}
    for name, (start, end) in ranges.items():
        first = max(start, lookback - 1) if context == "across" else start + lookback - 1
        parts[name] = np.arange(first, end - span)
        if not len(parts[name]):
            raise ValueError(
                f"split: no {name} samples in rows {start} to {end - 1} of {days}: too few for "
                f"dataset.lookback={lookback} and a target {span} days ahead"
            )
    return Split(**parts)
