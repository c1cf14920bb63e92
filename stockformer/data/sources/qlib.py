"""Daily prices in qlib's binary layout, read without qlib. T sessions, N stocks.

docs/data.md describes what is read and every check.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stockformer.data.panel import Panel
from stockformer.data.reading.consistency import Checker
from stockformer.data.reading.files import Folder
from stockformer.data.reading.findings import WARNING, Finding, Findings
from stockformer.data.reading.price_panel import price_panel
from stockformer.data.reading.qlib_fields import FieldNames, Fields, field_files, read_fields
from stockformer.data.reading.qlib_folder import (
    CALENDAR,
    Membership,
    list_path,
    read_days_and_members,
    require_folder,
)
from stockformer.data.reading.quality import Rules, check_dates, check_prices
from stockformer.data.reading.records import Records
from stockformer.data.reading.universe import FIXED_LIST, Lists, check_tickers

OPTIONAL = ("vwap", "amount", "factor")
PRICES = ("open", "high", "low", "close")
SPLIT = np.log(1.2)  # change of the factor that must show in unadjusted prices
MIN_SPLITS, MAX_UNADJUSTED = 3, 0.5  # number of splits to decide; share of them in the prices


def input_paths(settings: Mapping[str, Any]) -> list[Path]:
    """The files that `load` reads with these settings: of the listed stocks and fields alone."""
    root, name = Path(settings["path"]), settings["instruments"]
    names = FieldNames.of(settings["fields"], OPTIONAL)
    files = [root / CALENDAR, list_path(root, name), *field_files(root, name, names)]
    return [*files, *_lists(settings["universe"]).paths()]


def load(
    *,
    path: str,
    instruments: str,
    start: str,
    end: str,
    fields: Mapping[str, str],
    universe: Mapping[str, str],
    quality: Mapping[str, Any],
) -> Panel:
    """Read the stocks of a list into a panel without factors.

    instruments: the list; a stock counts on the days of its periods. start, end: the first and the
    last day to read; "" for all. The panel begins when a member is first traded. fields: the files'
    names for open, high, low, close, volume and, optionally, vwap, amount and factor
    (`FieldNames`). universe: sectors, of `Lists`. quality: of `Rules`. Prices are used as stored:
    qlib stores them adjusted. Raises ValueError with every error found.
    """
    rules, findings, root = Rules(**quality), Findings(), Path(path)
    names, lists = FieldNames.of(fields, OPTIONAL), _lists(universe)
    first, last = _day("start", start), _day("end", end)
    require_folder(root)
    folder = Folder(root)
    calendar, members = read_days_and_members(folder, instruments, findings)
    sessions = _sessions(calendar, first, last)
    members = _listed(members, calendar, calendar[sessions], findings)
    listed = np.unique(members.ticker)
    read = read_fields(root, listed, names, calendar, sessions, findings)
    hashes = folder.hashes | read.hashes
    dates, kept = _traded(members, listed, read, calendar[sessions], findings, path)
    tickers, records = listed[kept], _records(root, dates, listed, read, kept)
    del read
    check_prices(records, rules, findings)
    _, prices = records.pivot(dates)
    del records
    check_dates(dates, rules, findings, str(root / CALENDAR))
    checker = Checker(dates, tickers, findings, path, "dataset.source.fields")
    checker.prices(prices)
    factor = prices.pop("factor", None)
    if factor is not None:
        _check_adjusted(factor, prices["close"], dates, tickers, findings, path)
    return price_panel(
        dates=dates,
        tickers=tickers,
        prices=prices,
        sectors=lists.sectors(tickers, findings, hashes),
        member=members.on(dates, tickers),
        rules=rules,
        findings=findings,
        path=path,
        sources=hashes,
        notes=(_which_price(factor is not None), *_survivorship(members, dates, listed, tickers)),
    )


def _lists(universe: Mapping[str, str]) -> Lists:
    return Lists(**universe, members_path="")


def _day(key: str, text: str) -> np.datetime64 | None:
    """The date of a setting; None if it is empty."""
    try:
        return np.datetime64(text, "D") if text else None
    except ValueError as error:
        raise ValueError(f"dataset.source.{key}={text!r}: not a date, e.g. 2015-01-01") from error


def _sessions(
    calendar: np.ndarray, first: np.datetime64 | None, last: np.datetime64 | None
) -> slice:
    """The rows of the calendar from `first` to `last`. Raises ValueError if there is none."""
    start = 0 if first is None else int(np.searchsorted(calendar, first))
    stop = len(calendar) if last is None else int(np.searchsorted(calendar, last, side="right"))
    if start >= stop:
        raise ValueError(
            f"dataset.source.start={first or ''} and dataset.source.end={last or ''}: no session "
            f"between them; the calendar is of {calendar[0]} to {calendar[-1]}"
        )
    return slice(start, stop)


def _listed(
    members: Membership, calendar: np.ndarray, dates: np.ndarray, findings: Findings
) -> Membership:
    """The periods that reach into `dates`. Raises ValueError if there is none."""
    check_tickers(np.unique(members.ticker).tolist(), members.file, findings)
    findings.refuse()  # before a ticker becomes part of a path
    outside = np.flatnonzero((members.start > calendar[-1]) | (members.end < calendar[0]))

    findings.each(
        WARNING,
        "membership",
        outside.tolist(),
        lambda i: members.finding(i, "a membership outside the calendar"),
    )
    within = members.only((members.start <= dates[-1]) & (members.end >= dates[0]))
    if not len(within.ticker):
        message = f"no stock is a member between {dates[0]} and {dates[-1]}"
        findings.error("membership", Finding(message, members.file))
        findings.refuse()
    if (last := within.end.max()) < dates[-1]:
        message = (
            f"no stock is a member after {last}, but the data end on {dates[-1]}: an old list?"
        )
        findings.warning("membership", Finding(message, members.file))
    return within


def _traded(
    members: Membership,
    listed: np.ndarray,
    read: Fields,
    dates: np.ndarray,
    findings: Findings,
    path: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The dates from the first one on which a member has a close, and the stocks that have one."""
    known = np.isfinite(read.values["close"])
    kept = np.flatnonzero(known.any(axis=1))
    without = np.delete(listed, kept).tolist()
    findings.each(
        WARNING,
        "membership",
        range(len(without)),
        lambda i: Finding("a member without prices", path, ticker=without[i]),
    )
    traded = (known[kept] & members.on(dates, listed[kept]).T).any(axis=0)
    if not traded.any():
        if not findings.any_error():
            message = f"no stock of {members.file} has a close while it is a member: other names?"
            findings.error("membership", Finding(message, path))
        findings.refuse()
    empty = len(dates) - 1 - int(np.flatnonzero(known.any(axis=0))[-1])
    if empty:
        message = f"no stock has a close on the last {empty} sessions: not updated? the first"
        findings.warning("no value", Finding(message, path, date=str(dates[-empty])))
    return dates[traded.argmax() :], kept


