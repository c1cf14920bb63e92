"""Jobs in a Slurm queue, on machines that share disk, data and code; through submitit."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from stockformer.runs.console import printable
from stockformer.sweeps.folder import Job
from stockformer.sweeps.launchers import MAX_ERROR, RunJob
from stockformer.sweeps.remote import POLL_SECONDS, STOP_SECONDS, asked_to_end, work

log = logging.getLogger(__name__)

QUEUE_SECONDS = 5.0
"""Between two questions to Slurm, each for all jobs at once."""
FOLDER = "slurm"
"""In the sweep's folder: the batch scripts and what the jobs print."""
SCHEDULER_ENDED = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL")
"""States in which a job has ended without a fault of its own."""
OF_SLURM = ("partition", "account", "qos", "constraint", "signal_delay_s")
"""Settings that processes have no use for."""
GONE = "no longer known to Slurm"
ENDED = (*SCHEDULER_ENDED, "COMPLETED", "FAILED", "CANCELLED", "OUT_OF_MEMORY", "DEADLINE", GONE)
NO_ANSWER = ("Unable to contact", "Socket timed out", "Connection refused")


@dataclass
class Submitted:
    """A job in the queue. handle: submitit's. seen: the last answer about it.

    state: in which it has ended, seen twice, because a job that Slurm starts again is between two
    states for a moment.
    """

    job: Job
    handle: Any
    seen: str = ""
    state: str = ""


