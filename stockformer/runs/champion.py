"""The folder that records which run is the champion, the model in use, and how it became that."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from stockformer.runs import atomic
from stockformer.runs.folder import MAX_SETTINGS, RunDir, require_digest, with_digest
from stockformer.runs.typed_json import NUMBER, parse_json

VERSION = 1
FIRST, PROMOTED, KEPT = "first", "promoted", "kept"
"""The decisions: a run is the first champion, replaces the champion, or does not."""

ENTRY = {
    **{"date": str, "run": str, "decision": str, "reason": str, "decided_at": str},
    "figures": {str: (*NUMBER, str)},
}
FORM = {"version": int, "champion": str, "history": [ENTRY], "sha256": str}
RUN = re.compile(r"runs/(\d{4}-\d\d-\d\d)")


@dataclass(frozen=True)
class Decision:
    """What one week decided.

    date: the newest day of its data. run: its run's folder, relative to the champion's folder.
    reason: in words; figures: of the paired test. decided_at: the time, ISO 8601.
    """

    date: str
    run: str
    decision: str
    reason: str
    decided_at: str
    figures: Mapping[str, float | str | None]

    @property
    def changed(self) -> bool:
        """Whether its run became the champion."""
        return self.decision in (FIRST, PROMOTED)


class ChampionFolder:
    """champion.json with its history, the runs of each week in runs/DATE, and a lock.

    champion.json is the only record: a run in runs/ that it does not name has not been decided on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "champion.json"
        self.lock_file = path / "lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the folder, which is made. Raises ValueError where another process does."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"champion={self.path}: not a folder")
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = atomic.lock(self.lock_file)
        if descriptor is None:
            raise ValueError(
                f"champion={self.path}: another process is working on it; nothing was changed. "
                "Wait for it, or stop it"
            )
        try:
            atomic.remove_temporary_files(self.path)
            yield
        finally:
            os.close(descriptor)

    def run_of(self, date: str) -> Path:
        """The folder of the run of the week whose data end on `date`."""
        return self.path / "runs" / date

    def history(self) -> list[Decision]:
        """All decisions, the oldest first; empty before the first.

        Raises ValueError where champion.json is damaged.
        """
        try:
            data = atomic.read(self.file, MAX_SETTINGS)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ValueError(f"{self.file}: cannot be read: {error.strerror}") from error
        where = f"{self.file}: cannot be used"
        content: dict[str, Any] = parse_json(data, FORM, where)
        if content["version"] != VERSION:
            raise ValueError(f"{where}: version {content['version']}, not {VERSION}")
        require_digest(content, data, f"{where}; restore it from a copy")
        history = [
            Decision(**{name: entry[name] for name in ENTRY}) for entry in content["history"]
        ]
        self._require_consistent(history, content["champion"])
        return history

    def require_first_week(self, date: str) -> None:
        """Raises ValueError if the run of another week has finished: its decision is lost."""
        for file in sorted(self.path.glob("runs/*/status.json")):
            run = file.parent
            if run != self.run_of(date) and RunDir(run).status()["state"] == "finished":
                raise ValueError(
                    f"{self.file}: missing, but {run} has finished. Restore the file from a copy, "
                    "name a new folder with champion=, or delete that run if it is to be forgotten"
                )

    def add(self, decision: Decision) -> None:
        """Append a decision, in one atomic write.

        Raises ValueError where there is one of that date, or a later one.
        """
        history = [*self.history(), decision]
        self._require_consistent(history, champion_of(history))
        content = {
            "version": VERSION,
            "champion": champion_of(history),
            "history": [asdict(each) for each in history],
        }
        atomic.write(self.file, with_digest(json.loads(json.dumps(content))).encode())

    def _require_consistent(self, history: Sequence[Decision], champion: str) -> None:
        where = f"{self.file}: damaged or foreign"
        for number, each in enumerate(history):
            named = RUN.fullmatch(each.run)
            kinds = (PROMOTED, KEPT) if number else (FIRST,)
            if each.decision not in kinds or named is None or named[1] != each.date:
                raise ValueError(f"{where}: history[{number}] is no decision of a week")
        if any(a.date >= b.date for a, b in pairwise(history)):
            raise ValueError(f"{where}: the dates of its history do not increase")
        if not history or champion != champion_of(history):
            raise ValueError(f"{where}: its champion is not that of its history")


def changes(history: Sequence[Decision]) -> list[Decision]:
    """The decisions by which a run became the champion, the newest first."""
    return [each for each in reversed(history) if each.changed]


def champion_of(history: Sequence[Decision]) -> str:
    """The run that is the champion, relative to the folder; empty without one."""
    return next((each.run for each in changes(history)), "")
