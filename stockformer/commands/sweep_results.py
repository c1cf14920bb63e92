"""What came of a sweep: the table, the folds as one, the leaderboard, what failed and why."""

from __future__ import annotations

import logging
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence

from rich.table import Table

from stockformer.config.overrides import check_command_line, without_hydra
from stockformer.config.quoting import pasteable
from stockformer.config.recorded import read_config
from stockformer.config.rules import flat
from stockformer.evaluation.metrics import METRICS, OBJECTIVES
from stockformer.reporting.leaderboard import write_leaderboard
from stockformer.reporting.terminal import configurations
from stockformer.runs.console import human_time, make_console
from stockformer.runs.ensemble import ensemble
from stockformer.runs.recorded_run import is_run
from stockformer.sweeps.folder import Job, SweepDir
from stockformer.sweeps.jobs import DONE, RUNNING, Outcome
from stockformer.sweeps.trials import (
    REPEATED,
    Configuration,
    Trials,
    pareto_front,
    read_trials,
    test_figures,
    with_deviation,
)

log = logging.getLogger("stockformer.sweeps")

MAX_ROWS = 60
FILE_WIDTH = 160
"""Of the table in a file or a pipe, where nothing wraps lines."""
WALK_FORWARD = "walk_forward"
"""The folder of all folds as one, in the sweep's folder."""


def show_results(
    folder: SweepDir,
    every: Mapping[int, tuple[Job, Outcome]],
    objectives: Sequence[str],
    *,
    report: bool,
) -> None:
    """Show the table, the failures and how to go on with the best run; write pages if `report`."""
    combine_folds(folder, every)
    trials = (
        read_trials(folder.path) if any(is_run(job.folder) for job, _ in every.values()) else None
    )
    console = make_console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table(every, objectives, trials))
    for job, outcome in every.values():
        if outcome.state not in (*DONE, RUNNING):
            log.error("job %d %s: %s", job.number, outcome.state, outcome.reason)
            if job.run.log_file.exists():
                log.error("    log: %s", job.run.log_file)
    if trials is None:
        return
    if any(len(each.runs) > 1 for each in trials.configurations.values()):
        console.print(configurations(trials))
    if len(trials.objectives) > 1:
        front = ", ".join(map(str, pareto_front(trials.validation, trials.objectives).index))
        log.info("Pareto front of %s: jobs %s", " and ".join(trials.objectives), front)
    if report:
        log.info("leaderboard: %s", write_leaderboard(trials, None))
    best = trials.best()
    if best is not None:
        jobs = {job.folder.name: job for job, _ in every.values()}
        show_best(trials, best, [jobs[run] for run in best.runs if run in jobs])


def show_best(trials: Trials, best: Configuration, jobs: Sequence[Job]) -> None:
    """Which configuration is the best, and the commands to go on with it."""
    name, quantity = trials.objective, OBJECTIVES[trials.objective]
    value = with_deviation(
        quantity, float(trials.score[best.name]), float(trials.validation_sd[name][best.name])
    )
    kind = "job" if len(best.runs) == 1 else f"the mean of {best.repeats}, jobs"
    shown = " ".join(f"{key}={value}" for key, value in settings_of(jobs[:1]).items())
    log.info("best by validation %s, %s: %s %s, %s", quantity.title, value, kind, best.name, shown)
    if len(jobs) == 1:
        folder = jobs[0].folder
        log.info(
            "    longer:     python train.py %s trainer.max_epoch=N", pasteable("resume", folder)
        )
        log.info("    again:      python evaluate.py %s", pasteable("run", folder))
    else:
        folders = pasteable("run", *(job.folder for job in jobs))
        log.info("    as one:     python evaluate.py %s", folders)
    log.info("    more seeds: python train.py -m %s seed=1,2,3", shlex.join(words_of(jobs[0])))


def settings_of(jobs: Sequence[Job]) -> dict[str, str]:
    """What varies between configurations, of the first job."""
    return {
        key: value for job in jobs for key, value in job.settings.items() if key not in REPEATED
    }


def words_of(job: Job) -> list[str]:
    """The command line of a job without its seed, outside a search."""
    words = [word for word in job.words if not word.startswith(("seed=", "search=", "hydra"))]
    if len(words) == len(job.words):
        return words
    recorded = flat(read_config(job.run.read_config()[0]))
    alone = flat(without_hydra(check_command_line(words, multirun=False)))
    given = {word.lstrip("+").partition("=")[0] for word in words} | {"seed"}
    return words + [
        f"{key}={value}"
        for key, value in recorded.items()
        if key not in given and alone.get(key) != value
    ]


def table(
    every: Mapping[int, tuple[Job, Outcome]], objectives: Sequence[str], trials: Trials | None
) -> Table:
    """A row a job, in their order."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("job", justify="right")
    keys = list(dict.fromkeys(key for job, _ in every.values() for key in job.settings))
    for key in keys:
        grid.add_column(key.rpartition(".")[2].replace("_", "_\n"), overflow="fold")
    for name in objectives:
        grid.add_column(f"validation\n{OBJECTIVES[name].title}", justify="right", min_width=10)
    rank_ic = METRICS["rank_ic"]
    grid.add_column(f"{rank_ic.title}\ntest, not\nfor choosing", justify="right")
    grid.add_column("time", justify="right")
    grid.add_column("state")
    for job, outcome in list(every.values())[:MAX_ROWS]:
        test = "-"
        name = job.folder.name
        if trials is not None and name in trials.completed:
            test = rank_ic.format(test_figures(trials.completed[name])["rank_ic"])
        grid.add_row(
            str(job.number),
            *(job.settings.get(key, "") for key in keys),
            *(_value(outcome, name) for name in objectives),
            test,
            human_time(outcome.seconds),
            outcome.state,
        )
    if len(every) > MAX_ROWS:
        grid.caption = f"and {len(every) - MAX_ROWS} more, on the leaderboard"
    return grid


def combine_folds(folder: SweepDir, every: Mapping[int, tuple[Job, Outcome]]) -> None:
    """Evaluate the test days of all folds as one, for each configuration of the sweep."""
    by_settings: dict[str, list[Job]] = defaultdict(list)
    folds: dict[str, set[str]] = defaultdict(set)
    for job, outcome in every.values():
        fold = [word for word in job.varied if word.startswith("split.fold=")]
        if not fold:
            return
        rest = " ".join(w for w in job.varied if not w.startswith(("split.fold=", "seed=")))
        folds[rest].update(fold)
        by_settings[rest].append(job)
        if outcome.state != "finished":
            log.warning("folds are not combined: job %d has not finished", job.number)
            return
    for number, (settings, jobs) in enumerate(sorted(by_settings.items())):
        into = folder.path / (WALK_FORWARD if len(by_settings) == 1 else f"{WALK_FORWARD}_{number}")
        if len(folds[settings]) < 2 or is_run(into):
            continue
        try:
            ensemble([job.folder for job in jobs], into)
        except ValueError as error:
            log.warning("folds are not combined: %s", error)
            continue
        log.info(
            "all %d folds as one%s: %s",
            len(folds[settings]),
            f", {settings}" * bool(settings),
            into,
        )


def _value(outcome: Outcome, name: str) -> str:
    value = outcome.values.get(name)
    return "-" if value is None else OBJECTIVES[name].format(value)
