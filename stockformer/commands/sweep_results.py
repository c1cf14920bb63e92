"""What came of a sweep: the table, the folds as one, the leaderboard, what failed and why."""

from __future__ import annotations

import logging
import math
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
from stockformer.runs.console import human_time, make_console
from stockformer.runs.ensemble import ensemble
from stockformer.runs.recorded_run import is_run
from stockformer.sweeps.folder import Job, SweepDir
from stockformer.sweeps.jobs import DONE, Outcome
from stockformer.sweeps.trials import Trials, read_trials

log = logging.getLogger("stockformer.sweeps")

MAX_ROWS = 60
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
    console.print(table(every, objectives, trials))
    for job, outcome in every.values():
        if outcome.state not in DONE:
            log.error("job %d %s: %s", job.number, outcome.state, outcome.reason)
            if job.run.log_file.exists():
                log.error("    log: %s", job.run.log_file)
    if trials is None:
        return
    if report:
        log.info("leaderboard: %s", write_leaderboard(trials, None))
    best = best_job(every, objectives)
    if best is None:
        return
    name = OBJECTIVES[objectives[0]].title
    log.info("best by validation %s: job %d, %s", name, best.number, best.label)
    log.info(
        "    longer:     python train.py %s trainer.max_epoch=N", pasteable("resume", best.folder)
    )
    log.info("    again:      python evaluate.py %s", pasteable("run", best.folder))
    log.info("    more seeds: python train.py -m %s seed=1,2,3", shlex.join(words_of(best)))


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
        grid.add_column(f"validation\n{OBJECTIVES[name].title}", justify="right")
    rank_ic = METRICS["rank_ic"]
    grid.add_column(f"{rank_ic.title}\ntest, not\nfor choosing", justify="right")
    grid.add_column("time", justify="right")
    grid.add_column("state")
    for job, outcome in list(every.values())[:MAX_ROWS]:
        test = "-"
        name = job.folder.name
        if trials is not None and name in trials.completed:
            test = rank_ic.format(trials.test["rank_ic"][name])
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


def best_job(every: Mapping[int, tuple[Job, Outcome]], objectives: Sequence[str]) -> Job | None:
    """By the first objective on the validation days."""
    name = objectives[0]
    finished = [
        (outcome.values[name] * OBJECTIVES[name].direction, -job.number, job)
        for job, outcome in every.values()
        if outcome.state == "finished" and not math.isnan(outcome.values.get(name, math.nan))
    ]
    return max(finished)[2] if finished else None


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
