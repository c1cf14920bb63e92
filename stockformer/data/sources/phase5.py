"""The "Phase 5" layout: prepared arrays of returns and trend, and one CSV file a factor.

`labels_file` (dates x tickers) is the index of every other array, and its values must be the
returns; factor files are matched to it by label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stockformer.data.factors.processors import fill_forward_then_zero
from stockformer.data.panel import Panel
from stockformer.data.reading.consistency import Checker
from stockformer.data.reading.files import Folder
from stockformer.data.reading.findings import ERROR, Finding, Findings
from stockformer.data.reading.quality import (
    Rules,
    check_coverage,
    check_dates,
    check_returns,
    session_gaps,
)
from stockformer.data.reading.universe import FIXED_LIST, check_tickers

SAME_RETURN = 1e-9  # largest difference between the array and the label file


def input_paths(settings: Mapping[str, Any]) -> list[Path]:
    """The folder that `load` reads with these settings."""
    return [Path(settings["root"])]


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
    quality: Mapping[str, Any],
) -> Panel:
    """Read the arrays below `root` into a panel.

    The first row has no day before it: its return, stored as 0, is unknown. Factors are filled
    forward, then with 0. Raises ValueError with every error found, naming file, date and ticker.
    """
    rules, findings, folder = Rules(**quality), Findings(), Folder(root)
    labels = folder.table(labels_file, findings)
    if labels is None:  # without labels no other array can be aligned
        findings.refuse()
        raise AssertionError("a table that cannot be read has an error")
    dates = labels.index.to_numpy().astype("datetime64[D]")
    tickers, where = labels.columns.to_numpy(dtype=str), str(folder.root / labels_file)
    returns = _array(folder, returns_file, returns_key, labels, findings)
    trend = _array(folder, trend_file, trend_key, labels, findings)
    if returns is not None:
        _compare(folder, returns_file, returns, labels_file, labels, findings)
    if returns is not None and trend is not None and not np.array_equal(trend != 0, returns > 0):
        message = "is not 1 exactly where the return is above 0"
        findings.error("trend", Finding(message, str(folder.root / trend_file)))
    names = _factor_names(folder, f"{factors_folder}/{factor_list}", labels_file, findings)
    factors = _factors(folder, factors_folder, names, labels, findings)
    check_tickers(tickers.tolist(), where, findings)
    check_dates(dates, rules, findings, where)
    check_coverage(np.isfinite(labels.to_numpy()), tickers, rules, findings, where)
    check_returns(labels.to_numpy(), dates, tickers, rules, findings, where)
    Checker(dates, tickers, findings, where).returns(labels.to_numpy(), None, np.empty(0, int))
    findings.refuse(rules.strict)
    assert returns is not None, "an array that cannot be read has an error"
    returns[0] = np.nan
    return Panel(
        dates=dates,
        tickers=tickers,
        returns=returns,
        factors=fill_forward_then_zero(factors),
        factor_names=tuple(names),
        sources=folder.hashes,
        session_gaps=tuple(session_gaps(dates, rules.max_gap_days).tolist()),
        notes=(FIXED_LIST,),
        findings=findings.result(),
    )


def _array(
    folder: Folder, name: str, key: str, labels: pd.DataFrame, findings: Findings
) -> np.ndarray | None:
    """(T, N) float64; None after an error."""
    path = str(folder.root / name)
    try:
        array = folder.array(name, key)
    except ValueError as error:
        findings.error("file", Finding(str(error)))
        return None
    if array.shape != labels.shape:
        message = f"shape {array.shape}, expected {labels.shape} as in the labels"
        findings.error("shape", Finding(message, path))
        return None
    if array.dtype.kind not in "fiub":
        findings.error("numbers", Finding(f"holds {array.dtype}, expected numbers", path))
        return None
    array = array.astype(np.float64)
    unknown = np.argwhere(~np.isfinite(array))
    findings.each(
        ERROR,
        "not finite",
        range(len(unknown)),
        lambda i: _cell(
            f"value {array[tuple(unknown[i])]}; this layout stores a number in every cell:",
            path,
            unknown[i],
            labels,
        ),
    )
    return None if len(unknown) else array


def _compare(
    folder: Folder,
    returns_file: str,
    returns: np.ndarray,
    labels_file: str,
    labels: pd.DataFrame,
    findings: Findings,
) -> None:
    different = np.argwhere(~(np.abs(returns - labels.to_numpy()) <= SAME_RETURN))
    if len(different):
        first = _cell(
            f"differs from {labels_file}",
            str(folder.root / returns_file),
            different[0],
            labels,
        )
        message = f"{first}: other tickers or dates? {len(different)} cells differ"
        findings.error("other returns", Finding(message))


def _cell(message: str, path: str, cell: np.ndarray, labels: pd.DataFrame) -> Finding:
    date, ticker = labels.index[cell[0]], labels.columns[cell[1]]
    return Finding(message, path, date=f"{date:%Y-%m-%d}", ticker=str(ticker))


def _factor_names(folder: Folder, path: str, labels_file: str, findings: Findings) -> list[str]:
    """The names in order; none after an error."""
    try:
        names = folder.lines(path)
    except ValueError as error:
        findings.error("file", Finding(str(error)))
        return []
    label = labels_file.rsplit(".", 1)[0]
    if label.lower() in (name.lower() for name in names):
        findings.error("factor list", Finding(f"the label {label!r} is listed among the factors"))
        return []
    if not names or len(set(names)) < len(names):
        message = f"the factor list is empty or names a factor twice: {names}"
        findings.error("factor list", Finding(message))
        return []
    return names


def _factors(
    folder: Folder, where: str, names: Sequence[str], labels: pd.DataFrame, findings: Findings
) -> np.ndarray:
    """(T, N, F) float32 in the order of `names`, NaN where a file has no number for it."""
    values = np.full((*labels.shape, len(names)), np.nan, dtype=np.float32)
    for i, name in enumerate(names):
        table = folder.table(f"{where}/{name}.csv", findings)
        if table is not None:
            path = str(folder.root / f"{where}/{name}.csv")
            values[..., i] = _aligned(table, labels, path, findings)
    return values


def _aligned(
    table: pd.DataFrame, labels: pd.DataFrame, path: str, findings: Findings
) -> np.ndarray:
    """The table in the labels' order of dates and tickers."""
    for what, ours, theirs in (
        ("tickers", labels.columns, table.columns),
        ("dates", labels.index, table.index),
    ):
        missing, extra = ours.difference(theirs), theirs.difference(ours)
        if len(missing) or len(extra):
            message = (
                f"other {what} than the labels: {len(missing)} missing {_some(missing)}, "
                f"{len(extra)} unknown {_some(extra)}"
            )
            findings.error("alignment", Finding(message, path))
    aligned = table.reindex(index=labels.index, columns=labels.columns).to_numpy()
    if np.isnan(aligned).all():
        findings.error("no value", Finding("no value in it", path))
    return aligned


def _some(index: pd.Index) -> list[str]:
    return [str(label).removesuffix(" 00:00:00") for label in index[:3]]
