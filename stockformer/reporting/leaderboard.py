"""The page of a sweep or of a tree of runs: the best by validation, and what that is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from stockformer.evaluation.metrics import METRICS, OBJECTIVES
from stockformer.evaluation.quantities import (
    MISSING,
    NET_EXCESS,
    ONE_SIDED_TURNOVER,
    TRAINING_TIME,
    Quantity,
    format_count,
)
from stockformer.reporting import overlay, pick, trial_figures
from stockformer.reporting.page import Page, Plot, Section, address, require_html
from stockformer.reporting.tables import Table
from stockformer.runs.folder import RunDir
from stockformer.runs.recorded_run import RecordedRun, short_name
from stockformer.runs.settings import different_code
from stockformer.sweeps.selection import (
    MIN_TRIALS,
    UNRELIABLE_TRIALS,
    importance,
)
from stockformer.sweeps.selection_bias import validation_scores
from stockformer.sweeps.trials import (
    Configuration,
    Trials,
    pareto_front,
    recorded_settings,
    test_figures,
    validation_figures,
    with_deviation,
)

FILE = "leaderboard.html"
NOT_FOR_CHOOSING = "test, not for choosing"
BRIEF = [name for name, metric in METRICS.items() if metric.brief]
VALIDATION_COLUMNS = (*BRIEF, "loss")
TEST_COLUMNS = ("rank_ic", "rank_ic_t", *BRIEF[1:], "net_excess", "one_sided_turnover")
MAX_CHOICES = 12
"""A setting of more values has no list to filter by."""
REM_AN_AXIS = 7
"""Width of an axis of the parallel coordinates, so that names do not overlap."""
MAX_DRAWN = 300
TITLES = {
    "net_excess": "net excess\n(basis points a day)",
    "one_sided_turnover": "turnover\n(one-sided, a day)",
}
T_STATISTIC = Quantity("rank IC t", "Newey-West", 2, around_zero=True)
SCORES = OBJECTIVES | {
    "rank_ic_t": T_STATISTIC,
    "net_excess": NET_EXCESS,
    "one_sided_turnover": ONE_SIDED_TURNOVER,
}


def write_leaderboard(trials: Trials, output: Path | None) -> Path:
    """Write the page, whole or not at all: to `output`, by default into the folder.

    Returns where it lies. Raises ValueError where it cannot be written.
    """
    path = output or trials.folder / FILE
    require_html(path)
    return page(trials, path.parent).write(path)


def page(trials: Trials, page_folder: Path) -> Page:
    """page_folder: the folder that the page will lie in, for its links."""
    sections = [ranking(trials, page_folder)]
    if trials.completed:
        if len(trials.objectives) > 1:
            sections.append(pareto_section(trials))
        sections += [pick.section(trials), importance_section(trials), overlay.section(trials)]
    if trials.unfinished or trials.refused:
        sections.append(not_completed(trials, page_folder))
    state = "finished" if trials.completed else "failed"
    name = short_name(trials.folder)
    card = pick.card(trials) if trials.completed else []
    return Page("runs in", name, headline(trials), subtitle(trials), state, sections, card=card)


def headline(trials: Trials) -> str:
    """The best configuration, and whether it beats the baselines or the next."""
    if not trials.completed:
        return "No run was completed."
    groups = [g for g in trials.groups if not validation_scores(trials, g).empty]
    if len(groups) > 1:
        return (
            f"These {len(trials.completed)} runs were tested on {len(groups)} different "
            "data sets, targets or spans of dates: compare only within one."
        )
    ranked = trials.compared((groups or trials.groups)[0])
    best = ranked[0] if ranked else next(iter(trials.configurations.values()))
    lead = f"Best by validation {SCORES[trials.objective].heading} ({scores(trials, best.name)[0]})"
    if len(best.runs) > 1:
        return f"{lead}: the mean of {best.repeats}, runs {best.name}.{_noise(trials, ranked)}"
    return f"{lead}: run {best.name}. {trials.completed[best.runs[0]].headline}"


def _noise(trials: Trials, ranked: Sequence[Configuration]) -> str:
    """Whether the best two differ by less than seeds do."""
    if len(ranked) < 2:
        return ""
    first, second = (each.name for each in ranked[:2])
    deviations = trials.validation_sd[trials.objective]
    if abs(trials.score[first] - trials.score[second]) >= max(
        deviations[first], deviations[second]
    ):
        return ""
    return f" The next ({scores(trials, second)[0]}) differs by less than seeds of one do."


def subtitle(trials: Trials) -> str:
    counts = [format_count(len(trials.completed), "run") + " completed"]
    if trials.unfinished:
        counts.append(f"{len(trials.unfinished)} not")
    if trials.refused:
        counts.append(f"{len(trials.refused)} unreadable")
    return ", ".join(counts)


def ranking(trials: Trials, page_folder: Path) -> Section:
    """The table of all completed runs."""
    title = "Ranking"
    if not trials.completed:
        return Section(title, "There is nothing to rank.")
    quantity = SCORES[trials.objective]
    low = " (the lowest first)" if not quantity.around_zero else ""
    lead = (
        f"Sorted by the validation {quantity.title}{low} of the tested epoch, "
        f"{'which this sweep compares' if trials.in_sweep else 'by which most were selected'}. "
        "Press a heading to sort by it. The test columns are "
        "there to be looked at once: whoever selects by them has no test left."
    )
    if any(len(each.runs) > 1 for each in trials.configurations.values()):
        lead += (
            " Runs that differ in seed or fold only are one line, which unfolds: the mean over "
            "folds and seeds ± the sample deviation over seeds. One that lacks runs (1 of 2) is "
            "never the best."
        )
    for name, each in trials.configurations.items():
        manifests = [trials.completed[run].manifest for run in each.runs]
        for note in different_code(m.git_commit for m in manifests if m is not None):
            lead += f" {name}: {note}."
    return Section(title, lead, [board(trials, page_folder)])


def scores(trials: Trials, name: str) -> list[str]:
    """A configuration's objectives on the validation days."""
    return _cells(trials.objectives, trials.validation, trials.validation_sd, name)


