"""Your own features: long files, a row for each stock and day, with a price or a return.

CSV (plain or gzip) or Parquet. docs/data.md describes the layout and every check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockformer.data.panel import Panel
from stockformer.data.reading.consistency import Checker
from stockformer.data.reading.findings import ERROR, Finding, Findings
from stockformer.data.reading.quality import (
    Rules,
    check_coverage,
    check_dates,
    check_returns,
    check_single_precision,
    checked_records,
    close_to_close,
    session_gaps,
)
from stockformer.data.reading.records import Layout
from stockformer.data.reading.universe import Lists

PRICE, RETURN = "close", "return"  # the label is made of one of them; it must be named


def input_paths(settings: Mapping[str, Any]) -> list[Path]:
    """The files and folders that `load` reads with these settings."""
    return [Path(settings["path"]), *Lists(**settings["universe"]).paths()]


def load(
    *,
    path: str,
    columns: Mapping[str, str],
    features: Sequence[str],
    ratios_to_close: Sequence[str],
    date_format: str,
    timezone: str,
    delimiter: str,
    universe: Mapping[str, str],
    quality: Mapping[str, Any],
) -> Panel:
    """Read features into a panel: factors are the unchanged `features`, then the ratios.

    columns: the files' names for date, ticker, close and return; the name of either close or return
    may be empty. Without a return it is from close to close of consecutive sessions, NaN where
    either is missing. ratios_to_close: columns in the unit of the price, such as moving averages;
    the factor is value / close - 1, because levels of different stocks are not comparable.
    universe: of `Lists`. quality: of `Rules`. Raises ValueError with every error found.
    """
    rules, lists, findings = Rules(**quality), Lists(**universe), Findings()
    own = {what: name for what, name in columns.items() if name}
    _check_names(own, features, ratios_to_close)
    wanted = [*features, *ratios_to_close]
    layout = Layout(
        columns=own | {f"feature {name}": name for name in wanted},
        optional=(),
        date_format=date_format,
        timezone=timezone,
        delimiter=delimiter,
    )
    records, hashes = checked_records(path, layout, rules, findings)
    dates, arrays = records.pivot()
    tickers = records.tickers
    del records  # before the factors are copied
    after_gap = session_gaps(dates, rules.max_gap_days)
    if RETURN in own:
        returns = arrays[RETURN]
        check_returns(returns, dates, tickers, rules, findings, path)
        checker = Checker(dates, tickers, findings, path)
        checker.returns(returns, arrays.get(PRICE), after_gap)
    else:
        returns = close_to_close(arrays[PRICE], after_gap)
    check_dates(dates, rules, findings, path)
    check_coverage(np.isfinite(arrays.get(PRICE, returns)), tickers, rules, findings, path)
    check_single_precision(returns, "the return", dates, tickers, findings, path)
    factors = np.empty((*returns.shape, len(wanted)), np.float32)
    for i, name in enumerate(wanted):
        values = arrays.pop(f"feature {name}")
        if name in ratios_to_close:
            values = values / arrays[PRICE] - 1
        check_single_precision(values, name, dates, tickers, findings, path)
        with np.errstate(over="ignore"):
            factors[..., i] = values
    empty = [i for i in range(len(wanted)) if np.isnan(factors[..., i]).all()]
    findings.each(
        ERROR, "no value", empty, lambda i: Finding("no value in it", path, column=wanted[i])
    )
    sectors = lists.sectors(tickers, findings, hashes)
    member = lists.members(date_format, dates, tickers, findings, hashes)
    findings.refuse(rules.strict)
    return Panel(
        dates=dates,
        tickers=tickers,
        returns=returns,
        factors=factors,
        factor_names=(*features, *(f"{name}/close-1" for name in ratios_to_close)),
        prices={PRICE: arrays[PRICE]} if PRICE in own else {},
        sources=hashes,
        sectors=sectors,
        member=member,
        session_gaps=tuple(after_gap.tolist()),
        notes=(_which_return(own), *lists.notes()),
        findings=findings.result(),
    )


def _which_return(own: Mapping[str, str]) -> str:
    """The note on the returns that every report shows."""
    if RETURN in own:
        return f"returns: column {own[RETURN]!r}, unchanged"
    return f"returns: from close to close of column {own[PRICE]!r}, assumed to be adjusted"


def _check_names(
    columns: Mapping[str, str], features: Sequence[str], ratios_to_close: Sequence[str]
) -> None:
    if not {PRICE, RETURN} & columns.keys():
        raise ValueError("dataset.source.columns: name the column of the close or of the return")
    if ratios_to_close and PRICE not in columns:
        raise ValueError(
            "dataset.source.ratios_to_close: name the column of the close (dataset.source.columns)"
        )
    if not [*features, *ratios_to_close]:
        raise ValueError(
            "dataset.source.features and dataset.source.ratios_to_close name no column"
        )
    taken = {name.lower() for name in columns.values()}
    for name in [*features, *ratios_to_close]:
        if name.lower() in taken:
            raise ValueError(
                f"dataset.source.features: {name!r} is the date, the ticker, or the column that "
                "the label is made of"
            )
