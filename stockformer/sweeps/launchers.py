"""Launchers: where the jobs of a sweep run, one after another or several at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, Protocol

from stockformer.runs.fork_server import start_fork_server
from stockformer.runs.logs import start_log
from stockformer.sweeps.folder import Job

RunJob = Callable[[Job], None]
"""Runs a job in its folder; may raise any exception."""

MAX_ERROR = 4000
"""Characters of an error."""

PRELOADED = ("stockformer.experiment", "stockformer.sweeps.search")


class Launcher(Protocol):
    """slots: how many jobs run at once."""

    slots: int

    def start(self, job: Job) -> None: ...

    def wait(self) -> list[tuple[Job, str]]:
        """The jobs that have ended since, at least one; each with its error, or empty text."""

    def stop(self) -> None:
        """Have the running jobs save their state and end; returns when they have."""


class InProcess:
    """One job after another in this process."""

    slots = 1

    def __init__(self, run_job: RunJob) -> None:
        self.run_job = run_job
        self._ended: list[tuple[Job, str]] = []

    def start(self, job: Job) -> None:
        error = ""
        try:
            self.run_job(job)
        except Exception as failure:
            error = describe(failure)
        self._ended.append((job, error))

    def wait(self) -> list[tuple[Job, str]]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        return


class Processes:
    """Each job in a process of its own, `slots` at a time; a job that is killed is the only one.

    The processes are forked from one that has imported PyTorch, so that a job starts at once. If
    this process ends, they save their state and end.
    """

    def __init__(self, run_job: RunJob, *, slots: int, threads: int) -> None:
        self.run_job, self.slots = run_job, slots
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when PyTorch is imported
        self._context = multiprocessing.get_context("forkserver")
        start_fork_server(["__main__", *PRELOADED])
        self._running: dict[int, tuple[Job, Any, Any]] = {}
        self._warnings = True  # shown of the first job; all have them in their logs

    def start(self, job: Job) -> None:
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work, args=(self.run_job, job, sender, self._warnings)
        )
        self._warnings = False
        process.start()
        sender.close()
        self._running[process.sentinel] = job, process, receiver

    def wait(self) -> list[tuple[Job, str]]:
        ended = []
        for sentinel in connection.wait(list(self._running)):
            assert isinstance(sentinel, int)
            job, process, receiver = self._running.pop(sentinel)
            process.join()
            error = ""
            with contextlib.suppress(EOFError):  # nothing was sent: it ended well, or was killed
                error = receiver.recv()
            if not error and process.exitcode:
                error = _exit(process.exitcode)
            receiver.close()
            ended.append((job, error))
        return ended

    def stop(self) -> None:
        for _, process, _ in self._running.values():
            process.terminate()
        for _, process, _ in self._running.values():
            process.join()


def describe(error: BaseException) -> str:
    """In one line that a pipe takes at once: nobody reads it before the process has ended."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_ERROR]


def _exit(code: int) -> str:
    """What a process's exit status says. 128 + N: it caught signal N and saved its state."""
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit status {code}"
    memory = ", perhaps by the system for lack of memory" if code == -signal.SIGKILL else ""
    return f"killed by {name}{memory}" if code < 0 else f"stopped by {name}"


def _work(run_job: RunJob, job: Job, sender: Any, warnings: bool) -> None:
    """The whole life of a job's process."""
    os.setpgid(0, 0)  # Ctrl-C is the controller's: it tells each of them once
    os.environ["TERM"] = "dumb"  # no progress bars, which would draw over each other
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if warnings:
        start_log(only_warnings=True)
    try:
        run_job(job)
    except Exception as error:
        sender.send(describe(error))
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
