"""The "Phase 5" layout: prepared arrays of returns and trend, and one CSV file a factor.

`labels_file` (dates x tickers) is the index of every other array, and its values must be the
returns; factor files are matched to it by label.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from stockformer.data.files import Folder
from stockformer.data.panel import Panel
from stockformer.data.processors import fill_forward_then_zero

log = logging.getLogger(__name__)

SAME_RETURN = 1e-9  # how far the array and the label file may disagree


def load(
    *,
    root: str,
    returns_file: str,
    returns_key: str,
    trend_file: str,
    trend_key: str,
    labels_file: str,
    factors_folder: str,
    factor_list: str,
) -> Panel:
    """Read the arrays below `root` into a panel.

    The first row has no day before it: its return, stored as 0, is unknown. Factors are filled
    forward, then with 0. Raises ValueError naming file, date and ticker.
    """
    folder = Folder(root)
    labels = folder.table(labels_file)
    returns = _array(folder, returns_file, returns_key, labels)
    different = np.argwhere(~(np.abs(returns - labels.to_numpy()) <= SAME_RETURN))
    if len(different):
        row, column = different[0]
        raise ValueError(
            f"{folder.root / returns_file}: differs from {labels_file} on "
            f"{labels.index[row]:%Y-%m-%d} for {labels.columns[column]}: other tickers or dates?"
        )
    trend = _array(folder, trend_file, trend_key, labels)
    if not np.array_equal(trend != 0, returns > 0):
        raise ValueError(
            f"{folder.root / trend_file}: is not 1 exactly where the return is above 0"
        )
    names = folder.lines(f"{factors_folder}/{factor_list}")
    _reject_label(names, labels_file)
    factors = _factors(folder, factors_folder, names, labels)
    _name_strays(folder, factors_folder, [factor_list, *(f"{name}.csv" for name in names)])
    returns[0] = np.nan
    return Panel(
        dates=labels.index.to_numpy().astype("datetime64[D]"),
        tickers=labels.columns.to_numpy(dtype=str),
        returns=returns,
        factors=fill_forward_then_zero(factors),
        factor_names=tuple(names),
        sources=folder.hashes,
    )


def _array(folder: Folder, name: str, key: str, labels: pd.DataFrame) -> np.ndarray:
    array = folder.array(name, key)
    path = folder.root / name
    if array.shape != labels.shape:
        raise ValueError(f"{path}: shape {array.shape}, expected {labels.shape} as in the labels")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: holds {array.dtype}, expected numbers")
    array = array.astype(np.float64)
    unknown = np.argwhere(~np.isfinite(array))
    if len(unknown):
        row, column = unknown[0]
        raise ValueError(
            f"{path}: value {array[row, column]} on {labels.index[row]:%Y-%m-%d} for "
            f"{labels.columns[column]}; this layout stores a number in every cell"
        )
    return array


def _reject_label(names: Sequence[str], labels_file: str) -> None:
    label = labels_file.rsplit(".", 1)[0]
    if label.lower() in (name.lower() for name in names):
        raise ValueError(f"the label {label!r} is listed among the factors")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"the factor list is empty or names a factor twice: {names}")


def _factors(folder: Folder, where: str, names: Sequence[str], labels: pd.DataFrame) -> np.ndarray:
    """(T, N, F) float32 in the order of `names`; all findings at once."""
    values = np.empty((*labels.shape, len(names)), dtype=np.float32)
    findings = []
    for i, name in enumerate(names):
        path = f"{where}/{name}.csv"
        try:
            values[..., i] = _aligned(folder.table(path), labels, str(folder.root / path))
        except ValueError as error:
            findings.append(str(error))
    if findings:
        raise ValueError("\n".join(findings))
    return values


def _aligned(table: pd.DataFrame, labels: pd.DataFrame, path: str) -> np.ndarray:
    """The table in the labels' order of dates and tickers."""
    for what, ours, theirs in (
        ("tickers", labels.columns, table.columns),
        ("dates", labels.index, table.index),
    ):
        missing, extra = ours.difference(theirs), theirs.difference(ours)
        if len(missing) or len(extra):
            raise ValueError(
                f"{path}: other {what} than the labels: {len(missing)} missing "
                f"{_some(missing)}, {len(extra)} unknown {_some(extra)}"
            )
    aligned = table.reindex(index=labels.index, columns=labels.columns).to_numpy()
    if np.isnan(aligned).all():
        raise ValueError(f"{path}: no value in it")
    return aligned


def _some(index: pd.Index) -> list[str]:
    return [str(label).removesuffix(" 00:00:00") for label in index[:3]]


def _name_strays(folder: Folder, where: str, wanted: Sequence[str]) -> None:
    strays = sorted(p.name for p in (folder.root / where).iterdir() if p.name not in wanted)
    if strays:
        log.info(
            "left out of %s: %d files not in the list: %s", where, len(strays), ", ".join(strays)
        )
