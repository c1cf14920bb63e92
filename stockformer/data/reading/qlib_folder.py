"""A folder in qlib's binary layout. T sessions, N stocks, M periods of membership.

calendars/day.txt: a date a line. instruments/LIST.txt: ticker, first and last day of a membership,
separated by tabs. features/STOCK/FIELD.day.bin: little-endian float32, first the position of the
first session in the calendar, then a value a session, NaN where there is none. Layout: qlib 0.9.7,
``qlib/data/storage/file_storage.py`` and ``scripts/dump_bin.py``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stockformer.data.reading.files import Folder, inside, read_bytes
from stockformer.data.reading.findings import ERROR, WARNING, Finding, Findings
from stockformer.data.reading.tables import EARLIEST, plain_text

CALENDAR, LISTS, FEATURES = "calendars/day.txt", "instruments", "features"
SUFFIX, MINUTES = ".day.bin", ".1min.bin"
AUTO = "auto"  # a field of that name, if there is one
FIELD_NAME = re.compile(r"\$?\w[\w.-]*")
LIST_NAME = re.compile(r"\w[\w.-]*")
# Windows refuses these as names of folders, so qlib puts a prefix before them.
DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{i}" for port in ("com", "lpt") for i in range(10)),
}
DEVICE_PREFIX = "_qlib_"
SHOWN = 10  # names in a message


@dataclass(frozen=True)
class Membership:
    """Periods of membership (M,), both days included. line: in the list `file`, from 1."""

    file: str
    line: np.ndarray
    ticker: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def only(self, rows: np.ndarray) -> Membership:
        """Some of the periods, by position or by mask."""
        return Membership(
            self.file, self.line[rows], self.ticker[rows], self.start[rows], self.end[rows]
        )

    def finding(self, i: int, message: str, date: object = "") -> Finding:
        """A finding about period i."""
        return Finding(
            message,
            self.file,
            row=int(self.line[i]),
            date=str(date),
            ticker=str(self.ticker[i]),
        )

    def on(self, dates: np.ndarray, tickers: np.ndarray) -> np.ndarray:
        """(T, N) whether each stock is a member on each date."""
        member = np.zeros((len(dates), len(tickers)), bool)
        column = {ticker: i for i, ticker in enumerate(tickers.tolist())}
        first = np.searchsorted(dates, self.start)
        stop = np.searchsorted(dates, self.end, side="right")
        for ticker, a, b in zip(self.ticker.tolist(), first.tolist(), stop.tolist()):
            if ticker in column:
                member[a:b, column[ticker]] = True
        return member

    def anyone_leaves(self, last: np.datetime64) -> bool:
        """Whether the last period of a stock ends before the day `last`."""
        ends = pd.Series(self.end).groupby(self.ticker).max()
        return bool((ends.to_numpy() < last).any())


@dataclass(frozen=True)
class Fields:
    """Values of stocks: float32 (N, T) by field; folders (N,): the stocks' own, "" where none is.

    hashes: SHA-256 of what was read of each stock, by its folder.
    """

    values: dict[str, np.ndarray]
    folders: np.ndarray
    hashes: dict[str, str]


@dataclass(frozen=True)
class FieldNames:
    """The field of the files for each price: required, or None where optional and "auto"."""

    required: dict[str, str]
    optional: dict[str, str]

    @classmethod
    def of(cls, settings: Mapping[str, str], may_lack: Sequence[str]) -> FieldNames:
        """may_lack: prices that may be "auto" or "". Raises ValueError naming the setting."""
        required: dict[str, str] = {}
        optional: dict[str, str] = {}
        for what, name in settings.items():
            key = f"dataset.source.fields.{what}={name!r}"
            if what in may_lack and name in ("", AUTO):
                optional |= {what: what} if name else {}
            elif not name:
                raise ValueError(f"{key} names no field, but is required")
            elif not FIELD_NAME.fullmatch(name):
                raise ValueError(f"{key}: not the name of a field, e.g. close or $close")
            else:
                required[what] = name.removeprefix("$").lower()
        names = list(required.values())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"dataset.source.fields: {twice} stand for two fields each")
        # A field that is named for another price is not a candidate for an "auto" one.
        optional = {what: name for what, name in optional.items() if name not in names}
        return cls(required, optional)

    def all(self) -> dict[str, str]:
        return self.required | self.optional


def require_folder(root: Path) -> None:
    """Raises ValueError, with the likely reason, unless `root` holds daily data of qlib."""
    if root.is_file():
        raise ValueError(f"{root}: a file, expected a folder; unpack an archive first")
    if not root.is_dir():
        home = "; ~ is not expanded, write $HOME" if str(root).startswith("~") else ""
        raise ValueError(f"data folder not found: {root} (dataset.source.path{home})")
    if (root / CALENDAR).exists() or (root / CALENDAR).is_symlink():
        return
    there = sorted(path.name for path in root.iterdir())
    calendars = [path.name for path in sorted((root / "calendars").glob("*.txt"))]
    below = [name for name in there if (root / name / CALENDAR).is_file()]
    if calendars:
        reason = f"only {', '.join(calendars[:SHOWN])}; daily data are needed"
    elif below:
        reason = f"name a folder in it: {', '.join(below[:SHOWN])}"
    else:
        reason = f"not a folder of qlib's data; it holds {', '.join(there[:SHOWN]) or 'nothing'}"
    raise ValueError(f"{root}: no {CALENDAR}: {reason}")


def read_calendar(folder: Folder, findings: Findings) -> np.ndarray | None:
    """(T,) the sessions, increasing; None after an error."""
    file = str(folder.root / CALENDAR)
    rows, texts = _lines(folder, CALENDAR, findings)
    dates = _dates(texts)
    latest = np.datetime64("today") + 1  # it may be tomorrow already in another time zone
    before = np.roll(dates, 1)
    before[:1] = np.datetime64("NaT")
    checks = {
        "not a date": (np.isnat(dates), "is not a date in the form YYYY-MM-DD"),
        "future date": (dates > latest, "is in the future"),
        "absurd year": (dates < EARLIEST, f"is before {EARLIEST}"),
        "duplicate date": (dates == before, "is there twice"),
        "unsorted": (dates < before, "is before the line above: not in order"),
    }
    for check, (wrong, message) in checks.items():

        def finding(i: int, message: str = message) -> Finding:
            return Finding(f"{texts[i][:40]!r} {message}", file, row=rows[i])

        findings.each(ERROR, check, np.flatnonzero(wrong).tolist(), finding)
    wrong = any(hit.any() for hit, _ in checks.values())
    return None if wrong or not len(dates) else dates


def read_membership(folder: Folder, name: str, findings: Findings) -> Membership | None:
    """The periods of a list of instruments; None after an error."""
    if not LIST_NAME.fullmatch(name):
        raise ValueError(f"dataset.source.instruments={name!r}: not the name of a list, e.g. all")
    path = list_path(folder.root, name)
    if not path.exists() and not path.is_symlink():
        lists = [each.stem for each in sorted(path.parent.glob("*.txt"))]
        there = f"there are {', '.join(lists[:SHOWN])}" if lists else "there is none"
        message = f"no such list (dataset.source.instruments={name}); {there}"
        findings.error("file", Finding(message, str(path)))
        return None
    rows, texts = _lines(folder, f"{LISTS}/{path.name}", findings)
    parts = [text.split("\t") for text in texts]
    short = [i for i, part in enumerate(parts) if len(part) < 3]
    message = "expected ticker, start and end separated by tabs, not"
    findings.each(
        ERROR,
        "line",
        short,
        lambda i: Finding(f"{message} {texts[i][:40]!r}", str(path), row=rows[i]),
    )
    if short or not parts:
        return None
    members = Membership(
        str(path),
        np.array(rows),
        np.array([part[0].strip() for part in parts], dtype=str),
        _dates([part[1] for part in parts]),
        _dates([part[2] for part in parts]),
    )
    return members if _check_periods(members, parts, findings) else None


def _check_periods(members: Membership, parts: Sequence[Sequence[str]], findings: Findings) -> bool:
    """Whether all periods are valid: dates, in order, and none overlaps another of its stock."""

    valid = True
    for column, dates in ((1, members.start), (2, members.end)):
        wrong = np.flatnonzero(np.isnat(dates)).tolist()
        valid &= not wrong

        def no_date(i: int, column: int = column) -> Finding:
            return members.finding(
                i, f"{parts[i][column][:40]!r} is not a date in the form YYYY-MM-DD"
            )

        findings.each(ERROR, "not a date", wrong, no_date)
    backward = np.flatnonzero(members.start > members.end).tolist()
    message = "the end is before the start,"
    findings.each(
        ERROR, "membership", backward, lambda i: members.finding(i, message, members.start[i])
    )
    order = np.lexsort((members.start, members.ticker))
    follows = members.ticker[order][1:] == members.ticker[order][:-1]
    both = order[1:][follows & (members.start[order][1:] <= members.end[order][:-1])].tolist()
    message = "overlaps another period of the stock"
    findings.each(
        ERROR, "membership", both, lambda i: members.finding(i, message, members.start[i])
    )
    return valid and not backward and not both


def read_fields(
    root: Path,
    tickers: np.ndarray,
    names: FieldNames,
    calendar: np.ndarray,
    sessions: slice,
    findings: Findings,
) -> Fields:
    """The fields of the stocks on some of the calendar's sessions; what is wrong is a finding.

    A field that is optional and that no stock has is left out.
    """
    shape = (len(tickers), len(calendar[sessions]))
    fields = names.all()
    values = {what: np.full(shape, np.nan, np.float32) for what in fields}
    found, hashes = [""] * len(tickers), {}
    lacking: dict[str, list[str]] = {what: [] for what in names.optional}
    folders = stock_folders(root)
    for i, ticker in enumerate(tickers.tolist()):
        if not (stored := folders.get(_folder_name(ticker, folders), [])):
            continue
        stock = _Stock(root, ticker, stored, calendar, findings)
        found[i] = stock.name
        for what, name in fields.items() if stock.readable else ():
            if stock.has(name):
                stock.read(name, values[what][i], sessions)
            elif what in names.optional:
                lacking[what].append(ticker)
            else:
                stock.lacks(name, what)
        stock.check_lengths()
        hashes[stock.name] = stock.hash.hexdigest()
    for what, without in lacking.items():
        if len(without) == len(hashes):
            del values[what]
            continue
        message = f"no field {fields[what]}, which other stocks have"

        def finding(i: int, message: str = message, without: list[str] = without) -> Finding:
            return Finding(message, str(root), ticker=without[i])

        findings.each(WARNING, "value missing", range(len(without)), finding)
    return Fields(values, np.array(found, dtype=str), hashes)


class _Stock:
    """The files of one stock."""

    def __init__(
        self,
        root: Path,
        ticker: str,
        stored: Sequence[str],
        calendar: np.ndarray,
        findings: Findings,
    ) -> None:
        self.root, self.ticker, self.calendar, self.findings = root, ticker, calendar, findings
        self.name = f"{FEATURES}/{stored[0]}"
        self.hash = hashlib.sha256()
        self.spans: dict[str, tuple[int, int]] = {}
        self.links: dict[str, bool] = {}  # whether a file of that name is a link
        self.readable = False
        if len(stored) > 1:
            self._error("folder twice", f"{', '.join(stored)} differ only by case")
        try:
            with os.scandir(inside(root, self.name)) as entries:
                self.links = {entry.name: entry.is_symlink() for entry in entries}
            self.readable = True
        except OSError as error:
            self._error("file", f"cannot be read: {error.strerror}")
        except ValueError as error:  # a link that leads elsewhere
            self._error("file", str(error).removeprefix(f"{root / self.name}: "))

    def has(self, field: str) -> bool:
        return field + SUFFIX in self.links

    def lacks(self, field: str, what: str) -> None:
        """Report that a required field is missing."""
        fields = sorted(n.removesuffix(SUFFIX) for n in self.links if n.endswith(SUFFIX))
        there = f"there are {', '.join(fields[:SHOWN])}" if fields else "there is none"
        if not fields and field + MINUTES in self.links:
            there = "there are only minute data"
        message = f"no {field}{SUFFIX} (dataset.source.fields.{what}); {there};"
        self._error("missing field", message)

    def read(self, field: str, into: np.ndarray, sessions: slice) -> None:
        """Fill `into` with a field's values on these sessions of the calendar."""
        name = f"{self.name}/{field}{SUFFIX}"
        try:
            linked = self.links[field + SUFFIX]
            content = read_bytes(inside(self.root, name) if linked else self.root / name)
            self.hash.update(content)
            first, values = _decoded(content, self.calendar)
        except (OSError, ValueError) as error:
            message = str(error).removeprefix(f"{self.root / name}: ")
            self._error("file", message, name)
            return
        infinite = np.isinf(values)
        if infinite.any():
            date = str(self.calendar[first + int(infinite.argmax())])
            self._error("infinite", "infinite value", name, date)
            values = np.where(infinite, np.nan, values)
        self.spans[field] = (first, first + len(values))
        start, stop = max(first, sessions.start), min(first + len(values), sessions.stop)
        if start < stop:
            into[start - sessions.start : stop - sessions.start] = values[
                start - first : stop - first
            ]

    def check_lengths(self) -> None:
        """All fields of a stock are written together, so they begin and end on the same days."""
        if len(set(self.spans.values())) < 2:
            return
        (one, (a, b)), (other, (c, d)) = (
            min(self.spans.items(), key=lambda each: each[1][::-1]),
            max(self.spans.items(), key=lambda each: each[1][::-1]),
        )
        days = [str(self.calendar[row]) for row in (a, b - 1, c, d - 1)]
        message = (
            f"its fields have different days, {one} from {days[0]} to {days[1]}, {other} from "
            f"{days[2]} to {days[3]}: was an update interrupted?"
        )
        finding = Finding(message, str(self.root / self.name), ticker=self.ticker)
        self.findings.warning("unequal fields", finding)

    def _error(self, check: str, message: str, name: str = "", date: str = "") -> None:
        file = str(self.root / (name or self.name))
        self.findings.error(check, Finding(message, file, date=date, ticker=self.ticker))


