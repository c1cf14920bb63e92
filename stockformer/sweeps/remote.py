"""A job on another machine, and how its sweep ends it: by a file on the disk they share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stockformer.runs import atomic
from stockformer.sweeps.folder import Job
from stockformer.sweeps.launchers import RunJob, describe

POLL_SECONDS = 0.5
STOP_FILE = "stop"
"""In the sweep's folder while its jobs are to end."""
STOP_SECONDS = 60.0
"""That jobs have to save their state when the sweep is stopped."""


@contextmanager
def asked_to_end(jobs: Iterable[Job]) -> Iterator[None]:
    """Within this context the jobs save their state and end."""
    files = {job.folder.parent / STOP_FILE for job in jobs}
    for file in files:
        file.touch()
    try:
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def work(run_job: RunJob, job: Job, folder: str) -> str:
    """Run the job where the sweep was started; its error, or empty text."""
    os.environ["TERM"] = "dumb"
    os.chdir(folder)
    sweep = job.folder.parent
    if _has_ended(sweep):
        return "not started: the sweep had ended"
    done = threading.Event()
    threading.Thread(target=_end_with_sweep, args=(sweep, done), daemon=True).start()
    try:
        run_job(job)
    except Exception as error:
        return describe(error)
    finally:
        done.set()
    return ""


def _has_ended(sweep: Path) -> bool:
    """Whether the sweep is being stopped, or its controller has died."""
    return (sweep / STOP_FILE).exists() or not atomic.is_locked(sweep / "lock")


def _end_with_sweep(sweep: Path, done: threading.Event) -> None:
    while not done.wait(POLL_SECONDS):
        if _has_ended(sweep):
            os.kill(os.getpid(), signal.SIGTERM)
            return
