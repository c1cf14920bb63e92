"""Jobs in a Slurm queue, on machines that share disk, data and code; through submitit."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import FrameType
from typing import Any

from stockformer.runs.console import printable
from stockformer.sweeps.folder import Job
from stockformer.sweeps.launchers import MAX_ERROR, RunJob
from stockformer.sweeps.remote import POLL_SECONDS, STOP_SECONDS, Controller, run_remotely

log = logging.getLogger(__name__)

QUERY_SECONDS = 5.0
"""How often Slurm is asked, for all jobs at once, and a refused job is submitted again."""
WARN_SECONDS = 60.0
RESULT_SECONDS = 60.0
"""Time that a completed job's result may take to be seen on a network disk."""
REFUSED_SECONDS = 60.0
"""Time in which Slurm may still count a job that has ended."""
FOLDER = "slurm"
"""In the sweep's folder: by job and submission, the batch script and what the job prints."""
SLURM_ONLY = ("partition", "account", "qos", "constraint", "signal_delay_s")
"""Settings that local processes have no use for."""
FORGOTTEN = "no longer known to Slurm"
BY_SCHEDULER = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL")
"""States in which a job has ended without a fault of its own."""
FAULTS = ("COMPLETED", "CANCELLED", "OUT_OF_MEMORY", "DEADLINE")
"""States after which a job is not submitted again, whatever it has saved."""
FINAL = (*BY_SCHEDULER, *FAULTS, "FAILED", FORGOTTEN)
UNREACHABLE = ("Unable to contact", "Socket timed out", "Connection refused", "Zero Bytes")


@dataclass
class Submission:
    """A job in the queue. handle: submitit's.

    before: the run's status file when it was submitted. last_state: the last answer about it.
    state: the final one, answered twice because a job that Slurm starts again has none for a
    moment; since: when.
    """

    job: Job
    handle: Any
    before: bytes
    last_state: str = ""
    state: str = ""
    since: float = 0.0

    @property
    def has_result(self) -> bool:
        return bool(self.handle.paths.result_pickle.exists())

    @property
    def saved_state(self) -> bool:
        """Whether the run was interrupted, since it was submitted, with its state saved."""
        return (
            status_of(self.job) != self.before and self.job.run.status()["state"] == "interrupted"
        )


