"""The factors that are computed from prices, by name, wherever their formulas are.

Names are given as in `dataset.factors`: single factors, or sets, which stand for all of theirs.
T dates, N stocks, F factors.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from stockformer.data.factors import alpha158, relative

if TYPE_CHECKING:
    from stockformer.data.panel import Panel

SETS = alpha158.SETS | {"relative": relative.RELATIVE}


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with those of a set in place of its own."""
    return tuple(name for given in names for name in SETS.get(given, (given,)))


def require_known(names: Sequence[str]) -> None:
    """Raises ValueError for a name of no factor."""
    known = alpha158.known()
    for name in names:
        if name not in known and name not in relative.FACTORS:
            choice = [*known, *relative.FACTORS]
            nearest = difflib.get_close_matches(name.upper(), choice, n=1, cutoff=0.0)[0]
            sets = ", ".join(SETS)
            raise ValueError(
                f"dataset.factors: unknown name {name!r}; the nearest known is {nearest!r}, and "
                f"{sets} stand for all of theirs"
            )


def compute(
    panel: Panel, names: Sequence[str], out: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Factors of every stock on every date, from data known on that date.

    out: (T, N, F) float32 to write into, such as a memory map, if the result should not be in RAM.
    Returns the factors (T, N, F) float32, NaN where unknown or not traded, and their names (F,).
    Raises ValueError for an unknown name, and where prices that they need are missing.
    """
    names = expand(names)
    require_known(names)
    result = np.empty((*panel.returns.shape, len(names)), np.float32) if out is None else out
    for is_relative, some, columns in parts(names):
        if is_relative:
            relative.compute(panel, some, result[..., columns])
        else:
            alpha158.compute(panel.prices, some, out=result[..., columns])
    return result, names


def extend(
    panel: Panel, names: Sequence[str], out: np.ndarray, known: np.ndarray, columns: np.ndarray
) -> bool:
    """Write what `compute` does into `out`, the same bits, taking what can be taken from `known`.

    known, columns: as of `alpha158.extend`. Relative factors depend on all stocks and are computed
    anew. False, and nothing is of use in `out`, where the known ones do not help.
    """
    for is_relative, some, places in parts(names):
        if is_relative:
            relative.compute(panel, some, out[..., places])
        elif not alpha158.extend(panel.prices, some, out[..., places], known[..., places], columns):
            return False
    return True


def parts(names: Sequence[str]) -> Iterator[tuple[bool, tuple[str, ...], slice]]:
    """Neighbouring names of the same kind: whether they are relative, and their columns."""
    first = 0
    for is_relative, group in groupby(names, key=relative.FACTORS.__contains__):
        some = tuple(group)
        yield is_relative, some, slice(first, first + len(some))
        first += len(some)
