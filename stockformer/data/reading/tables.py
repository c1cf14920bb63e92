"""Columns from the bytes of a CSV or Parquet file: no guessing; every anomaly is a finding.

R rows of a table.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from stockformer.data.reading.findings import ERROR, Finding, Findings
from stockformer.data.reading.unpacking import DAMAGED_PARQUET, open_parquet

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(?i:inf|infinity|nan)$"
DELIMITERS = (",", ";", "\t", "|")
SHOWN_COLUMNS = 30  # of a file, in a message
BLOCK = 64 << 20  # bytes; no line may be longer
MAX_NUMBER = float(np.finfo(np.float32).max)  # a model's inputs are single precision
EARLIEST = np.datetime64("1900-01-01")
NO_DATE = np.datetime64("NaT", "D")
# Descriptions of texts that are not numbers.
LOOKS_LIKE = (
    (re.compile(r"^[=@]|^[+-][A-Za-z(]"), "a formula"),
    (re.compile(r"^[+-]?\d{1,3}(,\d{3})+(\.\d+)?$"), "a number with thousands separators"),
    (re.compile(r"^[+-]?\d+,\d+$"), "a number with a decimal comma"),
)


@dataclass(frozen=True)
class Table:
    """Some columns of one file. rows (R,): as a Finding counts them. header: all its columns."""

    file: str
    names: list[str]
    columns: list[pa.ChunkedArray]
    rows: np.ndarray
    header: tuple[str, ...] = ()

    def lacks(self, name: str, setting: str = "") -> Finding:
        """The finding that a column is missing, with the columns of the file."""
        there = ", ".join(self.header[:SHOWN_COLUMNS])
        more = len(self.header) - SHOWN_COLUMNS
        rest = f" and {more} more" if more > 0 else ""
        advice = f"; set {setting}" if setting else ""
        return Finding(f"no column {name!r}; the file has {there}{rest}{advice}", self.file)

    def column(self, name: str) -> pa.ChunkedArray:
        return self.columns[self.names.index(name)]

    def texts(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The different texts (K,) of a column, and which of them each row has (R,)."""
        column = self.column(name).cast(pa.large_string()).fill_null("")
        encoded = pa.chunked_array([column.combine_chunks()]).dictionary_encode().chunk(0)
        texts = np.array(encoded.dictionary.to_pylist(), dtype=str)
        different, merged = np.unique(texts, return_inverse=True)
        return different, merged[encoded.indices.to_numpy()]

    def dates(self, name: str, date_format: str, timezone: str, findings: Findings) -> np.ndarray:
        """(R,) datetime64[D]; NaT where there is no valid date, which is an error.

        date_format: of a text, in strptime's syntax. timezone: the zone of the calendar days, for
        moments with a time zone; "" refuses those.
        """
        kind = self.column(name).type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            encoded = pc.dictionary_encode(self.column(name).combine_chunks(), "encode")
            moments = pd.to_datetime(encoded.dictionary.to_pandas())
            texts, of_row = moments.astype(str).to_numpy(), encoded.indices.to_numpy()
        else:
            texts, of_row = self.texts(name)
            moments = pd.to_datetime(
                pd.Series(texts, dtype=object),
                format=date_format,
                errors="coerce",
                utc="%z" in date_format,
            )
        return self._days(name, moments, texts, of_row, date_format, timezone, findings)

    def _days(
        self,
        name: str,
        moments: pd.Series,
        texts: np.ndarray,
        of_row: np.ndarray,
        date_format: str,
        timezone: str,
        findings: Findings,
    ) -> np.ndarray:
        """The days of the rows, from K different moments; invalid ones are findings."""
        if moments.dt.tz is not None and not timezone:
            message = f"dates with a time zone, e.g. {texts[0]}: set dataset.source.timezone"
            findings.error("time zone", Finding(message, self.file, name))
            return np.full(len(of_row), NO_DATE)
        if moments.dt.tz is not None:
            moments = moments.dt.tz_convert(timezone).dt.tz_localize(None).dt.normalize()
        days = moments.to_numpy().astype("datetime64[D]")
        latest = np.datetime64("today") + 1  # it may be tomorrow already in another time zone
        for check, wrong in {
            "not a date": np.isnat(days),
            "time of day": (days != moments.to_numpy()) & ~np.isnat(days),
            "future date": days > latest,
            "absurd year": days < EARLIEST,
        }.items():
            if wrong.any():

                def finding(i: int, check: str = check) -> Finding:
                    message = _of_a_date(check, str(texts[of_row[i]]), date_format)
                    return Finding(message, self.file, name, int(self.rows[i]))

                findings.each(ERROR, check, np.flatnonzero(wrong[of_row]).tolist(), finding)
                days[wrong] = NO_DATE
        return days[of_row]

    def numbers(
        self, name: str, findings: Findings, finding: Callable[[int, str], Finding]
    ) -> np.ndarray:
        """(R,) float64, NaN where missing; anything but a finite number is an error.

        finding: makes a Finding from a row's position and a message.
        """

        def refuse(check: str, hits: np.ndarray, message: Callable[[int], str]) -> None:
            findings.each(ERROR, check, hits.tolist(), lambda i: finding(i, message(i)))

        column = self.column(name)
        if _is_text(column.type):
            plain, wrong = _plain_numbers(column)
            refuse("text in a number", wrong, lambda i: _no_number(column[i].as_py()))
        elif pa.types.is_primitive(column.type) and not (
            pa.types.is_boolean(column.type) or pa.types.is_temporal(column.type)
        ):
            plain = column
        else:
            message = f"column {name} holds {column.type}, expected numbers"
            findings.error("text in a number", Finding(message, self.file))
            return np.full(len(self.rows), np.nan)
        values = np.array(plain.cast(pa.float64(), safe=False).to_numpy())
        huge = np.abs(values) > MAX_NUMBER
        if huge.any():
            infinite = np.isinf(values)
            refuse("infinite", np.flatnonzero(infinite), lambda _: "infinite value")
            too_large = "a value beyond single precision (3.4e38)"
            refuse("too large", np.flatnonzero(huge & ~infinite), lambda _: too_large)
            values[huge] = np.nan
        return values


