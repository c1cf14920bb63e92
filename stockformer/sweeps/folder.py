"""The folder of a sweep: its command line, the controller's lock and log, and the runs' folders."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from stockformer.runs import atomic
from stockformer.runs.folder import SWEEP_FILE, AfterEpoch, RunDir, require_digest, with_digest
from stockformer.runs.logs import LogFile, PrintableFormatter
from stockformer.runs.typed_json import parse_json

log = logging.getLogger(__name__)

RECORD = {
    "version": int,
    "overrides": [str],
    "objectives": [str],
    "finished": bool,
    "sha256": str,
}
MAX_RECORD = 4 << 20


@dataclass(frozen=True)
class SweepRecord:
    """The content of sweep.json.

    overrides: of the command line. objectives: validation metrics, the first decides which run is
    the best. finished: whether every job has ended well.
    """

    overrides: list[str]
    objectives: list[str]
    finished: bool


@dataclass(frozen=True)
class Job:
    """One run of a sweep. words: its whole command line; varied: those that vary in the sweep.

    reporter: given the number of epochs, in the job's own process, makes what its training calls
    after each epoch.
    """

    number: int
    words: tuple[str, ...]
    varied: tuple[str, ...]
    folder: Path
    reporter: Callable[[int], AfterEpoch] | None = None

    @property
    def settings(self) -> dict[str, str]:
        """What varies, by key, numbers of four digits: to be shown."""
        pairs = (word.lstrip("+").partition("=") for word in self.varied)
        return {key: short_number(value) for key, _, value in pairs}

    @property
    def label(self) -> str:
        shown = [f"{key}={value}" for key, value in self.settings.items()]
        return " ".join(shown) or "no setting varies"

    @property
    def run(self) -> RunDir:
        return RunDir(self.folder)


def short_number(value: str) -> str:
    """A number of a configuration in at most four digits; other text as it is."""
    try:
        short = f"{float(value):.4g}"
    except ValueError:
        return value
    return short if len(short) < len(value) else value


class SweepDir:
    """A sweep's folder, owned by one controller from `claim` on, until the context is left.

    sweep.json: a `SweepRecord`. lock: held by the living controller, with its id. sweep.log: its
    messages. study.db: of a search. NUMBER/: a run's folder. leaderboard.html, walk_forward*/: what
    is made of all runs at the end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_file = path / SWEEP_FILE
        self.study_file = path / "study.db"
        self.log_file = path / "sweep.log"

    def claim(self, record: SweepRecord, *, resume: bool) -> None:
        """Own the folder. Raises ValueError where another controller does, or it is not empty.

        Without `resume` only a sweep of the same command line is continued: another one's jobs must
        not be taken for its own.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise ValueError(f"hydra.sweep.dir={self.path}: a file, not a folder") from error
        if self.record_file.exists():
            same = resume or _jobs_of(self.read().overrides) == _jobs_of(record.overrides)
        else:
            left_by_us = {"lock", self.log_file.name}
            same = left_by_us.issuperset(file.name for file in self.path.iterdir())
        if not same:
            raise ValueError(
                f"sweep folder {self.path} is not empty; nothing was changed. Name a new one, or "
                "continue a sweep with -m resume=FOLDER"
            )
        self._lock()
        self.write(record)

    def _lock(self) -> None:
        descriptor = atomic.lock(self.path / "lock")
        if descriptor is None:
            raise ValueError(
                f"sweep folder {self.path} is in use by a process that is still running; nothing "
                "was changed. Wait for it, or stop it"
            )
        self._descriptor = descriptor
        # Jobs elsewhere know by it whether the controller that started them is still there.
        self.controller_id = uuid.uuid4().hex
        os.ftruncate(descriptor, 0)
        os.write(descriptor, self.controller_id.encode())

    def __enter__(self) -> Self:
        self._log = LogFile(self.log_file, encoding="utf-8", errors="backslashreplace")
        self._log.setFormatter(PrintableFormatter("%(asctime)s %(levelname)-7s %(message)s"))
        logging.getLogger("stockformer.sweeps").addHandler(self._log)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        logging.getLogger("stockformer.sweeps").removeHandler(self._log)
        self._log.close()
        os.close(self._descriptor)

    def write(self, record: SweepRecord) -> None:
        content = {"version": 1, **asdict(record)}
        atomic.write(self.record_file, with_digest(content).encode())

    def read(self) -> SweepRecord:
        """Raises ValueError naming the file if it is missing or damaged."""
        try:
            data = atomic.read(self.record_file, MAX_RECORD)
        except FileNotFoundError as error:
            if not self.path.is_dir():
                raise ValueError(f"resume={self.path}: no such folder") from error
            raise ValueError(
                f"{self.path} is not a sweep's folder: it has no {SWEEP_FILE}; a single run is "
                "continued without -m"
            ) from error
        content = parse_json(data, RECORD, str(self.record_file))
        require_digest(content, data, str(self.record_file))
        return SweepRecord(content["overrides"], content["objectives"], content["finished"])

    def discard(self) -> None:
        """Leave nothing of a sweep that could not begin."""
        for file in (self.record_file, self.study_file, self.log_file, self.path / "lock"):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else is in it
            self.path.rmdir()

    def job_folder(self, number: int) -> Path:
        return self.path / str(number)


def _jobs_of(overrides: list[str]) -> list[str]:
    """The words that say what the jobs are; the folder may be named in several ways."""
    return [word for word in overrides if not word.startswith("hydra.sweep.dir=")]


def newest_unfinished(tree: Path) -> Path:
    """The sweep in the tree that was worked on last, has not finished and is not running.

    Raises ValueError if there is none.
    """
    records = sorted(tree.glob(f"**/{SWEEP_FILE}"), key=lambda file: file.stat().st_mtime_ns)
    for file in reversed(records):
        if atomic.is_locked(file.parent / "lock"):  # asked first: later it may have just finished
            continue
        try:
            finished = SweepDir(file.parent).read().finished
        except ValueError as damaged:
            log.warning("skipped %s", damaged)
            continue
        if not finished:
            return file.parent
    raise ValueError(f"-m resume=latest: no unfinished sweep in {tree}; name its folder")
