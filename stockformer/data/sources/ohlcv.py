"""Daily prices: a folder of one file a stock, or long files with a column that names the stock.

CSV (plain or gzip) or Parquet. docs/data.md describes the layouts and every check.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockformer.data.panel import Panel
from stockformer.data.reading.consistency import Checker
from stockformer.data.reading.findings import Findings
from stockformer.data.reading.price_panel import price_panel
from stockformer.data.reading.quality import Rules, check_dates, checked_records
from stockformer.data.reading.records import Layout, is_auto
from stockformer.data.reading.universe import Lists

OPTIONAL = ("vwap", "adjusted", "amount")


def input_paths(settings: Mapping[str, Any]) -> list[Path]:
    """The files and folders that `load` reads with these settings."""
    return [Path(settings["path"]), *Lists(**settings["universe"]).paths()]


def load(
    *,
    path: str,
    columns: Mapping[str, str | list[str]],
    date_format: str,
    timezone: str,
    delimiter: str,
    universe: Mapping[str, str],
    quality: Mapping[str, Any],
) -> Panel:
    """Read prices into a panel without factors.

    columns: the files' names for date, ticker, open, high, low, close, volume, vwap, adjusted and
    amount; the ticker is for long files, the last three are optional (`Layout`). universe: of
    `Lists`.
    quality: of `Rules`. Returns are from close to close of consecutive sessions, NaN where either
    day was not traded or a break lies between. Raises ValueError with every error found.
    """
    rules, lists, findings = Rules(**quality), Lists(**universe), Findings()
    layout = Layout(
        columns=columns,
        optional=OPTIONAL,
        date_format=date_format,
        timezone=timezone,
        delimiter=delimiter,
    )
    records, hashes = checked_records(path, layout, rules, findings)
    dates, prices = records.pivot()
    tickers = records.tickers
    del records  # before prices are copied
    check_dates(dates, rules, findings, path)
    Checker(dates, tickers, findings, path).prices(prices)
    used = _which_price("adjusted" in prices, columns)
    sectors = lists.sectors(tickers, findings, hashes)
    member = lists.members(date_format, dates, tickers, findings, hashes)
    return price_panel(
        dates=dates,
        tickers=tickers,
        prices=prices,
        sectors=sectors,
        member=member,
        rules=rules,
        findings=findings,
        path=path,
        sources=hashes,
        notes=(used, *lists.notes()),
    )


def _which_price(is_adjusted: bool, columns: Mapping[str, str | list[str]]) -> str:
    """The note on the prices that every report shows: whether and how they are adjusted."""
    if is_adjusted:
        name = columns["adjusted"]
        named = isinstance(name, str) and not is_auto(name)
        by = f"column {name!r}" if named else "the files' adjusted close"
        return f"prices: adjusted by {by}"
    return f"prices: column {columns['close']!r}, unchanged; there is no adjusted close"
