"""Records read from files, one row a stock and day. R rows, T dates, N stocks.

Files named after their stock and long files with a ticker column give the same records.
"""

from __future__ import annotations

import hashlib
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from stockformer.data.reading.files import gunzip, inside, read_bytes
from stockformer.data.reading.findings import ERROR, Finding, Findings
from stockformer.data.reading.tables import Table, day, parse_csv, parse_parquet

SUFFIXES = (".csv", ".csv.gz", ".parquet")
AUTO = "auto"  # a column under one of its usual names, if there is one
COLUMN_ALIASES = {
    "adjusted": (
        *("adj close", "adj_close", "adjclose", "adj. close", "adj-close", "close_adj"),
        "adjustmentclose",
        *("adjusted close", "adjusted_close", "adjustedclose", "adjusted_close_price"),
    ),
    "vwap": ("vwap",),
    "amount": ("amount",),
}
OTHERS_ADJUSTED = ("open", "high", "low", "volume", "factor", "vwap")
NAMES_A_STOCK = ("symbol", "tic", "instrument", "sid", "isin", "stock", "code")
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
COPY = re.compile(r"copy of (.+)|(.+?) ?\(\d+\)|(.+?)[ _-]+copy(?: ?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Records:
    """Rows of one or several files.

    file, row (R,): the place of a row; `file` is a position in `files`. date (R,) datetime64[D],
    NaT where it could not be read. ticker (R,): position in `tickers` (N,), texts. values: columns
    (R,) float64 by name, NaN where missing.
    """

    files: tuple[str, ...]
    file: np.ndarray
    row: np.ndarray
    date: np.ndarray
    tickers: np.ndarray
    ticker: np.ndarray
    values: dict[str, np.ndarray]

    def finding(self, i: int, message: str, column: str = "") -> Finding:
        """A finding about row i."""
        return Finding(
            message,
            self.files[self.file[i]],
            column,
            int(self.row[i]),
            day(self.date[i]),
            str(self.tickers[self.ticker[i]]),
        )

    def only(self, rows: np.ndarray) -> Records:
        """Some of the rows, by position or by mask; tickers are unchanged."""
        return replace(
            self,
            file=self.file[rows],
            row=self.row[rows],
            date=self.date[rows],
            ticker=self.ticker[rows],
            values={name: values[rows] for name, values in self.values.items()},
        )

    def pivot(self, sessions: np.ndarray | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The dates (T,), increasing, and every column as (T, N), NaN where there is no row.

        sessions: the dates, of which every row has one; None: those of the rows. Every date must be
        known, and no stock may have a date twice. The columns are taken out of `values`, so that
        memory does not hold all of them twice.
        """
        if sessions is None:
            dates, of_row = np.unique(self.date, return_inverse=True)
        else:
            dates, of_row = sessions, np.searchsorted(sessions, self.date)
        cell = of_row * len(self.tickers) + self.ticker
        arrays = {}
        for name in list(self.values):
            array = np.full(len(dates) * len(self.tickers), np.nan)
            array[cell] = self.values.pop(name)
            arrays[name] = array.reshape(len(dates), len(self.tickers))
        return dates, arrays


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of the files: the columns' names by their content ("date", "ticker", ...).

    optional: columns that may be "auto" (read under one of their usual names, if present), a list
    of names (likewise), or "" (not read). Any other name must exist. delimiter: a character, or its
    English name. Raises ValueError naming the setting.
    """

    columns: Mapping[str, str | list[str]]
    optional: Sequence[str]
    date_format: str
    timezone: str
    delimiter: str

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 and self.delimiter not in DELIMITERS:
            raise ValueError(
                f"dataset.source.delimiter={self.delimiter!r}: must be one character, or one of "
                f"{', '.join(DELIMITERS)}"
            )
        for what, name in self.columns.items():
            if what not in self.optional and not self.needed(what):
                raise ValueError(
                    f"dataset.source.columns.{what}={name!r} names no column, but is required"
                )
        needed = map(self.needed, self.columns)
        names = [name.lower() for name in needed if name]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"dataset.source.columns: {twice} stand for two columns each")
        require_date_format(self.date_format)
        if self.timezone:
            try:
                zoneinfo.ZoneInfo(self.timezone)
            except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError) as error:
                raise ValueError(
                    f"dataset.source.timezone={self.timezone!r}: not a time zone, e.g. Asia/Kolkata"
                ) from error

    @property
    def separator(self) -> str:
        return separator(self.delimiter)

    def needed(self, what: str) -> str:
        """The name of a column that must be in every file; "" if it is optional."""
        name = self.columns[what]
        return name.strip() if isinstance(name, str) and not is_auto(name) else ""

    def candidate_names(self, what: str) -> tuple[str, ...]:
        """In lower case, the names that the column may have in a file; none if it is not read.

        A name that is set for another column is not a candidate for an "auto" column.
        """
        name = self.columns[what]
        if needed := self.needed(what):
            return (needed.lower(),)
        names = [each.lower() for each in name] if isinstance(name, list) else COLUMN_ALIASES[what]
        claimed = {self.needed(other).lower() for other in self.columns}
        return tuple(each for each in names if each not in claimed) if name else ()


