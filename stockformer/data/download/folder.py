"""The folder that a download keeps: prices, sectors, and a side file of facts about each of them.

INTO/raw/TICKER.csv   daily prices
INTO/sectors.csv      symbol,sector
INTO/download.json    what this program wrote, with SHA-256; a file that is not in it is foreign
INTO/download.lock    held by the one download that may write here
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from stockformer.data.download.provider import COLUMNS, PRICES
from stockformer.data.download.universe import Market, Stock
from stockformer.data.reading.records import table_suffix
from stockformer.runs import atomic
from stockformer.runs.typed_json import parse_json

VERSION = 1
STOCK_FORM = {
    **dict.fromkeys(("symbol", "start", "through", "until", "first", "last", "sha256"), str),
    "sessions": int,
}
FORM = {
    "version": int,
    "provider": str,
    "universe": str,
    "market": ({"currency": str, "timezone": str}, None),
    "sectors": [str],
    "stocks": {str: STOCK_FORM},
    "pending": {str: STOCK_FORM},
}
SHOWN = 5  # files in a message


class Changed(Exception):
    """A file is not as this program left it."""


@dataclass(frozen=True)
class StockFacts:
    """What a file holds. symbol: the provider's name. start: the first day that was asked for.

    through: the last day that is known to be complete, session or not. until: no newer session can
    be complete before. first, last: of its sessions.
    """

    symbol: str
    start: date
    through: date
    until: datetime
    first: date
    last: date
    sessions: int
    sha256: str


@dataclass(frozen=True)
class Facts:
    """The side file. sectors: SHA-256 that sectors.csv may have. pending: of a file being written.

    A file's pending facts are recorded before it is written and become the facts afterwards, so
    that there is no moment at which a whole file looks foreign.
    """

    provider: str
    universe: str
    market: Market | None
    sectors: tuple[str, ...] = ()
    stocks: dict[str, StockFacts] = field(default_factory=dict)
    pending: dict[str, StockFacts] = field(default_factory=dict)


class DownloadFolder:
    """The files of one download. Raises ValueError for a folder that holds anything else."""

    def __init__(self, path: Path, facts: Facts) -> None:
        self.path, self.raw, self.facts = path, path / "raw", facts

    @property
    def sectors_file(self) -> Path:
        return self.path / "sectors.csv"

    def file(self, ticker: str) -> Path:
        return self.raw / f"{ticker}.csv"

    def require_not_foreign(self, stocks: Iterable[Stock]) -> None:
        """Raises ValueError if a file is in the way that this program did not write."""
        ours = {self.file(ticker).name for ticker in (*self.facts.stocks, *self.facts.pending)}
        there = sorted(self.raw.iterdir()) if self.raw.is_dir() else []
        foreign = [path for path in there if table_suffix(path.name) and path.name not in ours]
        if ours:  # stocks of the user's own may lie beside the downloaded ones
            wanted = {stock.ticker.casefold() for stock in stocks}
            foreign = [path for path in foreign if _stem(path).casefold() in wanted]
        elif self.path.is_dir():  # a folder of price files, not of a download
            beside = (self.sectors_file, side_file(self.path))
            here = [path for path in sorted(self.path.iterdir()) if path not in beside]
            foreign += [path for path in here if table_suffix(path.name)]
        if os.path.lexists(self.sectors_file) and not self.facts.sectors:
            foreign.append(self.sectors_file)
        if foreign:
            names = ", ".join(path.name for path in foreign[:SHOWN])
            more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
            raise ValueError(
                f"{self.path}: holds files that no download wrote ({names}{more}); they are kept: "
                "name another folder with into=FOLDER, or move them away"
            )

    def read(self, ticker: str) -> tuple[StockFacts, bytes] | None:
        """The facts and the content of a file; None if it is not there.

        Raises Changed if it is not as this program left it.
        """
        path = self.file(ticker)
        try:
            content = atomic.read(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise Changed(str(error)) from error
        digest = atomic.sha256(content)
        for facts in (self.facts.pending, self.facts.stocks):
            if ticker in facts and facts[ticker].sha256 == digest:
                return facts[ticker], content
        raise Changed(
            f"{path} was changed or damaged since it was downloaded, and is kept as it is; to "
            "download it again, move it away"
        )

    def settle(self) -> None:
        """Keep the facts of a file that a process wrote which then was killed."""
        for ticker, facts in self.facts.pending.items():
            with contextlib.suppress(Changed):
                found = self.read(ticker)
                if found is not None and found[0] == facts:
                    self.keep(ticker, facts)

    def write(self, ticker: str, facts: StockFacts, content: bytes) -> None:
        """Replace a file and its facts. Raises OSError; the file then is the old or the new one."""
        facts = replace(facts, sha256=atomic.sha256(content))
        self.record(replace(self.facts, pending={ticker: facts}))
        atomic.write(self.file(ticker), content)
        self.keep(ticker, facts)

    def keep(self, ticker: str, facts: StockFacts) -> None:
        """Record facts about a file that is there already."""
        self.record(replace(self.facts, stocks=self.facts.stocks | {ticker: facts}, pending={}))

    def write_sectors(self, stocks: Iterable[Stock]) -> None:
        """sectors.csv, of the stocks whose sector is known; no file if there are none.

        Raises ValueError if the file was changed since.
        """
        rows = [(stock.ticker, stock.sector) for stock in stocks if stock.sector]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("symbol", "sector"), *rows])
        content = text.getvalue().encode()
        digest = atomic.sha256(content)
        known = self.facts.sectors
        if os.path.lexists(self.sectors_file):  # also a link to a disk that is not there
            there = atomic.sha256(atomic.read(self.sectors_file))
            if there not in known:
                raise ValueError(
                    f"{self.sectors_file}: was changed since it was downloaded, and is kept as it "
                    "is; move it away, or name another folder with into=FOLDER"
                )
            if there == digest:
                return
        if rows:
            self.record(replace(self.facts, sectors=(digest, *known[:1])))
            atomic.write(self.sectors_file, content)
            self.record(replace(self.facts, sectors=(digest,)))

    def record(self, facts: Facts) -> None:
        """Replace the side file."""
        text = json.dumps({"version": VERSION, **asdict(facts)}, indent=1, default=_as_text)
        atomic.write(side_file(self.path), text.encode() + b"\n")
        self.facts = facts


@contextlib.contextmanager
def open_folder(path: Path, new: Facts, stocks: Iterable[Stock]) -> Iterator[DownloadFolder]:
    """The folder of a download, locked; `new` are the facts of a folder that has none yet.

    Raises ValueError if another download writes there, if it is of another provider or universe, or
    if it holds foreign files. A folder that is refused is not changed.
    """
    side = side_file(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: not a folder; name another with into=FOLDER")
    if not side.exists():
        DownloadFolder(path, new).require_not_foreign(stocks)  # before anything is created
    path.mkdir(parents=True, exist_ok=True)
    descriptor = atomic.lock(path / "download.lock")
    if descriptor is None:
        raise ValueError(f"{path}: another download is writing there; wait until it ends")
    try:
        facts = _read_facts(side) if side.exists() else new
        for key in ("provider", "universe"):
            if getattr(facts, key) != getattr(new, key):
                raise ValueError(
                    f"{path}: holds the prices of {key} {getattr(facts, key)}, not of "
                    f"{getattr(new, key)}; name another folder with into=FOLDER"
                )
        folder = DownloadFolder(path, replace(facts, market=facts.market or new.market))
        folder.require_not_foreign(stocks)
        folder.raw.mkdir(exist_ok=True)
        for each in (path, folder.raw):
            atomic.remove_temporary_files(each)
        folder.settle()
        yield folder
    finally:
        os.close(descriptor)


def side_file(path: Path) -> Path:
    return path / "download.json"


def to_csv(sessions: pd.DataFrame, header: bool) -> bytes:
    """The rows of sessions, indexed by day; prices with all their digits."""
    text = sessions.to_csv(
        index_label="Date", header=header, date_format="%Y-%m-%d", lineterminator="\n"
    )
    return text.encode()


def from_csv(content: bytes) -> pd.DataFrame:
    """The inverse of `to_csv` with a header."""
    return pd.read_csv(
        io.BytesIO(content),
        index_col="Date",
        parse_dates=["Date"],
        date_format="%Y-%m-%d",
        dtype=dict.fromkeys(PRICES, "float64") | {"Volume": "int64"},
    )[[*COLUMNS]]


def _read_facts(side: Path) -> Facts:
    try:
        value = parse_json(atomic.read(side), FORM, str(side))
        stocks, pending = (
            {ticker: _stock_facts(facts) for ticker, facts in value[key].items()}
            for key in ("stocks", "pending")
        )
    except ValueError as error:
        raise ValueError(
            f"{error}; move the folder away and download again, or name another with into=FOLDER"
        ) from error
    if value["version"] != VERSION:
        raise ValueError(f"{side}: version {value['version']}, written by a newer stockformer")
    return Facts(
        provider=value["provider"],
        universe=value["universe"],
        market=None if value["market"] is None else Market(**value["market"]),
        sectors=tuple(value["sectors"]),
        stocks=stocks,
        pending=pending,
    )


def _stock_facts(value: dict[str, Any]) -> StockFacts:
    days: dict[str, Any] = {
        key: date.fromisoformat(value[key]) for key in ("start", "through", "first", "last")
    }
    until = datetime.fromisoformat(value["until"])
    if until.tzinfo is None:
        raise ValueError(f"until={value['until']} has no time zone")
    plain: dict[str, Any] = {key: value[key] for key in ("symbol", "sessions", "sha256")}
    return StockFacts(until=until, **plain, **days)


def _as_text(value: date | datetime) -> str:
    return value.isoformat()


def _stem(path: Path) -> str:
    return path.name[: -len(table_suffix(path.name))]