def board(trials: Trials, page_folder: Path) -> Table:
    """A row a configuration: settings that differ, validation metrics, test metrics."""
    by_objective = dict.fromkeys((*trials.objectives, *VALIDATION_COLUMNS))
    validation = [name for name in by_objective if name in trials.validation]
    test = [name for name in TEST_COLUMNS if name in trials.test]
    keys = [str(key) for key in trials.settings]
    several = len(trials.groups) > 1
    repeated = any(len(each.runs) > 1 or each.missing for each in trials.configurations.values())
    tested_on = {name: group.label for group in trials.groups for name in group.configurations}
    settings = trials.settings.to_dict("index")
    rows = [
        (
            name,
            *([tested_on[name]] if several else []),
            *([each.repeats] if repeated else []),
            *(settings[name][key] for key in keys),
            *_cells(validation, trials.validation, trials.validation_sd, name),
            *_effort([trials.completed[run] for run in each.runs]),
            *_cells(test, trials.test, trials.test_sd, name),
        )
        for name, each in trials.configurations.items()
    ]
    named = 1 + several + repeated + len(keys)
    first_test = named + len(validation) + 2
    choices = [c for c in range(1, named) if 1 < len({row[c] for row in rows}) <= MAX_CHOICES]
    return Table(
        header=(
            "run",
            *(["tested on"] if several else []),
            *(["mean of"] if repeated else []),
            *keys,
            *(SCORES[n].heading for n in validation),
            *("tested epoch", "seconds"),
            *(TITLES.get(n, SCORES[n].heading) for n in test),
        ),
        rows=rows,
        words=range(1 + several + repeated),
        board="board",
        filters=choices,
        groups=[
            ("", 1 + several + repeated),
            *([("settings that differ", len(keys))] if keys else []),
            ("validation", len(validation)),
            ("training", 2),
            (NOT_FOR_CHOOSING, len(test)),
        ],
        aside=range(first_test, first_test + len(test)),
        links=_addresses(trials.completed, page_folder),
        members={
            name: [
                (
                    run,
                    *([tested_on[name]] if several else []),
                    *([_repeat(trials, run)] if repeated else []),
                    *(settings[name][key] for key in keys),
                    *_values(validation, validation_figures(trials.completed[run])),
                    *_effort([trials.completed[run]]),
                    *_values(test, test_figures(trials.completed[run])),
                )
                for run in each.runs
            ]
            for name, each in trials.configurations.items()
            if len(each.runs) > 1
        },
    )


def pareto_section(trials: Trials) -> Section:
    """The configurations that none beats in every objective, in a table and among the others."""
    front = pareto_front(trials.validation, trials.objectives)
    quantities = [SCORES[name] for name in trials.objectives]
    keys = [str(key) for key in trials.settings]
    rows = [
        (
            str(name),
            *(str(trials.settings.loc[name, key]) for key in keys),
            *(q.format(float(front.loc[name, o])) for q, o in zip(quantities, trials.objectives)),
        )
        for name in front.index
    ]
    header = ("run", *keys, *(quantity.title for quantity in quantities))
    known = trials.validation[list(trials.objectives)].dropna()
    lead = (
        f"{len(front)} of {format_count(len(known), 'configuration')} are on the front: on the "
        "validation days no other is at least as good in every objective and better in one. Which "
        "of them to take is a choice that the metrics do not make."
    )
    caption = "Validation days; orange: the front. With more than two objectives, the first two."
    figure = trial_figures.pareto(known, front, quantities[:2])
    return Section(
        "Pareto front", lead, [Table(header, rows)], plots=[Plot("Objectives", figure, caption)]
    )