class SlurmJobs:
    """Each job a Slurm job, or with local=True a process that submitit gives the same time limit.

    The warning before the time limit and a pre-emption have a run save its state. Slurm starts a
    job again that was pre-empted or whose machine has died; one that has reached its time limit is
    submitted again from here, at most `max_num_timeout` times. Each continues from its state.

    folder: the sweep's. slots: in the queue at a time. settings: by submitit's names, for example
    timeout_min; None leaves Slurm's default. Raises ValueError where submitit or Slurm is not
    installed.
    """

    def __init__(
        self,
        run_job: RunJob,
        *,
        folder: Path,
        local: bool,
        slots: int,
        threads: int,
        max_num_timeout: int,
        settings: Mapping[str, int | str | None],
    ) -> None:
        name, kind = ("slurm_local", "local") if local else ("slurm", "slurm")
        try:
            import submitit  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise ValueError(
                f"hydra/launcher={name}: submitit is not installed: "
                "pip install 'stockformer[slurm]'"
            ) from error
        self._submitit, self._local = submitit, local
        self._task = partial(run_submitted, run_job, os.getcwd(), local)
        self.slots, self.max_num_timeout = slots, max_num_timeout
        os.environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(threads)}
        try:
            self._executor = submitit.AutoExecutor(folder / FOLDER, cluster=kind)
        except RuntimeError as error:
            raise ValueError(
                "hydra/launcher=slurm: this machine has no srun and sbatch; start the sweep where "
                "Slurm's commands are, or try hydra/launcher=slurm_local"
            ) from error
        self._executor.update_parameters(
            name="stockformer",
            cpus_per_task=threads,
            stderr_to_stdout=True,
            slurm_additional_parameters={"requeue": True},
            **{f"slurm_{key}" if key in OF_SLURM else key: settings[key] for key in settings},
        )
        self._queue: list[Submitted] = []
        self._refused: list[tuple[Job, str]] = []
        self._submissions: Counter[int] = Counter()
        self._asked = 0.0

    def start(self, job: Job) -> None:
        error = self._submit(job)
        if error and not self._submissions:
            raise ValueError(f"hydra/launcher=slurm: {error}")
        if error:
            self._refused.append((job, error))

    def wait(self) -> list[tuple[Job, str]]:
        while True:
            ended, self._refused = self._refused, []
            for each in self._queue.copy():
                if each.handle.paths.result_pickle.exists():
                    self._queue.remove(each)
                    ended.append((each.job, self._result(each)))
                elif each.state:
                    self._queue.remove(each)
                    if (error := self._again(each)) is not None:
                        ended.append((each.job, error))
            if ended:
                return ended
            time.sleep(POLL_SECONDS)
            self._update()

    def stop(self) -> None:
        with asked_to_end(each.job for each in self._queue):
            self._cancel_all(self._queue, "--state=PENDING")
            end = time.monotonic() + STOP_SECONDS
            while any(not each.state for each in self._queue) and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
                self._update(every=2 * POLL_SECONDS)
            self._cancel_all(self._queue)

    def _submit(self, job: Job) -> str:
        """Submit it; what is wrong, or empty text. Waits where Slurm does not answer any more."""
        while True:
            try:
                # Local processes are told of Ctrl-C by this one: what is ignored they ignore too.
                former = signal.signal(signal.SIGINT, signal.SIG_IGN)
                site = {key: value for key, value in os.environ.items() if key == "SLURM_CONF"}
                try:
                    with self._submitit.helpers.clean_env():  # this may be a Slurm job itself
                        os.environ |= site
                        handle = self._executor.submit(self._task, job)
                finally:
                    signal.signal(signal.SIGINT, former)
            except self._submitit.core.utils.FailedJobError as failure:
                error = printable(" ".join(str(failure).split()))[-MAX_ERROR:]
                if not self._submissions or not any(sign in error for sign in NO_ANSWER):
                    return error
                log.warning("Slurm does not answer, trying again: %s", error)
                time.sleep(QUEUE_SECONDS)
            else:
                self._queue.append(Submitted(job, handle))
                self._submissions[job.number] += 1
                return ""

    def _again(self, each: Submitted) -> str | None:
        """Submit a job again that the scheduler has ended; of another one say how it ended."""
        saved = (
            each.job.run.status_file.exists() and each.job.run.status()["state"] == "interrupted"
        )
        taken = each.state in SCHEDULER_ENDED or (saved and each.state != "CANCELLED")
        if not taken:
            return f"ended by Slurm: {each.state}; its output is in {each.handle.paths.stdout}"
        count = self._submissions[each.job.number]
        if count > self.max_num_timeout:
            return (
                f"{each.state}: its time was up {count} times; raise hydra.launcher.timeout_min or "
                "hydra.launcher.max_num_timeout"
            )
        log.info("job %d: %s, submitted again (%d)", each.job.number, each.state, count)
        self._cancel_all([each])  # should it not have ended, there would be two
        return self._submit(each.job) or None

    def _result(self, each: Submitted) -> str:
        failure = each.handle.exception()
        if failure is None:
            error: str = each.handle.result()
            return error
        lines = [line for line in str(failure).splitlines() if line.strip()]
        return printable(" ".join(lines))[:MAX_ERROR]

    def _update(self, every: float = QUEUE_SECONDS) -> None:
        """Note which jobs have ended. Slurm is asked no more often than `every` seconds."""
        if self._local:
            for each in self._queue:
                if each.handle.done() and not each.handle.paths.result_pickle.exists():
                    each.state = each.handle.state
            return
        if time.monotonic() < self._asked + every:
            return
        self._asked = time.monotonic()
        states = queue_states([each.handle.job_id for each in self._queue])
        if states is not None:
            for each in self._queue:
                before, each.seen = each.seen, states.get(each.handle.job_id, GONE)
                each.state = each.seen if each.seen == before and before in ENDED else ""

    def _cancel_all(self, queue: list[Submitted], *words: str) -> None:
        ids = [each.handle.job_id for each in queue]
        if ids and not self._local:
            subprocess.run(["scancel", "--quiet", *words, *ids], check=False)


def queue_states(ids: list[str]) -> dict[str, str] | None:
    """The states of jobs by number, also of some that have ended; None if Slurm does not answer."""
    words = ["squeue", "--noheader", "--states=all", "--format=%A %T", f"--jobs={','.join(ids)}"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        log.warning("Slurm does not answer, trying again: %s", printable(answer.stderr.strip()))
        return None
    return dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if " " in line)


def run_submitted(run_job: RunJob, folder: str, own_group: bool, job: Job) -> str:
    """The submitted function: run the job; its error, or empty text."""
    if own_group:
        os.setpgid(0, 0)  # Ctrl-C is the controller's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until the run takes them
    signal.signal(signal.SIGUSR2, _too_early)
    return work(run_job, job, folder)


def _too_early(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("the time was up before the run had begun; raise hydra.launcher.timeout_min")
