"""train.py -m: a grid of runs or a search, resumed where it was stopped, and what came of it."""

from __future__ import annotations

import logging
import os
import runpy
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from omegaconf import DictConfig, OmegaConf

from stockformer.commands.single import single_run
from stockformer.config.overrides import check_command_line, grid, is_search, search_space
from stockformer.config.quoting import as_path, pasteable, quoted
from stockformer.config.trust import names_packages, trust_named
from stockformer.runs.console import program
from stockformer.runs.folder import LONGER, MAY_CHANGE, REPEATED, TREES
from stockformer.runs.interruption import SIGNALS
from stockformer.runs.logs import start_log
from stockformer.runs.resume import continued, merged, requested_value
from stockformer.sweeps.folder import Job, SweepDir, SweepRecord, newest_unfinished

if TYPE_CHECKING:
    from stockformer.runs.folder import AfterEpoch
    from stockformer.sweeps.jobs import Jobs
    from stockformer.sweeps.launchers import Launcher

log = logging.getLogger("stockformer.sweeps")

MAY_CHANGE_IN_SWEEP = MAY_CHANGE - LONGER - {"resume", "tags"}
HYDRA_MAY_CHANGE = ("hydra/launcher=", "hydra.launcher.", "hydra.sweeper.n_trials=")


class Train(Protocol):
    def __call__(
        self,
        config: DictConfig,
        folder: Path,
        overrides: list[str],
        after_epoch: AfterEpoch | None = None,
    ) -> object: ...


def requested_sweep(words: Sequence[str]) -> Path | None:
    """The folder that resume= names, or for `latest` the newest unfinished sweep's."""
    value = requested_value(words)
    if value == "latest":
        return newest_unfinished(Path(TREES[1]))
    return None if value is None else as_path(value)


