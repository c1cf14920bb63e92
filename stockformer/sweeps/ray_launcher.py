"""Jobs as tasks of a Ray cluster, on machines that share the disk, the data and the code."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from stockformer.runs.console import printable
from stockformer.runs.interruption import SIGNALS
from stockformer.sweeps.folder import Job
from stockformer.sweeps.launchers import MAX_ERROR, RunJob
from stockformer.sweeps.remote import POLL_SECONDS, STOP_SECONDS, Controller, run_remotely

ATTEMPTS = 3
"""Of a job whose process or machine dies: so often it is started in all."""
OURS = "STOCKFORMER_"
"""How the environment variables begin that tasks get from here."""
CONNECT_SECONDS = 5.0


class RayTasks:
    """A task a job. One whose process or machine dies goes on elsewhere, from its checkpoint.

    slots: None for as many as the cluster has processors for. Raises ValueError where Ray is not
    installed or the cluster cannot be reached.
    """

    def __init__(
        self,
        run_job: RunJob,
        *,
        controller: Controller,
        address: str | None,
        slots: int | None,
        threads: int,
    ) -> None:
        use_token()
        try:
            import ray  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise ValueError(
                "hydra/launcher=ray: Ray is not installed: pip install 'stockformer[ray]'"
            ) from error
        self._ray, self._controller = ray, controller
        self._arguments = run_job, controller, os.getcwd()
        variables = {key: value for key, value in os.environ.items() if key.startswith(OURS)}
        variables |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(threads)}
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            if address is not None:
                require_reachable(address)
            ray.init(
                address=address,
                runtime_env={"env_vars": variables},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"hydra.launcher.address={address}: no Ray cluster there: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        for number, handler in handlers.items():  # Ray's would exit before the jobs have saved
            signal.signal(number, handler)
        processors = int(ray.cluster_resources().get("CPU", 1))
        self.slots = slots or max(1, processors // threads)
        self._task = ray.remote(num_cpus=threads, max_retries=ATTEMPTS - 1)(run_remotely)
        self._running: dict[Any, Job] = {}

    def start(self, job: Job) -> None:
        self._running[self._task.remote(*self._arguments, job)] = job

    def wait(self) -> list[tuple[Job, str]]:
        ended: list[Any] = []
        while not ended:  # a signal is handled in between, not while Ray waits
            try:
                tasks = list(self._running)
                ended, _ = self._ray.wait(tasks, num_returns=1, timeout=POLL_SECONDS)
            except SystemError as error:  # what its handler raised within Ray's own code
                raise (error.__cause__ or error) from None
        return [(self._running.pop(task), self._error(task)) for task in ended]

    def stop(self) -> None:
        tasks = list(self._running)
        with self._controller.stopping():  # Ray's cancelling does not reach a run
            self._ray.wait(tasks, num_returns=len(tasks), timeout=STOP_SECONDS)

    def _error(self, task: Any) -> str:
        try:
            error: str = self._ray.get(task)
        except self._ray.exceptions.RayError as failure:
            # Before a job's own code runs Ray's error has its traceback; the last line says it.
            last = str(failure).strip().splitlines()[-1:] or [""]
            return f"{type(failure).__name__}: {printable(last[0])}"[:MAX_ERROR]
        return error


def use_token() -> None:
    """Authenticate as `ray start` does where there is a token; Ray's own client would not."""
    known = "RAY_AUTH_TOKEN" in os.environ or (Path.home() / ".ray" / "auth_token").exists()
    if known:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def require_reachable(address: str) -> None:
    """Raises OSError if nobody listens at HOST:PORT: Ray itself waits for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
