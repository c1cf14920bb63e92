"""Fields of stocks in qlib's binary layout. T sessions, N stocks.

features/STOCK/FIELD.day.bin: little-endian float32, first the position of the first session in the
calendar, then a value a session, NaN where there is none. Layout: qlib 0.9.7,
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

from stockformer.data.reading.files import inside, read_bytes
from stockformer.data.reading.findings import WARNING, Finding, Findings
from stockformer.data.reading.qlib_folder import SHOWN, list_path

FEATURES, SUFFIX, MINUTES = "features", ".day.bin", ".1min.bin"
AUTO = "auto"  # a field of that name, if there is one
FIELD_NAME = re.compile(r"\$?\w[\w.-]*")
# Windows refuses these as names of folders, so qlib puts a prefix before them.
DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{i}" for port in ("com", "lpt") for i in range(10)),
}
DEVICE_PREFIX = "_qlib_"


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