def parse_csv(
    content: bytes, file: str, delimiter: str, wanted: Collection[str] | None, findings: Findings
) -> Table | None:
    """The columns `wanted`, or all, as text; None after an error that leaves nothing to read.

    Names in `wanted` are matched ignoring case; without `wanted`, names are as in the file.
    """
    content = plain_text(content, file, findings)
    rows, content = _without_blank_lines(content)
    open_quotes = _odd_quotes(content)
    findings.each(
        ERROR,
        "unclosed quote",
        open_quotes,
        lambda i: Finding("a quotation mark that is not closed", file, row=int(rows[i])),
    )
    if not content or open_quotes:
        return None
    header = content.split(b"\n", 1)[0].decode()
    names = _header(header, file, delimiter, wanted, findings)
    if names is None:
        return None
    ragged: list[tuple[int, int]] = []

    def skip(row: arrow_csv.InvalidRow) -> str:
        ragged.append((row.number - 1, row.actual_columns))
        return "skip"

    # Columns by their number: a name may occur twice among the columns that are not read.
    numbered = [str(i) for i in range(len(names))]
    chosen = [i for i, name in enumerate(names) if wanted is None or name in wanted]
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(content),
            read_options=arrow_csv.ReadOptions(
                column_names=numbered, skip_rows=1, use_threads=False, block_size=BLOCK
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=skip),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(numbered, pa.string()),
                strings_can_be_null=False,
                include_columns=[str(i) for i in chosen],
            ),
        )
    except (pa.ArrowException, OSError, MemoryError) as error:
        findings.error("unreadable", Finding(f"cannot be read as CSV: {error}", file))
        return None
    findings.each(
        ERROR,
        "ragged row",
        range(len(ragged)),
        lambda i: Finding(
            f"{ragged[i][1]} fields, the header has {len(names)}", file, row=int(rows[ragged[i][0]])
        ),
    )
    rows = np.delete(rows[1:], [i - 1 for i, _ in ragged])
    if not len(rows):
        findings.error("header only", Finding("a header and no valid row below it", file))
        return None
    stored = tuple(_names_in(header, delimiter))
    return Table(file, [names[i] for i in chosen], table.columns, rows, stored)


def parse_parquet(
    content: bytes, file: str, wanted: Collection[str], findings: Findings
) -> Table | None:
    """The columns `wanted` as stored; None after an error that leaves nothing to read."""
    try:
        archive = open_parquet(content)
        stored = archive.schema_arrow.names
        names = _lower_case(stored, file, wanted, findings)
        chosen = [i for i, name in enumerate(names or ()) if name in wanted]
        if names is None:
            return None
        table = archive.read(columns=[stored[i] for i in chosen], use_threads=False)
        table.validate(full=True)
    except DAMAGED_PARQUET as error:
        message = " ".join(str(error).split())
        findings.error("unreadable", Finding(f"cannot be read as Parquet: {message}", file))
        return None
    if not table.num_rows:
        findings.error("header only", Finding("columns and no row", file))
        return None
    rows = np.arange(1, table.num_rows + 1)
    return Table(file, [names[i] for i in chosen], table.columns, rows, tuple(stored))


