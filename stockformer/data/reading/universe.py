"""The stock universe: tickers, sectors, and the days on which each stock is a member.

T dates, N stocks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stockformer.data.reading.files import gunzip, read_bytes
from stockformer.data.reading.findings import ERROR, WARNING, Finding, Findings
from stockformer.data.reading.tables import Table, parse_csv

FIXED_LIST = "survivorship: fixed list"
NAME = re.compile(r"[A-Za-z0-9^][^/\\\x00-\x1f\x7f]{0,63}")  # no path, no formula, not empty
FOREVER = np.datetime64("9999-12-31")


def check_tickers(tickers: list[str], file: str, findings: Findings) -> None:
    """Invalid tickers, and tickers that differ only by case or blanks, are errors."""
    first: dict[str, str] = {}
    for ticker in sorted(tickers):
        if not NAME.fullmatch(ticker) or ".." in ticker:
            message = f"{ticker[:70]!r} is not a ticker: a path, a formula, empty or too long"
            findings.error("ticker", Finding(message, file))
        folded = "".join(ticker.casefold().split())
        if folded in first:
            message = f"{first[folded]!r} and {ticker!r} differ only by case or blanks"
            findings.error("ticker", Finding(message, file))
        first.setdefault(folded, ticker)


def membership(
    dates: np.ndarray, tickers: np.ndarray, names: np.ndarray, start: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """(T, N) whether each stock is a member on each date.

    names, start, end (M,): the stock of each period, and its first and last day.
    """
    column = {ticker: i for i, ticker in enumerate(tickers.tolist())}
    member = np.zeros((len(dates), len(tickers)), bool)
    for ticker, first, last in zip(names.tolist(), start, end):
        if ticker in column:
            member[(dates >= first) & (dates <= last), column[ticker]] = True
    return member


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Files about the stocks; an empty path means no file.

    sectors: a row a stock, in these two columns. members: a row a membership period, in the columns
    ticker, start and end, both days included; without an end the stock is still a member.
    """

    sectors_path: str
    sectors_ticker: str
    sectors_column: str
    members_path: str

    def paths(self) -> list[Path]:
        return [Path(path) for path in (self.sectors_path, self.members_path) if path]

    def sectors(
        self, tickers: np.ndarray, findings: Findings, hashes: dict[str, str]
    ) -> np.ndarray | None:
        """(N,) the sector of each stock, "" if it is not in the file."""
        ticker_column, sector_column = self.sectors_ticker.lower(), self.sectors_column.lower()
        wanted = {ticker_column, sector_column}
        table = _read(self.sectors_path, wanted, findings, hashes)
        if table is None:
            return None
        names, of_row = table.texts(ticker_column)
        sectors, sector_of_row = table.texts(sector_column)
        sector: dict[str, str] = {}
        for row, pair in enumerate(zip(names[of_row].tolist(), sectors[sector_of_row].tolist())):
            ticker, name = pair
            if name and sector.setdefault(ticker, name) != name:
                message = f"two sectors, {sector[ticker]!r} and {name!r}"
                place = {"row": int(table.rows[row]), "ticker": ticker}
                findings.error("sector twice", Finding(message, self.sectors_path, **place))
        unknown = [ticker for ticker in tickers.tolist() if not sector.get(ticker)]
        if len(unknown) == len(tickers):
            message = f"no stock of the data is in it, e.g. not {tickers[0]}: other names?"
            findings.error("no sector", Finding(message, self.sectors_path))
        _each_ticker(findings, "no sector", "no sector", self.sectors_path, unknown)
        return np.array([sector.get(ticker, "") for ticker in tickers.tolist()], dtype=str)

    def members(
        self,
        date_format: str,
        dates: np.ndarray,
        tickers: np.ndarray,
        findings: Findings,
        hashes: dict[str, str],
    ) -> np.ndarray | None:
        """(T, N) whether each stock belonged to the universe on each date."""
        path = self.members_path
        table = _read(path, {"ticker", "start", "end"}, findings, hashes)
        if table is None:
            return None
        start = table.dates("start", date_format, "", findings)
        end = _ends(table, date_format, findings)
        findings.each(
            ERROR,
            "membership",
            np.flatnonzero(start > end).tolist(),
            lambda i: Finding("the end is before the start", path, "end", int(table.rows[i])),
        )
        names, of_row = table.texts("ticker")
        member = membership(dates, tickers, names[of_row], start, end)
        stocks = set(tickers.tolist())
        without_prices = [ticker for ticker in names.tolist() if ticker not in stocks]
        _each_ticker(findings, "membership", "a member without prices", path, without_prices)
        if not member.any():
            message = "no stock of the data is a member on any of its dates: other names, or dates?"
            findings.error("membership", Finding(message, path))
        never = tickers[~member.any(axis=0)].tolist()
        _each_ticker(findings, "membership", "never a member", path, never)
        return member

    def notes(self) -> tuple[str, ...]:
        """The note on the choice of stocks that every report shows."""
        return () if self.members_path else (FIXED_LIST,)


def _read(name: str, wanted: set[str], findings: Findings, hashes: dict[str, str]) -> Table | None:
    """The `wanted` columns of a CSV file; None if there is no such file, or after an error."""
    if not name:
        return None
    path = Path(name)
    try:
        content = read_bytes(path)
        hashes[path.name] = hashlib.sha256(content).hexdigest()
        table = parse_csv(gunzip(content, path), name, ",", wanted, findings)
    except ValueError as error:
        findings.error("file", Finding(str(error)))
        return None
    if table is None:
        return None
    missing = sorted(wanted - set(table.names))
    findings.each(
        ERROR,
        "missing column",
        range(len(missing)),
        lambda i: table.lacks(missing[i]),
    )
    return None if missing else table


def _each_ticker(
    findings: Findings, check: str, message: str, file: str, tickers: Sequence[str]
) -> None:
    findings.each(
        WARNING,
        check,
        range(len(tickers)),
        lambda i: Finding(message, file, ticker=tickers[i]),
    )


def _ends(table: Table, date_format: str, findings: Findings) -> np.ndarray:
    texts, of_row = table.texts("end")
    known = texts[of_row] != ""
    end = np.full(len(known), FOREVER)
    stays = Table(table.file, ["end"], [table.column("end").filter(known)], table.rows[known])
    if known.any():
        end[known] = stays.dates("end", date_format, "", findings)
    return end