def _decoded(content: bytes, calendar: np.ndarray) -> tuple[int, np.ndarray]:
    """The position of the first session in the calendar, and the values from there on."""
    if len(content) % 4:
        raise ValueError(f"{len(content)} bytes, no multiple of 4: truncated, or not of float32?")
    numbers = np.frombuffer(content, "<f4")
    start, days, values = float(numbers[0]), len(calendar), numbers[1:]
    if not (start.is_integer() and 0 <= start < days):
        raise ValueError(
            f"begins with {start:.6g}, which is no position in the calendar of {days} sessions: "
            "damaged, or not little-endian float32?"
        )
    if not len(values):
        raise ValueError("holds no value")
    if beyond := max(0, int(start) + len(values) - days):
        raise ValueError(
            f"has {beyond} values after the last session of the calendar, {calendar[-1]}: of "
            "another calendar, or was its update interrupted?"
        )
    return int(start), values


def list_path(root: Path, name: str) -> Path:
    return root / LISTS / f"{name}.txt"


def stock_folders(root: Path) -> dict[str, list[str]]:
    """The names of the stocks' folders, by the same name in lower case. Raises ValueError."""
    folders: dict[str, list[str]] = {}
    try:
        for name in sorted(os.listdir(inside(root, FEATURES))):
            folders.setdefault(name.lower(), []).append(name)
    except OSError as error:
        raise ValueError(f"{root / FEATURES}: cannot be read: {error.strerror}") from error
    return folders