def is_auto(name: str | list[str]) -> bool:
    return isinstance(name, str) and name.strip().lower() == AUTO


def require_date_format(date_format: str) -> None:
    """Raises ValueError unless the format has year, month and day."""
    moment = datetime(2023, 11, 28, tzinfo=UTC)
    try:
        read = datetime.strptime(moment.strftime(date_format), date_format)
    except (ValueError, re.error) as error:
        raise ValueError(f"dataset.source.date_format={date_format!r}: {error}") from error
    if read.date() != moment.date():
        raise ValueError(
            f"dataset.source.date_format={date_format!r}: must have year, month and day, "
            "e.g. %d/%m/%Y"
        )


def read_records(path: Path, layout: Layout, findings: Findings) -> tuple[Records, dict[str, str]]:
    """All rows of a file or of a folder's files, and the SHA-256 of each file.

    A folder's files without a ticker column are named after their stock. Raises ValueError, with
    all findings, if no row could be read.
    """
    parts, hashes = [], {}
    for name, file in _files(path, findings):
        try:
            content = read_bytes(file)
            hashes[file.name] = hashlib.sha256(content).hexdigest()
            table = _table(content, file, layout, findings)
            del content  # before its columns are copied
        except ValueError as error:
            findings.error("file", Finding(str(error)))
            continue
        if table is not None:
            part = _records(table, name, layout, findings)
            parts += [] if part is None else [part]
    if not parts:
        if not findings.any_error():
            findings.error("file", Finding("no CSV or Parquet file in it", str(path)))
        findings.refuse()
    return joined(parts), hashes


def separator(delimiter: str) -> str:
    """The character of a delimiter that may be named, such as semicolon."""
    return DELIMITERS.get(delimiter, delimiter)


def table_suffix(name: str) -> str:
    """The suffix of a file name that is read as a table of prices; "" for any other file."""
    if name.startswith("."):
        return ""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def is_parquet(file: Path) -> bool:
    return file.name.lower().endswith(".parquet")


def _files(path: Path, findings: Findings) -> list[tuple[str, Path]]:
    """The files to read, each with the stock it is named after; "" if `path` is a single file."""
    if not path.is_dir():
        return [("", path)]
    files, entries = [], sorted(path.iterdir())
    names = {entry.name.lower().split(".csv")[0].split(".parquet")[0] for entry in entries}
    for entry in entries:
        if not (suffix := table_suffix(entry.name)):
            continue
        name = entry.name[: -len(suffix)]
        copy = COPY.fullmatch(name)
        if copy and next(filter(None, copy.groups())).lower() in names:
            message = "its name is that of a copy of another file here; remove or rename it"
            findings.error("copy of a file", Finding(message, str(entry)))
        else:
            try:
                files.append((name, inside(path, entry.name)))
            except ValueError as error:
                findings.error("file", Finding(str(error)))
    return files


def _table(content: bytes, file: Path, layout: Layout, findings: Findings) -> Table | None:
    names = map(layout.candidate_names, layout.columns)
    wanted = {*NAMES_A_STOCK, *(name for candidates in names for name in candidates)}
    if is_parquet(file):
        return parse_parquet(content, str(file), wanted, findings)
    return parse_csv(gunzip(content, file), str(file), layout.separator, wanted, findings)