def day(date: Any) -> str:
    """A date as text in a finding."""
    return "" if np.isnat(date) else str(date.astype("datetime64[D]"))


def plain_text(content: bytes, file: str, findings: Findings) -> bytes:
    """The lines as UTF-8 with plain line ends; empty if the text cannot be read."""
    problem = ""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        problem = "UTF-16 text; save it as UTF-8"
    elif b"\0" in content:
        problem = f"a NUL byte at byte {content.index(0)}: a binary file, or UTF-16?"
    else:
        try:
            content.decode()
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            problem = (
                f"not UTF-8 text (byte {error.start}, line {line}); if it is Latin-1 or another "
                "encoding, save it as UTF-8"
            )
    if problem:
        findings.error("encoding", Finding(problem, file))
        return b""
    if content.startswith(b"\xef\xbb\xbf"):
        findings.repaired("byte order mark", Finding("byte order mark removed", file))
        content = content[3:]
    if b"\r" in content:
        findings.repaired("line ends", Finding("line ends of another system", file))
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not content.strip():
        findings.error("empty", Finding("the file is empty", file))
        return b""
    if not content.endswith(b"\n"):
        row = content.count(b"\n") + 1
        message = "the last line has no end: truncated file? if it is complete, add a line end"
        findings.error("cut", Finding(message, file, row=row))
    return content


def _without_blank_lines(content: bytes) -> tuple[np.ndarray, bytes]:
    """The numbers of the lines that are not blank, counted from 1, and those lines."""
    if b"\n\n" not in content and not content.startswith(b"\n"):
        lines = content.count(b"\n") + (not content.endswith(b"\n"))
        return np.arange(1, lines + 1), content
    kept = [(i, line) for i, line in enumerate(content.split(b"\n"), start=1) if line]
    return np.array([i for i, _ in kept], int), b"\n".join(line for _, line in kept)


def _odd_quotes(content: bytes) -> list[int]:
    if b'"' not in content:
        return []
    return [i for i, line in enumerate(content.split(b"\n")) if line.count(b'"') % 2]


def _names_in(header: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]


def _header(
    header: str, file: str, delimiter: str, wanted: Collection[str] | None, findings: Findings
) -> list[str] | None:
    """The names of the columns; None if the header is invalid."""
    names = _names_in(header, delimiter)
    others = [d for d in DELIMITERS if d != delimiter and header.count(d) > header.count(delimiter)]
    if others:
        message = (
            f"columns seem separated by {others[0]!r}, not {delimiter!r} (dataset.source.delimiter)"
        )
        findings.error("delimiter", Finding(message, file, row=1))
        return None
    if wanted is not None:
        return _lower_case(names, file, wanted, findings)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = f"duplicate columns: {twice[:5]}"
        findings.error("duplicate column", Finding(message, file, row=1))
        return None
    return names


def _lower_case(
    names: list[str], file: str, wanted: Collection[str], findings: Findings
) -> list[str] | None:
    """The names in lower case; None if a wanted one occurs twice."""
    lower = [name.strip().lower() for name in names]
    twice = sorted({name for name in lower if lower.count(name) > 1 and name in wanted})
    if twice:
        message = f"duplicate columns (ignoring case): {twice}"
        findings.error("duplicate column", Finding(message, file, row=1))
        return None
    return lower


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _plain_numbers(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray]:
    """A text column as float64, null where missing, and the rows that hold no number."""
    texts = column.cast(pa.string())
    missing = pc.is_in(texts, pa.array(MISSING))
    known = pc.if_else(missing, pa.scalar(None, pa.string()), texts)
    try:
        return known.cast(pa.float64()), np.zeros(0, int)
    except pa.ArrowInvalid:
        known = pc.utf8_trim_whitespace(known)
        good = pc.fill_null(pc.match_substring_regex(known, NUMBER), True)
        known = pc.if_else(good, known, pa.scalar(None, pa.string()))
        return known.cast(pa.float64()), np.flatnonzero(~good.to_numpy())


def _no_number(text: str) -> str:
    kinds = [kind for pattern, kind in LOOKS_LIKE if pattern.search(text.strip())]
    return f"{text[:40]!r} is {kinds[0] if kinds else 'text'}, expected a plain number"


def _of_a_date(check: str, text: str, date_format: str) -> str:
    if check != "not a date":
        return f"{check}: {text}"
    message = f"{text[:40]!r} is not a date in the form {date_format} (dataset.source.date_format)"
    if re.fullmatch(r"\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}", text):
        message += "; whether the day or the month comes first is not guessed"
    if re.search(r":\d\d.*(Z|[+-]\d\d:?\d\d)$", text):
        message += "; for a time zone set dataset.source.timezone too, and %z in the form"
    return message
