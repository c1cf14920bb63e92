"""Checks of data after reading, and the data quality report. R rows, T dates, N stocks.

Masks use only the past: a row's mask never depends on a later row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from stockformer.data.panel import Panel
from stockformer.data.reading.findings import (
    ERROR,
    LEVELS,
    REPAIRED,
    WARNING,
    Finding,
    Findings,
    lines,
)
from stockformer.data.reading.records import Layout, Records, read_records
from stockformer.data.reading.tables import MAX_NUMBER
from stockformer.data.reading.universe import check_tickers

PRICES = ("open", "high", "low", "close", "vwap", "adjusted")
USUAL_PRICE, MAX_PRICE, MAX_VOLUME = 1e9, 1e15, 1e18
ROUNDING = 1e-6  # share of a price by which open and close may lie outside low and high
UNITS = (100, 1000)  # cents instead of dollars, thousands instead of ones
LIKE_UNITS = 0.15  # relative distance from these factors within which a jump looks like one
LONG_BREAK = 4  # calendar days between sessions from which the report lists them
ONE_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Thresholds of the checks; docs/data.md explains each.

    strict: refuse warnings too. jump: daily return that looks like a corporate action (0.5: a rise
    of 50 % or the fall that reverses it). max_gap_days: longest gap between sessions, in calendar
    days, that a window may cross. max_weekend_share: of dates; above it the dates must be wrong.
    min_coverage: expected share of traded days since a stock's listing. stale_days: number of days
    after which an unchanged price counts as not traded; None: a layout without prices.
    """

    strict: bool
    jump: float
    max_gap_days: int
    max_weekend_share: float
    min_coverage: float
    stale_days: int | None = None


def checked_records(
    path: str, layout: Layout, rules: Rules, findings: Findings
) -> tuple[Records, dict[str, str]]:
    """The records of the files at `path`, checked and sorted by stock and date; SHA-256 of each.

    Raises ValueError if no row could be read.
    """
    records, hashes = read_records(Path(path), layout, findings)
    check_tickers(records.tickers.tolist(), path, findings)
    records = in_order(records, findings)
    if not len(records.date):
        findings.error("no row", Finding("no row with a date", path))
        findings.refuse()
    check_prices(records, rules, findings)
    return records, hashes


