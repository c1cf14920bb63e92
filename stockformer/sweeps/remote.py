"""A job on another machine, and how its sweep ends it: by files on the disk they share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stockformer.runs import atomic
from stockformer.sweeps.folder import Job
from stockformer.sweeps.launchers import RunJob, describe

POLL_SECONDS = 0.5
STOP_SECONDS = 60.0
"""Time that jobs have to save their state when the sweep is stopped."""


@dataclass(frozen=True)
class Controller:
    """The process that runs a sweep, as its jobs know it. id: in the lock while it lives."""

    folder: Path
    id: str

    @property
    def stop_file(self) -> Path:
        return self.folder / "stop"

    @property
    def has_ended(self) -> bool:
        """Whether it is stopping its jobs, or has died; another one of the folder is not it."""
        lock = self.folder / "lock"
        if not atomic.is_locked(lock) or _content(lock) != self.id:
            return True
        return _content(self.stop_file) == self.id

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Within this context its jobs save their state and end."""
        self.stop_file.write_text(self.id)
        try:
            yield
        finally:
            self.stop_file.unlink(missing_ok=True)


def run_remotely(run_job: RunJob, controller: Controller, cwd: str, job: Job) -> str:
    """Run the job where the sweep was started; its error, or empty text.

    If the controller ends, the job saves its state and its process ends.
    """
    os.environ["TERM"] = "dumb"  # no progress bars
    os.chdir(cwd)
    if controller.has_ended:
        return "not started: the sweep had ended"
    done = threading.Event()
    threading.Thread(target=_end_with, args=(controller, done), daemon=True).start()
    try:
        run_job(job)
    except Exception as error:
        return describe(error)
    finally:
        done.set()
    return ""


def _end_with(controller: Controller, done: threading.Event) -> None:
    while not done.wait(POLL_SECONDS):
        if controller.has_ended:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _content(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""