class SlurmJobs:
    """Each job a Slurm job, or with local=True a process that submitit gives the same time limit.

    The warning before the time limit and a pre-emption have a run save its state. Slurm starts a
    job again that was pre-empted or whose machine has died; one that has reached its time limit is
    submitted again from here, at most `max_num_timeout` times. Each continues from its state. A job
    that Slurm refuses waits until another has ended.

    slots: in the queue at a time. settings: by submitit's names, for example timeout_min; None
    leaves Slurm's default. Raises ValueError where submitit or Slurm is not installed.
    """

    def __init__(
        self,
        run_job: RunJob,
        *,
        controller: Controller,
        local: bool,
        slots: int,
        threads: int,
        max_num_timeout: int,
        settings: Mapping[str, int | str | None],
    ) -> None:
        name, cluster = ("slurm_local", "local") if local else ("slurm", "slurm")
        try:
            import submitit  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise ValueError(
                f"hydra/launcher={name}: submitit is not installed: "
                "pip install 'stockformer[slurm]'"
            ) from error
        if not local and not (shutil.which("srun") and shutil.which("sbatch")):
            raise ValueError(
                "hydra/launcher=slurm: this machine has no srun and sbatch; start the sweep where "
                "Slurm's commands are, or try hydra/launcher=slurm_local"
            )
        self._submitit, self._local, self._controller = submitit, local, controller
        self._task = partial(run_submitted, run_job, controller, os.getcwd(), local)
        self.slots, self.max_num_timeout = slots, max_num_timeout
        os.environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(threads)}
        self._cluster = cluster
        self._parameters = {
            "name": "stockformer",
            "cpus_per_task": threads,
            "stderr_to_stdout": True,
            "slurm_additional_parameters": {"requeue": True},
            "slurm_srun_args": [f"--cpus-per-task={threads}"],  # srun does not take sbatch's
            **{f"slurm_{key}" if key in SLURM_ONLY else key: settings[key] for key in settings},
        }
        self._waiting: list[tuple[Job, Any]] = []  # with the executor
        self._queue: list[Submission] = []
        self._final_states: defaultdict[int, list[str]] = defaultdict(list)  # by job
        self._queried = self._warned = self._last_end = -math.inf

    def start(self, job: Job) -> None:
        self._waiting.append((job, self._executor(job)))
        self._submit_waiting()

    def wait(self) -> list[tuple[Job, str]]:
        while True:
            ended = []
            for each in self._queue.copy():
                error = self._error_of(each)
                if error is not None:
                    self._queue.remove(each)
                    self._last_end = time.monotonic()
                    ended.append((each.job, error))
            if ended:
                return ended
            time.sleep(POLL_SECONDS)
            if time.monotonic() >= self._queried + QUERY_SECONDS or self._local:
                self._query()
                self._submit_waiting()

    def stop(self) -> None:
        with self._controller.stopping():
            self._cancel(self._queue, "--state=PENDING")
            end = time.monotonic() + STOP_SECONDS
            while time.monotonic() < end and not all(
                each.state or each.has_result for each in self._queue
            ):
                time.sleep(2 * POLL_SECONDS)
                self._query()
            self._cancel(self._queue)

    def _error_of(self, each: Submission) -> str | None:
        """Of a job that has ended, or empty text; None while it has not, or is submitted again."""
        if each.has_result:
            return self._result(each)
        if not each.state:
            return None
        if each.state == "COMPLETED":
            waited = time.monotonic() >= each.since + RESULT_SECONDS
            return None if not waited else f"left no result in {each.handle.paths.folder}"
        if each.state not in BY_SCHEDULER and (each.state in FAULTS or not each.saved_state):
            return f"ended with {each.state}; its output is in {each.handle.paths.stdout}"
        states = self._final_states[each.job.number]
        states.append(each.state)
        if len(states) > self.max_num_timeout:
            return (
                f"ended {len(states)} times ({', '.join(sorted(set(states)))}); raise "
                "hydra.launcher.timeout_min or hydra.launcher.max_num_timeout"
            )
        log.info("job %d: %s, submitted again (%d)", each.job.number, each.state, len(states))
        self._cancel([each])  # should it not have ended, there would be two
        self._queue.remove(each)
        self.start(each.job)
        return None

    def _submit_waiting(self) -> None:
        """Submit what waits, until Slurm refuses one.

        Raises ValueError if it refuses one while none is in the queue, nor was for a while (Slurm
        counts a job for some time after its end), so that waiting is no use.
        """
        utils = self._submitit.core.utils
        while self._waiting:
            job, executor = self._waiting[0]
            try:
                with self._environment():
                    handle = executor.submit(self._task, job)
            except (utils.FailedJobError, utils.FailedSubmissionError) as failure:
                error = printable(" ".join(str(failure).split()))[-MAX_ERROR:]
                reachable = not any(part in error for part in UNREACHABLE)
                idle = not self._queue and time.monotonic() >= self._last_end + REFUSED_SECONDS
                if idle and (reachable or self._queried < 0):
                    raise ValueError(f"hydra/launcher=slurm: {error}") from failure
                self._warn("%s waits: %s", job.label, error)
                return
            self._waiting.pop(0)
            self._queue.append(Submission(job, handle, status_of(job)))

    def _executor(self, job: Job) -> Any:
        """For one submission, with a folder of its own: a queue may give an id a second time."""
        folders = (self._controller.folder / FOLDER / f"{job.number}.{i}" for i in count(1))
        folder = next(folder for folder in folders if not folder.exists())
        executor = self._submitit.AutoExecutor(folder, cluster=self._cluster)
        executor.update_parameters(**self._parameters)
        return executor

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Without the variables of a Slurm job that this process may itself be."""
        site = {key: value for key, value in os.environ.items() if key == "SLURM_CONF"}
        # Ctrl-C is this process's: what it ignores, the processes that it starts ignore too.
        former = signal.signal(signal.SIGINT, signal.SIG_IGN) if self._local else None
        try:
            with self._submitit.helpers.clean_env():
                os.environ |= site
                yield
        finally:
            if self._local:
                signal.signal(signal.SIGINT, former)

    def _result(self, each: Submission) -> str:
        failure = each.handle.exception()
        if failure is None:
            error: str = each.handle.result()
            return error
        # The traceback ends with the error, before where the output is.
        lines = str(failure).partition("You can check full logs")[0].strip(" -\n").splitlines()
        return f"{printable(lines[-1])}; its output is in {each.handle.paths.stdout}"[:MAX_ERROR]

    def _query(self) -> None:
        """Note which jobs have ended."""
        self._queried = time.monotonic()
        if self._local:
            for each in self._queue:
                if each.handle.done() and not each.has_result:
                    each.state = "KILLED"  # submitit does not know how
            return
        for each in self._queue:
            folder = each.handle.paths.folder
            with contextlib.suppress(OSError):  # a network disk then looks for results again
                folder.chmod(folder.stat().st_mode)
        states = self._states([each.handle.job_id for each in self._queue])
        if states is None:
            return
        for each in self._queue:
            last, each.last_state = each.last_state, states.get(each.handle.job_id, FORGOTTEN)
            if each.last_state == last and last in FINAL and not each.state:
                each.state, each.since = last, time.monotonic()

    def _states(self, ids: Sequence[str]) -> dict[str, str] | None:
        """By job, also of some that have ended; None if Slurm does not answer."""
        if not ids:
            return {}
        arguments = ["--noheader", "--states=all", "--format=%A %T", f"--jobs={','.join(ids)}"]
        answer = subprocess.run(["squeue", *arguments], capture_output=True, text=True, check=False)
        if answer.returncode and "Invalid job id" not in answer.stderr:
            self._warn("Slurm does not answer, trying again: %s", printable(answer.stderr.strip()))
            return None
        return dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if " " in line)

    def _cancel(self, queue: Sequence[Submission], *options: str) -> None:
        ids = [each.handle.job_id for each in queue]
        if ids and not self._local:
            subprocess.run(["scancel", "--quiet", *options, *ids], check=False)

    def _warn(self, message: str, *arguments: str) -> None:
        if time.monotonic() >= self._warned + WARN_SECONDS:
            self._warned = time.monotonic()
            log.warning(message, *arguments)


def status_of(job: Job) -> bytes:
    """The content of the run's status file; empty before there is one."""
    try:
        return job.run.status_file.read_bytes()
    except FileNotFoundError:
        return b""


def run_submitted(run_job: RunJob, controller: Controller, cwd: str, local: bool, job: Job) -> str:
    """The submitted function: run the job; its error, or empty text."""
    if local:
        os.setpgid(0, 0)  # Ctrl-C is the controller's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until the run takes them
    signal.signal(signal.SIGUSR2, _too_early)
    return run_remotely(run_job, controller, cwd, job)


def _too_early(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("the time was up before the run had begun; raise hydra.launcher.timeout_min")