def _records(table: Table, name: str, layout: Layout, findings: Findings) -> Records | None:
    """The rows of a table, of the stock `name` without a ticker column. None after an error."""
    present, missing = _found(table, name, layout, findings)
    findings.each(
        ERROR,
        "missing column",
        range(len(missing)),
        lambda i: table.lacks(layout.needed(missing[i]), _setting(missing[i])),
    )
    if missing:
        return None
    dates = table.dates(present["date"], layout.date_format, layout.timezone, findings)
    if "ticker" not in present and name and not _has_one_stock(table, dates, present, findings):
        return None
    tickers, of_row = np.array([name], dtype=str), np.zeros(len(dates), int)
    if "ticker" in present:
        tickers, of_row = table.texts(present["ticker"])
    records = Records(
        (table.file,), np.zeros(len(dates), int), table.rows, dates, tickers, of_row, {}
    )
    for what, column in present.items():
        if what not in ("date", "ticker"):
            finding = partial(records.finding, column=column)
            records.values[what] = table.numbers(column, findings, finding)
    return records


def _setting(what: str) -> str:
    return (
        "dataset.source.features"
        if what.startswith("feature ")
        else f"dataset.source.columns.{what}"
    )


def _found(
    table: Table, name: str, layout: Layout, findings: Findings
) -> tuple[dict[str, str], list[str]]:
    """The table's column for each name of the layout, and the required columns that are missing."""
    present, missing, used = {}, [], set()
    for what in layout.columns:
        names = layout.candidate_names(what)
        there = [own for own in names if own in table.names]
        used |= {*there}
        if len(there) > 1:
            message = f"columns {there} all match; choose one with dataset.source.columns.{what}"
            findings.error("two columns", Finding(message, table.file))
        if there:
            present[what] = there[0]
        elif layout.needed(what) and (what != "ticker" or not name):
            missing.append(what)
    unused = [
        column
        for column in table.header
        if "adj" in column.lower() and column.lower() not in used
        if not any(word in column.lower() for word in OTHERS_ADJUSTED)
    ]
    if unused and "adjusted" not in present and layout.columns.get("adjusted"):
        message = (
            f"column {unused[0]!r} is not read; if it is the adjusted close, name it in "
            "dataset.source.columns.adjusted"
        )
        findings.warning("column not read", Finding(message, table.file))
    return present, missing


def _has_one_stock(
    table: Table, dates: np.ndarray, present: Mapping[str, str], findings: Findings
) -> bool:
    """Whether a file that is named after its stock holds only one stock."""
    for column in (c for c in NAMES_A_STOCK if c in table.names and c not in present.values()):
        texts, of_row = table.texts(column)
        order = np.lexsort((of_row, dates))
        same_day = np.diff(dates[order]) == np.timedelta64(0, "D")
        if (same_day & (np.diff(of_row[order]) != 0)).any():
            message = (
                f"column {column!r} has {len(texts)} values, e.g. {str(texts[0])!r}, several on a "
                f"day: if it names the stock, set dataset.source.columns.ticker={column}"
            )
            findings.error("several stocks", Finding(message, table.file))
            return False
    return True


def joined(parts: Sequence[Records]) -> Records:
    """All rows of all parts, tickers in alphabetical order; a column that a part lacks is NaN."""
    if len(parts) == 1:  # without a copy
        return replace(parts[0], values=dict(sorted(parts[0].values.items())))
    tickers = np.unique(np.concatenate([part.tickers for part in parts]))
    names = sorted({name for part in parts for name in part.values})

    def column(part: Records, name: str) -> np.ndarray:
        return part.values.get(name, np.full(len(part.date), np.nan))

    return Records(
        files=tuple(file for part in parts for file in part.files),
        file=np.repeat(np.arange(len(parts)), [len(part.date) for part in parts]),
        row=np.concatenate([part.row for part in parts]),
        date=np.concatenate([part.date for part in parts]),
        tickers=tickers,
        ticker=np.concatenate([np.searchsorted(tickers, p.tickers)[p.ticker] for p in parts]),
        values={name: np.concatenate([column(part, name) for part in parts]) for name in names},
    )