def in_order(records: Records, findings: Findings) -> Records:
    """The rows by stock and date, exact copies removed; another row for a day is an error."""
    by_stock = np.argsort(records.ticker, kind="stable")
    moved = np.zeros(len(by_stock), bool)
    moved[by_stock[1:]] = (np.diff(records.date[by_stock]) < 0 * ONE_DAY) & (
        np.diff(records.ticker[by_stock]) == 0
    )
    _stocks(findings, REPAIRED, "unsorted", records, moved, "dates out of order, sorted")
    order = np.lexsort((records.date, records.ticker))
    order = order[~np.isnat(records.date[order])]
    if not np.array_equal(order, np.arange(len(records.date))):
        records = records.only(order)
    del order
    again = _same_stock(records.ticker)
    again[1:] &= np.diff(records.date) == 0 * ONE_DAY
    copy = again.copy()
    for values in records.values.values():
        copy[1:] &= (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    _stocks(findings, REPAIRED, "duplicate row", records, copy, "exact copies removed")
    message = "another row for the same day"
    _cells(findings, ERROR, "duplicate date", records, again & ~copy, message)
    return records.only(~again) if again.any() else records


def check_prices(records: Records, rules: Rules, findings: Findings) -> None:
    """Check sorted rows; rows without real trades become NaN in place."""
    values = records.values
    for name in (n for n in PRICES if n in values):
        for level, largest in ((ERROR, MAX_PRICE), (WARNING, USUAL_PRICE)):
            huge = values[name] > largest
            message = f"a price above {largest:.0e}: another column, or a placeholder?"
            _cells(findings, level, "too large", records, huge, message, name)
            values[name][huge & (level == ERROR)] = np.nan
        wrong = values[name] <= 0
        _cells(findings, ERROR, "price not positive", records, wrong, "price not above 0", name)
        values[name][wrong] = np.nan
    for name in (n for n in ("volume", "amount") if n in values):
        huge = values[name] > MAX_VOLUME
        message = f"{name} above {MAX_VOLUME:.0e}: another column, or a placeholder?"
        _cells(findings, ERROR, "too large", records, huge, message, name)
        _cells(findings, ERROR, "negative", records, values[name] < 0, f"negative {name}", name)
    if {"high", "low"} <= set(values):
        high, low = values["high"], values["low"]
        _cells(findings, ERROR, "high below low", records, high < low, "high below low", "high")
        for name in (n for n in ("open", "close") if n in values):
            outside = (values[name] > high * (1 + ROUNDING)) | (values[name] < low * (1 - ROUNDING))
            message = f"{name} is outside low and high"
            _cells(
                findings,
                ERROR,
                "outside low and high",
                records,
                outside & (high >= low),
                message,
                name,
            )
    if "volume" in values:
        idle = values["volume"] == 0
        _stocks(findings, WARNING, "zero volume", records, idle, "no volume, counted as not traded")
        _mask(records, idle)
    prices = [name for name in PRICES if name in values]
    if prices:
        if rules.stale_days is not None:
            idle = _unchanged(records, prices, rules.stale_days)
            message = f"price unchanged for {rules.stale_days} days or more, counted as not traded"
            _stocks(findings, WARNING, "stale price", records, idle, message)
            _mask(records, idle)
        _check_jumps(records, "adjusted" if "adjusted" in values else "close", rules, findings)


def check_dates(dates: np.ndarray, rules: Rules, findings: Findings, file: str) -> None:
    """Check the sessions (T,), increasing: weekend days and gaps."""
    weekend = dates[np.is_busday(dates, weekmask="0000011")]
    if len(weekend) > rules.max_weekend_share * len(dates):
        message = f"{len(weekend)} of {len(dates)} dates are weekend days: wrong dates? the first"
        findings.error("weekend", Finding(message, file, date=str(weekend[0])))
    else:
        findings.each(
            WARNING,
            "weekend",
            range(len(weekend)),
            lambda i: Finding("a session on a weekend", file, date=str(weekend[i])),
        )
    for row in session_gaps(dates, rules.max_gap_days):
        length = (dates[row] - dates[row - 1]) // ONE_DAY
        message = f"no session for {length} days; no window crosses this gap: ends"
        findings.warning("gap", Finding(message, file, date=str(dates[row])))


def check_coverage(
    traded: np.ndarray,
    tickers: np.ndarray,
    rules: Rules,
    findings: Findings,
    file: str,
    member: np.ndarray | None = None,
) -> None:
    """Check the traded cells (T, N): a panel of one stock, stocks with no or few traded days.

    member (T, N): the cells on which a stock is expected to be traded; None: all since its listing.
    """
    stocks = traded.shape[1]
    if stocks < 2:
        findings.error(
            "one stock", Finding(f"a panel of {stocks} stock, at least 2 are needed", file)
        )
    never = ~traded.any(axis=0)
    findings.each(
        ERROR,
        "no value",
        np.flatnonzero(never).tolist(),
        lambda i: Finding(
            "no day that counts as traded, with a price and volume", file, ticker=str(tickers[i])
        ),
    )
    since = "since listing" if member is None else "since listing on which it is a member"
    share = coverage(traded, member)
    findings.each(
        WARNING,
        "many missing",
        np.flatnonzero((share < rules.min_coverage) & ~never).tolist(),
        lambda i: Finding(
            f"traded on {share[i]:.1%} of the days {since}", file, ticker=str(tickers[i])
        ),
    )


@dataclass(frozen=True)
class Report:
    """The data quality of a panel, to read before trusting a result on it.

    stocks: a row a stock, worst coverage first. sessions: weekend sessions and long breaks.
    states (T, N): NOT_LISTED yet, MISSING or TRADED.
    """

    name: str
    panel: Panel
    stocks: pd.DataFrame
    sessions: pd.DataFrame
    states: np.ndarray

    def lines(self) -> list[str]:
        """The report for a terminal."""
        dates, share = self.panel.dates, (self.states == TRADED).mean()
        late = self.stocks[self.stocks["first"] > str(dates[0])].sort_values("first")
        result = [
            f"data quality of {self.name}: {len(self.stocks)} stocks, {len(dates)} sessions, "
            f"{dates[0]} to {dates[-1]}, {share:.1%} of all cells traded",
            *self.panel.notes,
        ]
        if len(late):
            named = [f"{ticker} {first}" for ticker, first in late["first"].items()]
            result.append(f"listed later ({len(late)}): {_some(named)}")
        found_dates = {f.date for f in self.panel.findings if f.check in ("weekend", "gap")}
        named = [
            f"{date} {what}"
            for date, what in self.sessions["what"].items()
            if str(date) not in found_dates  # these are listed below
        ]
        if named:
            result.append(f"calendar ({len(named)}): {_some(named)}")
        for level in LEVELS:
            found = lines(self.panel.findings, level)
            result += [f"{level} - {line}" for line in found]
        if not self.panel.findings:
            result.append("nothing found")
        return result


NOT_LISTED, MISSING, TRADED = range(3)


def report(panel: Panel, name: str) -> Report:
    """The quality report on a prepared panel."""
    traded = np.isfinite(panel.prices.get("close", panel.returns))
    if "close" not in panel.prices:
        traded[0] = traded[1]  # the first return is always unknown
    listed = np.logical_or.accumulate(traded, axis=0)
    first, last = traded.argmax(axis=0), len(traded) - 1 - traded[::-1].argmax(axis=0)
    stocks = pd.DataFrame(
        {
            "first": panel.dates[first].astype(str),
            "last": panel.dates[last].astype(str),
            "days": traded.sum(axis=0),
            "coverage": coverage(traded),
        },
        index=pd.Index(panel.tickers, name="ticker"),
    )
    for check in ("zero volume", "stale price", "suspected corporate action"):
        count = pd.Series(0, index=stocks.index)
        for finding in panel.findings:
            if finding.check == check and finding.ticker in count.index:
                count[finding.ticker] += finding.count
        stocks[check] = count
    if panel.sectors is not None:
        stocks["sector"] = panel.sectors
    return Report(
        name=name,
        panel=panel,
        stocks=stocks.sort_values(["coverage", "days"], kind="stable"),
        sessions=_sessions(panel.dates),
        states=np.where(traded, TRADED, np.where(listed, MISSING, NOT_LISTED)).astype(np.uint8),
    )


def _sessions(dates: np.ndarray) -> pd.DataFrame:
    """Weekend sessions and sessions after a long break, by date."""
    away = np.diff(dates, prepend=dates[:1]) // ONE_DAY
    weekend = np.is_busday(dates, weekmask="0000011")
    odd = np.flatnonzero(weekend | (away > LONG_BREAK))
    what = [
        "weekend session" if weekend[row] else f"first session after {away[row]} days"
        for row in odd
    ]
    return pd.DataFrame({"what": what}, index=pd.Index(dates[odd].astype(str), name="date"))


def _some(named: Sequence[str]) -> str:
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    return ", ".join(named[:8]) + more


def check_single_precision(
    values: np.ndarray,
    name: str,
    dates: np.ndarray,
    tickers: np.ndarray,
    findings: Findings,
    file: str,
) -> None:
    """Check that no value (T, N) computed from valid ones is too large for single precision."""
    rows, columns = np.nonzero(np.abs(values) > MAX_NUMBER)
    findings.each(
        ERROR,
        "too large",
        range(len(rows)),
        lambda i: Finding(
            f"{name} is beyond single precision (3.4e38)",
            file,
            date=str(dates[rows[i]]),
            ticker=str(tickers[columns[i]]),
        ),
    )


def close_to_close(close: np.ndarray, after_gap: np.ndarray) -> np.ndarray:
    """Simple returns (T, N) of consecutive sessions; NaN in the first row and after a break."""
    returns = np.full(close.shape, np.nan)
    with np.errstate(over="ignore"):  # checked by check_single_precision
        returns[1:] = close[1:] / close[:-1] - 1
    returns[after_gap] = np.nan
    return returns


def coverage(traded: np.ndarray, member: np.ndarray | None = None) -> np.ndarray:
    """(N,) share of the days (T, N) since its first one that a stock was traded on; 0 if never.

    member (T, N): the only days that count; 1 for a stock without any.
    """
    if member is None:
        first = traded.argmax(axis=0)
        return np.asarray(traded.sum(axis=0) / (len(traded) - first))
    expected = member & np.logical_or.accumulate(traded, axis=0)
    days = expected.sum(axis=0)
    return np.where(days, (traded & expected).sum(axis=0) / np.maximum(days, 1), 1.0)


def session_gaps(dates: np.ndarray, max_gap_days: int) -> np.ndarray:
    """Rows of dates (T,) after a gap of more than `max_gap_days` without a session."""
    return np.flatnonzero(np.diff(dates) > max_gap_days * ONE_DAY) + 1


def check_returns(
    returns: np.ndarray,
    dates: np.ndarray,
    tickers: np.ndarray,
    rules: Rules,
    findings: Findings,
    file: str,
) -> None:
    """Check returns (T, N) without prices: jumps, and stocks that never move."""
    for check, hit in _jumps(1 + returns, rules.jump).items():
        rows, columns = np.nonzero(hit)

        def finding(i: int, rows: np.ndarray = rows, columns: np.ndarray = columns) -> Finding:
            row, column = rows[i], columns[i]
            message = f"{returns[row, column]:+.1%} in a day"
            return Finding(message, file, date=str(dates[row]), ticker=str(tickers[column]))

        findings.each(WARNING, check, range(len(rows)), finding)
    still = ~np.any((returns != 0) & np.isfinite(returns), axis=0)
    findings.each(
        ERROR,
        "no value",
        np.flatnonzero(still).tolist(),
        lambda i: Finding("no return other than 0", file, ticker=str(tickers[i])),
    )


def _check_jumps(records: Records, name: str, rules: Rules, findings: Findings) -> None:
    known = np.flatnonzero(np.isfinite(records.values[name]))
    price = records.values[name][known]
    ratio = np.ones(len(known))
    follows = _same_stock(records.ticker[known])[1:]
    np.divide(price[1:], price[:-1], out=ratio[1:], where=follows & (price[:-1] > 0))

    def finding(i: int) -> Finding:
        return records.finding(int(known[i]), f"{ratio[i] - 1:+.1%} in a day", name)

    for check, hit in _jumps(ratio, rules.jump).items():
        findings.each(WARNING, check, np.flatnonzero(hit).tolist(), finding)


def _jumps(ratio: np.ndarray, jump: float) -> dict[str, np.ndarray]:
    """Masks of price ratios that look like a corporate action or a change of unit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.abs(np.log(ratio))
    units = np.zeros(ratio.shape, bool)
    for factor in UNITS:
        units |= np.abs(size - np.log(factor)) < np.log(1 + LIKE_UNITS)
    action = (size > np.log1p(jump)) & ~units
    return {"suspected corporate action": action, "suspected other unit": units}


def _unchanged(records: Records, names: Sequence[str], days: int) -> np.ndarray:
    """(R,) whether all prices were the same for the last `days` rows of the stock or longer."""
    same = _same_stock(records.ticker)
    for name in names:
        same[1:] &= np.diff(records.values[name]) == 0
    position = np.arange(len(same))
    start = np.maximum.accumulate(np.where(same, 0, position))
    return position - start >= days


def _same_stock(ticker: np.ndarray) -> np.ndarray:
    """(R,) whether the row before is of the same stock."""
    return np.concatenate([[False], np.diff(ticker) == 0]) if len(ticker) else np.zeros(0, bool)


def _mask(records: Records, rows: np.ndarray) -> None:
    for values in records.values.values():
        values[rows] = np.nan


def _cells(
    findings: Findings,
    level: str,
    check: str,
    records: Records,
    hits: np.ndarray,
    message: str,
    column: str = "",
) -> None:
    """One finding for each row in `hits` (R,), the first of each file before all others."""
    rows = np.flatnonzero(hits)
    first = np.unique(records.file[rows], return_index=True)[1]
    findings.each(
        level,
        check,
        [*rows[first].tolist(), *np.delete(rows, first).tolist()],
        lambda i: records.finding(i, message, column),
    )


def _stocks(
    findings: Findings, level: str, check: str, records: Records, hits: np.ndarray, message: str
) -> None:
    """One finding for each stock of a file with rows in `hit` (R,): first row and count."""
    rows = np.flatnonzero(hits)
    _, first, count = np.unique(
        records.file[rows] * len(records.tickers) + records.ticker[rows],
        return_index=True,
        return_counts=True,
    )
    findings.each(
        level,
        check,
        range(len(first)),
        lambda i: replace(
            records.finding(rows[first[i]], f"{message} ({count[i]} times), first"),
            count=int(count[i]),
        ),
    )