def field_files(root: Path, name: str, names: FieldNames) -> Iterator[Path]:
    """The files that are read for the stocks of a list, whether they exist or not."""
    try:
        text = list_path(root, name).read_text("utf-8", errors="replace")
        folders = stock_folders(root)
    except (OSError, ValueError):  # `load` reports it
        return
    for ticker in sorted({line.split("\t")[0].strip() for line in text.splitlines()}):
        stored = folders.get(_folder_name(ticker, folders), [ticker.lower()])
        for field in names.all().values():
            yield root / FEATURES / stored[0] / f"{field}{SUFFIX}"


def _folder_name(ticker: str, folders: Mapping[str, Sequence[str]]) -> str:
    """The name of a stock's folder in lower case."""
    name = ticker.lower()
    prefixed = DEVICE_PREFIX + name
    return prefixed if name in DEVICES and prefixed in folders else name


def _lines(folder: Folder, name: str, findings: Findings) -> tuple[list[int], list[str]]:
    """The numbers of the lines that are not blank, from 1, and the lines; none after an error."""
    try:
        content = plain_text(folder.bytes(name), str(folder.root / name), findings)
    except (OSError, ValueError) as error:
        findings.error("file", Finding(str(error)))
        return [], []
    lines = [(i, line) for i, line in enumerate(content.decode().split("\n"), 1) if line.strip()]
    return [i for i, _ in lines], [line for _, line in lines]


def _dates(texts: Sequence[str]) -> np.ndarray:
    """The dates (M,) datetime64[D] of texts in the form YYYY-MM-DD, NaT where there is none."""
    plain = pd.Series([text.strip() for text in texts], dtype=object)
    moments = pd.to_datetime(plain, format="%Y-%m-%d", errors="coerce")
    return moments.to_numpy().astype("datetime64[D]")
