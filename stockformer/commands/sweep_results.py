"""What came of a sweep: the table, the folds as one, the leaderboard, what failed and why."""

from __future__ import annotations

import logging
import math
import shlex
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stockformer.config.overrides import check_command_line, without_hydra
from stockformer.config.quoting import pasteable
from stockformer.config.recorded import read_config
from stockformer.config.rules import flat
from stockformer.evaluation.metrics import METRICS, OBJECTIVES
from stockformer.reporting.leaderboard import write_leaderboard
from stockformer.reporting.terminal import configurations
from stockformer.runs.console import human_time, make_console, program
from stockformer.runs.ensemble import BaselineCache, ensemble
from stockformer.runs.folder import REPEATED, RunDir
from stockformer.runs.recorded_run import is_run
from stockformer.sweeps.folder import Job, SweepDir
from stockformer.sweeps.jobs import DONE, RUNNING, Outcome
from stockformer.sweeps.trials import (
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
FOLD = "split.fold="
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
    own = [job.folder for job, _ in every.values() if is_of(folder, job)]
    trials = read_trials(folder.path) if any(map(is_run, own)) else None
    console_of_tables().print(table(every, objectives, trials))
    for job, outcome in every.values():
        if outcome.state not in (*DONE, RUNNING):
            log.error("job %d %s: %s", job.number, outcome.state, outcome.reason)
            if job.run.log_file.exists():
                log.error("    log: %s", job.run.log_file)
    if trials is not None:
        show_trials(trials, every, report=report)
    warn_of_better_elsewhere(folder, every, objectives[0])


def show_trials(trials: Trials, every: Mapping[int, tuple[Job, Outcome]], *, report: bool) -> None:
    """Show what the runs in the sweep's folder say together, and how to go on with the best."""
    if any(len(each.runs) > 1 or each.missing for each in trials.configurations.values()):
        console_of_tables().print(configurations(trials))
    if len(trials.objectives) > 1:
        front = ", ".join(map(str, pareto_front(trials.validation, trials.objectives).index))
        titles = " and ".join(OBJECTIVES[name].title for name in trials.objectives)
        log.info("Pareto front of validation %s: jobs %s", titles, front)
    if report:
        log.info("leaderboard: %s", write_leaderboard(trials, None))
    jobs = {job.folder.name: job for job, _ in every.values()}
    for group in trials.groups:
        best = trials.best(group)
        if best is not None and jobs.keys() >= set(best.runs):
            if len(trials.groups) > 1:
                log.info("tested on %s:", group.label)
            show_best(trials, best, [jobs[run] for run in best.runs])


def is_of(folder: SweepDir, job: Job) -> bool:
    """Whether the job's run is this sweep's; a shared study has those of other sweeps too."""
    return job.folder.parent.resolve() == folder.path.resolve()


def warn_of_better_elsewhere(
    folder: SweepDir, every: Mapping[int, tuple[Job, Outcome]], objective: str
) -> None:
    """Name the best trial of a shared study if another sweep has run it: this one's folder, and so
    the best above, lacks it."""
    quantity = OBJECTIVES[objective]
    scored = [
        (quantity.direction * outcome.values[objective], job)
        for job, outcome in every.values()
        if outcome.state == "finished" and math.isfinite(outcome.values[objective])
    ]
    if not scored:
        return
    score, job = max(scored, key=lambda each: each[0])
    if not is_of(folder, job):
        log.warning(
            "job %d, of another sweep on the study, has the best validation %s, %s: %s",
            job.number,
            quantity.title,
            quantity.in_words(quantity.direction * score),
            job.folder,
        )


def show_best(trials: Trials, best: Configuration, jobs: Sequence[Job]) -> None:
    """Which configuration is the best, and the commands to go on with it."""
    name, quantity = trials.objective, OBJECTIVES[trials.objective]
    value = with_deviation(
        quantity, float(trials.score[best.name]), float(trials.validation_sd[name][best.name])
    )
    kind = "job" if len(best.runs) == 1 else f"the mean of {best.repeats}, jobs"
    shown = [f"{kind} {best.name}"]
    shown += [f"{key}={each}" for key, each in jobs[0].settings.items() if key not in REPEATED]
    log.info("best by validation %s, %s: %s", quantity.heading, value, ", ".join(shown))
    if len(jobs) == 1:
        folder = jobs[0].folder
        epochs = read_config(jobs[0].run.read_config()[0]).trainer.max_epoch
        longer = f"{pasteable('resume', folder)} trainer.max_epoch={2 * epochs}"
        log.info("    longer:     %s %s", program("train"), longer)
        log.info("    again:      %s %s", program("evaluate"), pasteable("run", folder))
    else:
        whole = len(jobs) == len(trials.completed) - sum(
            each.is_ensemble for each in trials.configurations.values()
        )
        folders = pasteable("run", *([trials.folder] if whole else (job.folder for job in jobs)))
        log.info("    as one:     %s %s", program("evaluate"), folders)
    seeds = [int(trials.seeds[run]) for run in best.runs if trials.seeds[run].isdecimal()]
    more = ",".join(str(max(seeds, default=0) + number) for number in (1, 2, 3))
    folds = dict.fromkeys(word for job in jobs for word in job.varied if word.startswith(FOLD))
    fold = [FOLD + ",".join(word.removeprefix(FOLD) for word in folds)] * bool(folds)
    words = shlex.join([*words_of(jobs[0]), *fold, f"seed={more}"])
    log.info("    more seeds: %s -m %s", program("train"), words)


def words_of(job: Job) -> list[str]:
    """The command line of a job without its seed and the fold that varies, outside a search."""
    dropped = ("seed=", "search=", "hydra", *(word for word in job.varied if word.startswith(FOLD)))
    words = [word for word in job.words if not word.startswith(dropped)]
    if not any(word.startswith("search=") for word in job.words):
        return words
    recorded = flat(read_config(job.run.read_config()[0]))
    alone = flat(without_hydra(check_command_line(words, multirun=False)))
    given = {word.lstrip("+").partition("=")[0] for word in words} | {"seed"}
    return words + [
        f"{key}={value}"
        for key, value in recorded.items()
        if key not in given and alone.get(key) != value
    ]


def console_of_tables() -> Console:
    console = make_console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console


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
    cache: BaselineCache = {}
    for number, (settings, jobs) in enumerate(sorted(by_settings.items())):
        into = folder.path / (WALK_FORWARD if len(by_settings) == 1 else f"{WALK_FORWARD}_{number}")
        if len(folds[settings]) < 2 or is_newer(into, jobs):
            continue
        try:
            if is_run(into):
                shutil.rmtree(into)  # it was stopped half-way, or a run was trained for longer
            ensemble([job.folder for job in jobs], into, cache)
        except (ValueError, OSError) as error:
            log.warning("folds are not combined: %s", error)
            continue
        log.info(
            "all %d folds as one%s: %s",
            len(folds[settings]),
            f", {settings}" * bool(settings),
            into,
        )


def is_newer(ensemble: Path, jobs: Sequence[Job]) -> bool:
    """Whether the ensemble was finished after all of its runs."""
    run = RunDir(ensemble)
    if not is_run(ensemble) or run.status()["state"] != "finished":
        return False
    made = run.status_file.stat().st_mtime_ns
    return all(job.run.status_file.stat().st_mtime_ns <= made for job in jobs)


def _value(outcome: Outcome, name: str) -> str:
    value = outcome.values.get(name)
    return "-" if value is None else OBJECTIVES[name].format(value)
