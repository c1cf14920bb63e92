"""Calendar and lists of a folder in qlib's binary layout. T sessions, N stocks, M periods.

calendars/day.txt: a date a line. instruments/LIST.txt: ticker, first and last day of a membership,
separated by tabs. Layout: qlib 0.9.7, ``qlib/data/storage/file_storage.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stockformer.data.reading.files import Folder
from stockformer.data.reading.findings import ERROR, Finding, Findings
from stockformer.data.reading.tables import EARLIEST, plain_text
from stockformer.data.reading.universe import membership

CALENDAR, LISTS = "calendars/day.txt", "instruments"
LIST_NAME = re.compile(r"\w[\w.-]*")
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
        return membership(dates, tickers, self.ticker, self.start, self.end)

    def anyone_leaves(self, last: np.datetime64) -> bool:
        """Whether the last period of a stock ends before the day `last`."""
        ends = pd.Series(self.end).groupby(self.ticker).max()
        return bool((ends.to_numpy() < last).any())


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


def read_days_and_members(
    folder: Folder, instruments: str, findings: Findings
) -> tuple[np.ndarray, Membership]:
    """The calendar and the periods of a list. Raises ValueError: no file can be read without."""
    calendar = read_calendar(folder, findings)
    members = read_membership(folder, instruments, findings)
    if calendar is None or members is None:
        findings.refuse()
        raise AssertionError("a calendar or a list that cannot be read has an error")
    return calendar, members


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


def list_path(root: Path, name: str) -> Path:
    return root / LISTS / f"{name}.txt"


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