def importance_section(trials: Trials) -> Section:
    """Which settings went with which score."""
    title = "Which settings mattered"
    group = trials.groups[0]
    score = validation_scores(trials, group)
    varied = trials.settings.loc[score.index]
    varied = varied.loc[:, varied.nunique() > 1]
    if varied.empty:
        return Section(title, "No setting differs between runs that can be compared.")
    lead = [] if len(trials.groups) == 1 else [f"Of the runs tested on {group.label}."]
    found = importance(varied, score)
    plots = []
    if found is None:
        lead.append(f"Importance needs {MIN_TRIALS} trials and scores that vary.")
    else:
        lead.append(
            f"Permutation importance in a random forest, on trials it has not seen: it explains "
            f"{found.explained:.0%} of the variance of the validation metric over "
            f"{format_count(found.trials, 'trial')}."
        )
        if found.explained <= 0:
            lead.append("That is nothing: the bars are noise.")
        elif found.trials < UNRELIABLE_TRIALS:
            lead.append(f"Below {UNRELIABLE_TRIALS} trials that is unreliable.")
        caption = (
            "How much less of the variance is explained when a setting is shuffled; at zero or "
            "below, it did not help the forest. It shows what mattered, not in which direction."
        )
        plots.append(Plot("Importance", trial_figures.importance(found.drop), caption))
    quantity = SCORES[trials.objective]
    shown = score.iloc[:MAX_DRAWN]
    caption = (
        "A line a run, orange the best third by validation, blue the middle, grey the worst; "
        "those that the table's filters leave."
    )
    if len(shown) < len(score):
        caption += f" The best {MAX_DRAWN} only."
    figure = trial_figures.parallel_coordinates(varied.loc[shown.index], shown, quantity)
    width = REM_AN_AXIS * (varied.shape[1] + 1)
    plots.append(Plot("Settings and score", figure, caption, follows="board", least_width=width))
    return Section(title, " ".join(lead), plots=plots)


def not_completed(trials: Trials, page_folder: Path) -> Section:
    """The other runs, each with the reason."""
    rows = [
        (name, run.status.state, f"{run.status.time:%Y-%m-%d %H:%M}", _epochs(run), _reason(run))
        for name, run in trials.unfinished.items()
    ]
    rows += [(name, "unreadable", "-", "-", reason) for name, reason in trials.refused.items()]
    header = ("run", "state", "since", "epochs", "reason")
    links = _addresses(trials.unfinished, page_folder)
    table = Table(header, rows, words=(0, 1, 4), links=links)
    return Section("Not completed", "Left out of everything above.", [table])


def _reason(run: RecordedRun) -> str:
    if run.reason:
        return run.reason
    return "not tested" if run.status.state == "finished" else "-"


def _epochs(run: RecordedRun) -> str:
    return "0" if run.metrics is None else str(len(run.metrics))


def _effort(runs: Sequence[RecordedRun]) -> tuple[str, str]:
    """The tested epoch, and how long the training took, in all."""
    tested = [run.evaluation.epoch for run in runs if run.evaluation is not None]
    epochs = [epoch for epoch in tested if epoch is not None]
    if not epochs:
        return "ensemble", MISSING
    seconds = sum(
        run.metrics["seconds"].sum() if "seconds" in run.metrics else math.nan
        for run in runs
        if run.metrics is not None
    )
    lowest, highest = min(epochs), max(epochs)
    span = str(lowest) if lowest == highest else f"{lowest} to {highest}"
    return span, TRAINING_TIME.format(seconds)


def _repeat(trials: Trials, run: str) -> str:
    """Which seed, and which fold where there are several, a run is."""
    settings = recorded_settings(trials.completed[run])
    parts = [("seed", trials.seeds[run]), ("fold", settings.get("split.fold", ""))]
    return " ".join(f"{name} {number}" for name, number in parts if number not in ("", "null"))


def _values(names: Sequence[str], figures: Mapping[str, float]) -> list[str]:
    return [SCORES[name].format(figures.get(name, math.nan)) for name in names]


def _cells(
    names: Sequence[str], means: pd.DataFrame, deviations: pd.DataFrame, row: str
) -> list[str]:
    return [with_deviation(SCORES[n], means[n][row], deviations[n][row]) for n in names]


def _addresses(runs: dict[str, RecordedRun], page_folder: Path) -> dict[str, str]:
    """Each run's report where there is one, else its folder, as seen from the page."""
    reports = {name: RunDir(run.path).report_file for name, run in runs.items()}
    return {
        name: address(report if report.exists() else report.parent, page_folder)
        for name, report in reports.items()
    }