def sweep(function: Train, words: Sequence[str], resume: Path | None) -> int:
    """Run what is missing of the sweep that `words` describe, or of the one in `resume`.

    Returns the exit status: 1 if a job has failed. Raises ValueError for what is wrong with them.
    """
    start_log(only_warnings=True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("-m: torchrun starts the processes of one run, not of a sweep")
    changes: list[str] = []
    if resume is not None:
        recorded = [w for w in SweepDir(resume).read().overrides if not names_packages(w)]
        changes = [word for word in words if not word.lstrip("+~").startswith(HYDRA_MAY_CHANGE)]
        require_may_change(changes)
        if any(word.startswith("hydra/launcher=") for word in words):  # the other's do not fit
            recorded = [w for w in recorded if not w.lstrip("+").startswith("hydra.launcher.")]
        words = merged(recorded, words)
    words = [from_anywhere(word) for word in words]
    config = check_command_line(words, multirun=True)
    folder = SweepDir((resume or Path(str(config.hydra.sweep.dir))).absolute())
    record = SweepRecord(list(words), objectives(config), finished=False)
    begun = folder.record_file.exists()
    folder.claim(record, resume=resume is not None)
    with folder, stopped_by_signals():
        try:
            jobs = make_jobs(folder, config, record)
            run_job = partial(run_one, function, tuple(changes))
            launcher = make_launcher(config, run_job, folder, jobs.total - jobs.done)
        except ValueError:
            if not begun:
                folder.discard()
            raise
        return run_all(folder, record, jobs, launcher, report=config.report)


def from_anywhere(word: str) -> str:
    """A study in a file has a path that does not depend on where the sweep is resumed."""
    key, _, value = word.partition("=sqlite:///")
    if key != "hydra.sweeper.storage" or not value:
        return word
    return f"{key}=sqlite:///{Path(value).absolute()}"


def require_may_change(words: Sequence[str]) -> None:
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key not in MAY_CHANGE_IN_SWEEP:
            raise ValueError(
                f"{word}: a resumed sweep may change {', '.join(sorted(MAY_CHANGE_IN_SWEEP))}, the "
                "launcher and hydra.sweeper.n_trials; for the rest start a new sweep"
            )


def objectives(config: DictConfig) -> list[str]:
    """What the runs are compared by on the validation days, the first objective first."""
    return list(config.hydra.sweeper.objectives if is_search(config) else [config.trainer.monitor])


def make_jobs(folder: SweepDir, config: DictConfig, record: SweepRecord) -> Jobs:
    """The grid of the command line, or the search."""
    from stockformer.sweeps.jobs import Grid  # noqa: PLC0415 (pandas, after the checks)

    ours = [word for word in record.overrides if not word.lstrip("+~").startswith("hydra")]
    given = config.hydra.sweeper.params or {}
    parameters = {str(key): str(value) for key, value in given.items()}
    if is_search(config):
        from stockformer.sweeps.search import Search, SearchSettings, study_url, with_driver  # noqa: PLC0415

        node = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
        assert isinstance(node, dict)
        fixed, space = search_space(ours, parameters)
        if not space:
            raise ValueError("search: nothing to choose; name ranges in hydra.sweeper.params")
        for key in REPEATED:
            if key in space:
                raise ValueError(
                    f"{key}: a search would choose the luckiest; give it one value, and repeat the "
                    "best trial with several by the command that the search ends with"
                )
        settings = SearchSettings(
            objectives=tuple(record.objectives),
            n_trials=node["n_trials"],
            pruner=node["pruner"],
            storage=with_driver(node["storage"] or study_url(folder)),
            study_name=node["study_name"],
            sampler=node["sampler"],
        )
        return Search(folder, settings, fixed, space)
    lines = [*(f"{key}={value}" for key, value in parameters.items()), *ours]
    lists = grid(lines)
    common = set(lists[0]).intersection(*lists)
    return Grid(
        [
            Job(
                number=number,
                words=tuple(line),
                varied=tuple(word for word in line if word not in common),
                folder=folder.job_folder(number),
            )
            for number, line in enumerate(lists)
        ],
        objectives=tuple(record.objectives),
    )


def make_launcher(
    config: DictConfig, run_job: partial[None], folder: SweepDir, missing: int
) -> Launcher:
    """hydra/launcher: one job after another, processes that share the cores, or other machines."""
    from stockformer.sweeps.launchers import InProcess, Processes  # noqa: PLC0415
    from stockformer.sweeps.remote import Controller  # noqa: PLC0415

    node, name = dict(config.hydra.launcher), config.hydra.runtime.choices["hydra/launcher"]
    controller = Controller(folder.path, folder.controller_id)
    if name == "ray":
        from stockformer.sweeps.ray_launcher import RayTasks  # noqa: PLC0415 (an extra)

        return RayTasks(
            of_program(run_job),
            controller=controller,
            address=node["address"],
            slots=node["n_jobs"],
            threads=node["threads"],
        )
    if name in ("slurm", "slurm_local"):
        from stockformer.sweeps.slurm_launcher import SlurmJobs  # noqa: PLC0415 (an extra)

        return SlurmJobs(
            of_program(run_job),
            controller=controller,
            local=name == "slurm_local",
            slots=node.pop("n_jobs"),
            threads=node.pop("threads"),
            max_num_timeout=node.pop("max_num_timeout"),
            settings=node,
        )
    if name == "basic":
        return InProcess(run_job)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    slots = min(node["n_jobs"] or max(1, (cores or 1) // 2), max(1, missing))
    threads = node["threads"] or max(1, (cores or 1) // slots)
    return Processes(run_job, slots=slots, threads=threads)


def of_program(run_job: partial[None]) -> partial[None]:
    """The same for another machine, where the program is not what was started."""
    function, changes = run_job.args
    if function.__module__ != "__main__":
        return run_job
    program = Path(str(sys.modules["__main__"].__file__)).absolute()
    return partial(run_of_program, program, function.__name__, changes)


def run_of_program(program: Path, name: str, changes: Sequence[str], job: Job) -> None:
    function: Train = runpy.run_path(str(program), run_name="__mp_main__")[name]
    run_one(function, changes, job)


def run_one(function: Train, changes: Sequence[str], job: Job) -> None:
    """A job, from its beginning or from its last checkpoint."""
    from stockformer.sweeps.jobs import require_same_settings  # noqa: PLC0415 (pandas)

    trust_named(job.words)  # this may be another process than the command's
    require_same_settings(job.run, job.words)
    if job.run.status_file.exists() and job.run.begun():
        again = continued(job.folder, changes)
        if again is None:
            return
        (config, overrides), folder = again, job.folder
    else:
        place = f"hydra.run.dir={quoted(str(job.folder))}"
        config, folder, overrides = single_run([*job.words, *changes, place], in_sweep=True)
    after_epoch = None if job.reporter is None else job.reporter(config.trainer.max_epoch)
    function(config, folder, overrides, after_epoch)


def run_all(
    folder: SweepDir, record: SweepRecord, jobs: Jobs, launcher: Launcher, *, report: bool
) -> int:
    """Run the jobs, and show what came of all of them."""
    from stockformer.sweeps.jobs import DONE, RUNNING, run_jobs  # noqa: PLC0415 (pandas, after the checks)

    again = f"{program('train')} -m {pasteable('resume', folder.path)}"
    log.info("sweep of %d jobs in %s", jobs.total, folder.path)
    try:
        outcomes = run_jobs(jobs, launcher)
    except (KeyboardInterrupt, Stopped, OSError):
        log.warning("stopped, the state of the jobs is kept; continue with %s", again)
        raise
    every = jobs.outcomes(outcomes)
    good = (*DONE, RUNNING)
    failed = [number for number, (_, outcome) in every.items() if outcome.state not in good]
    finished = jobs.done >= jobs.total if jobs.counts_failures else not failed
    folder.write(replace(record, finished=finished))
    from stockformer.commands.sweep_results import show_results  # noqa: PLC0415 (plotly)

    show_results(folder, every, jobs.objectives, report=report)
    if not finished:
        log.warning("run what is missing or failed again with %s", again)
    return 1 if failed else 0


class Stopped(Exception):
    """A signal asked the controller to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Signals raise Stopped, also between two jobs, so that processes are ended and waited for."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    former = {
        number: signal.signal(number, stop)
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
