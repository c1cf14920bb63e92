"""Results of a run by date, compared by digests: only the days that differ are looked at.

The digests of a result are small and go to the process that compares; the values stay in the
process that made them, which is asked for those of some days. R rows of the panel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from stockformer.data.dataset import days_at_once

ValuesAt = Callable[[np.ndarray], np.ndarray]
"""(positions of days (P,)) -> the values of these days, (P, ...)."""


@dataclass(frozen=True)
class Dated:
    """A result without its values. rows (R,): of the panel, of its days. digests (R,): of the
    values of each day. columns: names of what its last axis holds; (): it is one result."""

    rows: np.ndarray
    digests: np.ndarray
    columns: tuple[str, ...] = ()


@dataclass
class Results:
    """dated: the results by name, without their values."""

    dated: dict[str, Dated] = field(default_factory=dict)
    _kept: dict[str, ValuesAt] = field(default_factory=dict)

    def note(
        self,
        name: str,
        rows: np.ndarray,
        values: np.ndarray | ValuesAt,
        columns: tuple[str, ...] = (),
    ) -> None:
        """Keep a result (R, ...), or what gives its values, for the panel rows (R,)."""
        at = values.__getitem__ if isinstance(values, np.ndarray) else values
        self._kept[name] = at
        self.dated[name] = Dated(rows, _digests(at, len(rows)), columns)

    def values(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The values of a result on these rows of the panel."""
        return self._kept[name](positions(self.dated[name].rows, rows))


def positions(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The position in `rows`, in any order, of each row that is wanted."""
    order = np.argsort(rows)
    found: np.ndarray = order[np.searchsorted(rows[order], wanted)]
    return found


def _digests(at: ValuesAt, days: int) -> np.ndarray:
    found = np.empty(days, np.uint64)
    size = days_at_once(at(np.arange(1)).size) if days else 1
    for first in range(0, days, size):
        block = np.arange(first, min(first + size, days))
        for position, day in zip(block, at(block)):
            form = hashlib.sha256(f"{day.shape} {day.dtype}".encode())
            form.update(np.ascontiguousarray(day).data)
            found[position] = int.from_bytes(form.digest()[:8])
    return found
