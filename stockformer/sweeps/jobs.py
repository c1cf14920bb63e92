"""The jobs of a sweep: which of them are missing, and running them all."""

from __future__ import annotations

import logging
import math
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stockformer.evaluation.metrics import OBJECTIVES
from stockformer.runs.console import human_time
from stockformer.runs.folder import MAY_CHANGE, RunDir
from stockformer.sweeps.folder import Job
from stockformer.sweeps.launchers import Launcher
from stockformer.sweeps.trials import objective_values

log = logging.getLogger(__name__)

DONE = ("finished", "pruned")
RUNNING = "running"
"""The state of a job that another controller of the same study is working on."""
REASON_WIDTH = 90
"""Characters of a failure's reason while others run; the whole follows at the end."""
WAIT = 120.0
"""Seconds that a job's former process has to save its state and end."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended. state: a run's, or "killed"; values: the objectives, NaN if undefined."""

    state: str
    reason: str = ""
    seconds: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)


class Jobs(Protocol):
    """What is run: a grid or a search. total, done: numbers of jobs.

    counts_failures: whether a failed job is done; else it is run again when the sweep is resumed.
    """

    @property
    def total(self) -> int: ...

    @property
    def done(self) -> int: ...

    @property
    def counts_failures(self) -> bool: ...

    @property
    def objectives(self) -> Sequence[str]: ...

    def next(self) -> Job | None:
        """The next job to start; None if there is none at the moment."""

    def ended(self, job: Job, outcome: Outcome) -> None: ...

    def outcomes(self, recent: Mapping[int, tuple[Job, Outcome]]) -> dict[int, tuple[Job, Outcome]]:
        """Of all jobs by number; recent: of those that this process ran."""


class Grid:
    """A list of jobs, all known before. Those that have finished are not run again."""

    counts_failures = False

    def __init__(self, jobs: Sequence[Job], objectives: Sequence[str]) -> None:
        self.jobs, self.total, self.objectives = jobs, len(jobs), objectives
        for job in jobs:
            require_same_settings(job.run, job.words)
        self._missing = [job for job in jobs if final_state(job.run) not in DONE]
        self._ended = self.total - len(self._missing)

    @property
    def done(self) -> int:
        return self._ended

    def next(self) -> Job | None:
        return self._missing.pop(0) if self._missing else None

    def ended(self, job: Job, outcome: Outcome) -> None:
        self._ended += 1

    def outcomes(self, recent: Mapping[int, tuple[Job, Outcome]]) -> dict[int, tuple[Job, Outcome]]:
        return {
            job.number: recent.get(job.number) or (job, outcome_of(job, "", self.objectives))
            for job in self.jobs
        }


def run_jobs(jobs: Jobs, launcher: Launcher) -> dict[int, tuple[Job, Outcome]]:
    """Run what is missing; returns the jobs that were run, by number, with their outcomes."""
    outcomes: dict[int, tuple[Job, Outcome]] = {}
    running, started, before = 0, time.monotonic(), jobs.done
    count = before
    if before:
        log.info("%d of %d jobs are done already", before, jobs.total)
    try:
        while True:
            while running < launcher.slots and (job := jobs.next()) is not None:
                count += 1
                running += 1
                log.info("job %d (%d of %d): %s", job.number, count, jobs.total, job.label)
                launcher.start(job)
            if not running:
                return outcomes
            for job, error in launcher.wait():
                running -= 1
                outcome = outcome_of(job, error, jobs.objectives)
                outcomes[job.number] = job, outcome
                jobs.ended(job, outcome)
                _log(job, outcome, jobs, time.monotonic() - started, jobs.done - before)
    except BaseException:
        launcher.stop()
        raise


def require_same_settings(run: RunDir, words: Sequence[str]) -> None:
    """Raises ValueError if the folder holds a run with other settings than these words of a command
    line: its results must not be taken for theirs."""
    if not run.overrides_file.exists():
        return
    before, ours = (
        {
            word.lstrip("+")
            for word in each
            if not word.lstrip("+~").startswith(("hydra", *MAY_CHANGE))
        }
        for each in (run.read_config()[1], words)
    )
    if before != ours:
        other = ", ".join(sorted(before ^ ours)[:3])
        raise ValueError(f"{run.path}: holds a run with other settings ({other})")


def final_state(run: RunDir) -> str:
    """The state of a job's run once no process is working on it; empty if it has not started.

    Raises ValueError if one still is after some time.
    """
    if not run.status_file.exists():
        return ""
    end = time.monotonic() + WAIT
    while run.in_use():  # the process of a controller that was killed: it saves its state and ends
        if time.monotonic() > end:
            raise ValueError(f"{run.path}: in use by a process that is still running; stop it")
        time.sleep(0.1)
    state: str = run.status()["state"]
    return "killed" if state == "running" else state


def outcome_of(job: Job, error: str, objectives: Sequence[str]) -> Outcome:
    """From the run's folder; the error is what its process or exception said."""
    seconds = 0.0
    try:
        state = final_state(job.run)
        if not state:
            return Outcome("failed", error) if error else Outcome("not started")
        status = job.run.status()
        seconds = float(status.get("seconds", 0.0))
        if state == "finished" and not error:
            return Outcome(state, "", seconds, objective_values(job.folder, objectives))
    except ValueError as damaged:
        return Outcome("failed", f"{damaged}; to run it again, delete its folder", seconds)
    if state == "pruned":
        return Outcome(state, status["reason"], seconds)
    return Outcome(
        "failed" if state == "finished" else state, error or status["reason"] or state, seconds
    )


def _log(job: Job, outcome: Outcome, jobs: Jobs, elapsed: float, done: int) -> None:
    left = jobs.total - jobs.done
    time_left = f"; about {human_time(elapsed / done * left)} left" if left > 0 and done > 0 else ""
    if outcome.state == "finished":
        values = ", ".join(
            f"validation {OBJECTIVES[name].title} {OBJECTIVES[name].in_words(value)}"
            for name, value in outcome.values.items()
        )
        took = human_time(outcome.seconds)
        log.info("job %d finished in %s: %s%s", job.number, took, values, time_left)
    elif outcome.state == "pruned":
        log.info("job %d pruned: %s%s", job.number, outcome.reason, time_left)
    else:
        reason = textwrap.shorten(outcome.reason, REASON_WIDTH, placeholder=" ...")
        log.error("job %d %s: %s%s", job.number, outcome.state, reason, time_left)


def is_finite(values: Mapping[str, float]) -> bool:
    return bool(values) and all(math.isfinite(value) for value in values.values())
