"""What was read, row by row: one stock on one day each. R rows, T dates, N stocks.

Files named after their stock, and long files with a column that names it, are read alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from stockformer.data.files import gunzip, inside, read_bytes, unpacked_limit
from stockformer.data.findings import ERROR, Finding, Findings
from stockformer.data.tables import Table, day, parse_csv, parse_parquet

SUFFIXES = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class Records:
    """Rows of one or several files.

    file, row (R,): where a row stands, `file` counting in `files`. date (R,) datetime64[D], NaT
    where it could not be read. ticker (R,): position in `tickers` (N,), texts. values: columns
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
        """Some of the rows, by position or by mask; tickers stay as they are."""
        return replace(
            self,
            file=self.file[rows],
            row=self.row[rows],
            date=self.date[rows],
            ticker=self.ticker[rows],
            values={name: values[rows] for name, values in self.values.items()},
        )

    def pivot(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The dates (T,), increasing, and every column as (T, N), NaN where there is no row.

        Every date must be known and no stock have one twice.
        """
        dates, of_row = np.unique(self.date, return_inverse=True)
        cell = of_row * len(self.tickers) + self.ticker
        arrays = {}
        for name, values in self.values.items():
            array = np.full(len(dates) * len(self.tickers), np.nan)
            array[cell] = values
            arrays[name] = array.reshape(len(dates), len(self.tickers))
        return dates, arrays


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the files are written: the columns' names by what they hold ("date", "ticker", ...)."""

    columns: Mapping[str, str]
    optional: Sequence[str]
    date_format: str
    timezone: str
    delimiter: str

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1:
            raise ValueError(f"source.delimiter={self.delimiter!r}: must be one character")
        names = [name.lower() for name in self.columns.values()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"source.columns: {twice} stand for two columns each")


def read_records(path: Path, layout: Layout, findings: Findings) -> tuple[Records, dict[str, str]]:
    """All rows of a file or of a folder's files, and the SHA-256 of each file.

    A folder's files without a ticker column are named after their stock. Raises ValueError, with
    everything found, if there is nothing to go on with.
    """
    parts, hashes = [], {}
    for name, file in _files(path, findings):
        try:
            content = read_bytes(file)
            hashes[file.name] = hashlib.sha256(content).hexdigest()
            table = _table(content, file, layout, findings)
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


def _files(path: Path, findings: Findings) -> list[tuple[str, Path]]:
    """The files to read, each with the stock it is named after: "" for a file given by itself."""
    if not path.is_dir():
        return [("", path)]
    files = []
    for entry in sorted(path.iterdir()):
        suffix = next((s for s in SUFFIXES if entry.name.lower().endswith(s)), "")
        if suffix and not entry.name.startswith("."):
            try:
                files.append((entry.name[: -len(suffix)], inside(path, entry.name)))
            except ValueError as error:
                findings.error("file", Finding(str(error)))
    return files


def _table(content: bytes, file: Path, layout: Layout, findings: Findings) -> Table | None:
    wanted = {name.lower() for name in layout.columns.values()}
    if file.name.lower().endswith(".parquet"):
        limit = unpacked_limit(len(content))
        return parse_parquet(content, str(file), limit, wanted, findings)
    return parse_csv(gunzip(content, file), str(file), layout.delimiter, wanted, findings)


def _records(table: Table, name: str, layout: Layout, findings: Findings) -> Records | None:
    """The rows of a table; of the stock `name` if no column says which. None after an error."""
    present = {
        what: own.lower() for what, own in layout.columns.items() if own.lower() in table.names
    }
    optional = {*layout.optional, *(["ticker"] if name else [])}
    missing = [own for what, own in layout.columns.items() if what not in {*present, *optional}]
    findings.each(
        ERROR,
        "missing column",
        range(len(missing)),
        lambda i: Finding(f"no column {missing[i]!r}, only {table.names}", table.file),
    )
    if missing:
        return None
    dates = table.dates(present["date"], layout.date_format, layout.timezone, findings)
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


def joined(parts: Sequence[Records]) -> Records:
    """All rows of all parts, tickers in alphabetical order; a column that a part lacks is NaN."""
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
