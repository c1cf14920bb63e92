"""The stocks to download: a list that ships with the package, or a file of the user's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stockformer.data.reading.files import read_bytes
from stockformer.data.reading.findings import ERROR, Finding, Findings
from stockformer.data.reading.tables import Table, parse_csv
from stockformer.data.reading.universe import check_tickers

SHIPPED = Path(__file__).parents[1] / "sources" / "universes"
DATED = re.compile(r"(?P<name>\w+)-\d{4}-\d{2}-\d{2}")
TICKER = re.compile(r"[A-Za-z0-9^][A-Za-z0-9&._^=-]{0,31}")  # a ticker is also a file's name
COLUMNS = ("ticker", "symbol", "sector")


@dataclass(frozen=True)
class Market:
    """What all prices of a universe must have: an ISO currency, and the zone of the sessions."""

    currency: str
    timezone: str


MARKETS = {"nifty200": Market("INR", "Asia/Kolkata")}


@dataclass(frozen=True)
class Stock:
    """ticker: the file's name. symbol: the provider's name. sector: "" if it is unknown."""

    ticker: str
    symbol: str
    sector: str


@dataclass(frozen=True)
class Universe:
    """A list of stocks. market: None if the list does not say; then the first prices do.

    name: of the folder that the prices go into. edition: the name with the list's date.
    """

    name: str
    edition: str
    stocks: tuple[Stock, ...]
    market: Market | None

    def only(self, tickers: Sequence[str]) -> tuple[Stock, ...]:
        """The stocks of these tickers. Raises ValueError for one that is not in the list."""
        known = {stock.ticker: stock for stock in self.stocks}
        for ticker in tickers:
            if ticker not in known:
                near = difflib.get_close_matches(ticker, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"tickers: {ticker!r} is not in {self.edition}{hint}")
        return tuple(known[ticker] for ticker in dict.fromkeys(tickers))


def shipped_lists() -> dict[str, Path]:
    """The lists of the package, by name (the newest of that name) and by name with date."""
    paths = sorted(SHIPPED.glob("*.csv"))
    named = {match["name"]: path for path in paths if (match := DATED.fullmatch(path.stem))}
    return named | {path.stem: path for path in paths}


def read_universe(word: str, path: Path) -> Universe:
    """The universe of `universe=word`: the name of a shipped list, else the file at `path`.

    The file is a CSV with a column ticker; symbol (else the ticker) and sector are optional. Raises
    ValueError with every error found.
    """
    lists = shipped_lists()
    if word in lists:
        file = lists[word]
        name = word if word in MARKETS else file.stem.rsplit("-", 3)[0]
        return Universe(name, file.stem, read_stocks(file), MARKETS[name])
    if not path.exists():
        raise ValueError(
            f"universe={word}: neither a list of this package ({', '.join(sorted(lists))}) nor a "
            "file; a file is a CSV with the column ticker, and optionally symbol and sector"
        )
    return Universe(path.stem, path.stem, read_stocks(path), None)


def read_stocks(path: Path) -> tuple[Stock, ...]:
    findings, file = Findings(), str(path)
    table = parse_csv(read_bytes(path), file, ",", {*COLUMNS}, findings)
    if table is not None and "ticker" not in table.names:
        findings.error("missing column", table.lacks("ticker"))
        table = None
    if table is None:
        _refuse(findings)
        raise ValueError(f"{file}: no stock in it")
    tickers, symbols, sectors = (_cells(table, name) for name in COLUMNS)
    symbols = [symbol or ticker for ticker, symbol in zip(tickers, symbols)]
    _check(table, "ticker", tickers, findings)
    _check(table, "symbol", symbols, findings)
    check_tickers(sorted({t for t in tickers if TICKER.fullmatch(t)}), file, findings)
    _refuse(findings)
    return tuple(Stock(*cells) for cells in zip(tickers, symbols, sectors))


def _cells(table: Table, name: str) -> list[str]:
    if name not in table.names:
        return [""] * len(table.rows)
    texts, of_row = table.texts(name)
    return [str(text).strip() for text in texts[of_row]]


def _check(table: Table, column: str, names: Sequence[str], findings: Findings) -> None:
    """Names that are no file names, and names that occur twice, are errors."""

    def finding(i: int, message: str) -> Finding:
        return Finding(message, table.file, column, int(table.rows[i]))

    wrong = [i for i, name in enumerate(names) if not TICKER.fullmatch(name) or ".." in name]
    findings.each(
        ERROR,
        column,
        wrong,
        lambda i: finding(
            i, f"{names[i][:40]!r} is not a {column}: letters, digits and & . _ ^ = -, at most 32"
        ),
    )
    # Symbols mean the same in upper and lower case; of tickers check_tickers says that.
    keys = [name.upper() if column == "symbol" else name for name in names]
    first: dict[str, int] = {}
    twice = [i for i, key in enumerate(keys) if first.setdefault(key, i) != i and i not in wrong]
    findings.each(
        ERROR,
        f"{column} twice",
        twice,
        lambda i: finding(i, f"{names[i]!r} is in row {table.rows[first[keys[i]]]} already"),
    )


def _refuse(findings: Findings) -> None:
    try:
        findings.refuse()
    except ValueError as error:
        text = str(error).replace("the data are refused", "the list of stocks is refused", 1)
        raise ValueError(text) from error