def _records(
    root: Path, dates: np.ndarray, listed: np.ndarray, read: Fields, kept: np.ndarray
) -> Records:
    """A row for each kept stock and date with a price, by stock and date."""
    values = {name: array[kept, -len(dates) :] for name, array in read.values.items()}
    there = np.any([np.isfinite(values[name]) for name in PRICES], axis=0)
    stock, session = np.nonzero(there)
    return Records(
        files=tuple(str(root / name) for name in read.folders[kept]),
        file=stock,
        row=np.zeros(len(stock), int),
        date=dates[session],
        tickers=listed[kept],
        ticker=stock,
        values={name: array[there].astype(np.float64) for name, array in values.items()},
    )


def _check_adjusted(
    factor: np.ndarray,
    close: np.ndarray,
    dates: np.ndarray,
    tickers: np.ndarray,
    findings: Findings,
    path: str,
) -> None:
    """Adjusted prices do not move by the inverse of the factor where it changes; raw ones do."""
    with np.errstate(divide="ignore", invalid="ignore"):
        change, move = (np.diff(np.log(each), axis=0) for each in (factor, close))
    splits = np.isfinite(move) & np.isfinite(change) & (np.abs(change) > SPLIT)
    raw = splits & (np.abs(move + change) < np.abs(change) / 2)
    if splits.sum() >= MIN_SPLITS and raw.sum() > MAX_UNADJUSTED * splits.sum():
        row, column = np.argwhere(raw)[0]
        message = (
            f"the close moves by the inverse of the factor on {raw.sum()} of the {splits.sum()} "
            "days on which the factor changes: store prices * factor, as qlib does; the first"
        )
        found = Finding(message, path, date=str(dates[row + 1]), ticker=str(tickers[column]))
        findings.error("not adjusted", found)


def _which_price(has_factor: bool) -> str:
    """The note on the prices that every report shows."""
    if has_factor:
        return "prices: as stored, single precision, adjusted by the field factor"
    return "prices: as stored, single precision; no field factor: assumed to be adjusted"


def _survivorship(
    members: Membership, dates: np.ndarray, listed: np.ndarray, tickers: np.ndarray
) -> list[str]:
    """The notes on the choice of stocks that every report shows."""
    notes, name = [], Path(members.file).name
    last = min(dates[-1], members.end.max())
    if not members.anyone_leaves(last):
        notes.append(f"{FIXED_LIST}, no stock leaves {name} before {last}")
    if lacking := len(listed) - len(tickers):
        notes.append(
            f"survivorship: {lacking} of the {len(listed)} stocks of {name} have no prices"
        )
    return notes
