"""Findings on data: collected one by one, and reported all at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice

ERROR, WARNING, REPAIRED = LEVELS = ("error", "warning", "repaired")
REST = "further ones"  # the message of a finding that stands for the counted ones
# Findings that are kept as text; the others are only counted.
KEPT_AT_ONCE = 100  # of one check of one file
KEPT = 1000  # of one check
# Number of findings of a check that are shown in a message.
SHOWN_OF_A_FILE = 5
SHOWN = 50


@dataclass(frozen=True)
class Finding:
    """One finding: its place and a message. It stands for `count` cells and names the first.

    row: the line number in an editor, the header being line 1; in a Parquet file counted from 1.
    """

    message: str
    file: str = ""
    column: str = ""
    row: int = 0
    date: str = ""
    ticker: str = ""
    count: int = 1
    check: str = ""
    level: str = ""

    def __str__(self) -> str:
        place = [f"row {self.row}"] * bool(self.row) + [f"column {self.column}"] * bool(self.column)
        parts = [f"{self.file}: {self.message}" if self.file else self.message]
        parts += [f"on {self.date}"] * bool(self.date) + [f"for {self.ticker}"] * bool(self.ticker)
        parts += [f"({', '.join(place)})"] * bool(place)
        return " ".join(parts)


class Findings:
    """The findings of one load, in the order of their checks."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.numbers: Counter[tuple[str, str]] = Counter()

    def error(self, check: str, found: Finding) -> None:
        self.each(ERROR, check, [0], lambda _: found)

    def warning(self, check: str, found: Finding) -> None:
        self.each(WARNING, check, [0], lambda _: found)

    def repaired(self, check: str, found: Finding) -> None:
        self.each(REPAIRED, check, [0], lambda _: found)

    def each(
        self, level: str, check: str, hits: Iterable[int], finding: Callable[[int], Finding]
    ) -> None:
        """Add one finding for each hit; only those that are kept are formatted."""
        hits = list(hits)
        if not hits:
            return
        left = max(0, min(KEPT_AT_ONCE, KEPT - self.numbers[level, check]))
        self.numbers[level, check] += len(hits)
        self.kept += [replace(finding(i), level=level, check=check) for i in islice(hits, left)]

    def extend(self, others: Findings) -> None:
        """Add all findings of `others`."""
        for level, check in others.numbers:
            own = [f for f in others.kept if (f.level, f.check) == (level, check)]
            self.each(level, check, range(len(own)), own.__getitem__)
            self.numbers[level, check] += others.numbers[level, check] - len(own)

    def any_error(self) -> bool:
        return any(level == ERROR for level, _ in self.numbers)

    def refuse(self, strict: bool = False) -> None:
        """Raise ValueError with every error, and in strict mode every warning, if any."""
        refused = (ERROR, WARNING) if strict else (ERROR,)
        number = sum(n for (level, _), n in self.numbers.items() if level in refused)
        if number:
            what = "1 finding" if number == 1 else f"{number} findings"
            mode = ", strict mode" if strict else ""
            lines = [line for level in refused for line in self.lines(level)]
            raise ValueError("\n  ".join([f"the data are refused ({what}{mode}):", *lines]))

    def lines(self, level: str) -> list[str]:
        """The findings of a level, some of each check, and how many more there are."""
        return lines(self.result(), level)

    def result(self) -> tuple[Finding, ...]:
        """Every finding kept; the counted ones follow as one more finding of their check."""
        kept = Counter((f.level, f.check) for f in self.kept)
        rest = [
            Finding(REST, count=number - kept[key], level=key[0], check=key[1])
            for key, number in self.numbers.items()
            if number > kept[key]
        ]
        return (*self.kept, *rest)


def lines(found: Iterable[Finding], level: str) -> list[str]:
    """The findings of a level as lines: some of each check, and how many more there are."""
    by_check: dict[str, list[Finding]] = {}
    for finding in found:
        if finding.level == level:
            by_check.setdefault(finding.check, []).append(finding)
    result = []
    for check, own in by_check.items():
        shown: list[Finding] = []
        by_file = Counter[str]()
        for finding in own:
            by_file[finding.file] += 1
            first = not finding.file or by_file[finding.file] <= SHOWN_OF_A_FILE
            if first and finding.message != REST and len(shown) < SHOWN:
                shown.append(finding)
        more = sum(f.count if f.message == REST else 1 for f in own) - len(shown)
        result += [f"{check}: {finding}" for finding in shown]
        result += [f"{check}: and {more} more"] * bool(more)
    return result
