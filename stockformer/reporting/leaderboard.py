"""The page of a sweep or of a tree of runs: the best by validation, and what that is worth."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stockformer.evaluation.metrics import METRICS, OBJECTIVES
from stockformer.evaluation.quantities import (
    MISSING,
    TRAINING_TIME,
    Quantity,
    format_count,
    format_p,
    format_t,
)
from stockformer.evaluation.statistics import MIN_BLOCK, MIN_BLOCKS
from stockformer.reporting import trial_figures
from stockformer.reporting.page import Page, Plot, Section, address, require_html
from stockformer.reporting.tables import Table
from stockformer.runs.folder import RunDir
from stockformer.runs.recorded_run import RecordedRun
from stockformer.sweeps.selection import (
    MIN_TRIALS,
    UNRELIABLE_TRIALS,
    importance,
    paired_tests,
)
from stockformer.sweeps.selection_bias import MIN_CONFIGURATIONS, selection_bias, validation_scores
from stockformer.sweeps.trials import (
    Configuration,
    Group,
    Trials,
    pareto_front,
    with_deviation,
)

FILE = "leaderboard.html"
NOT_FOR_CHOOSING = "test, not for choosing"
BRIEF = [name for name, metric in METRICS.items() if metric.brief]
VALIDATION_COLUMNS = (*BRIEF, "loss")
TEST_COLUMNS = ("rank_ic", "rank_ic_t", *BRIEF[1:])
MAX_CHOICES = 12
"""A setting of more values has no list to filter by."""
REM_AN_AXIS = 7
"""Width of an axis of the parallel coordinates, so that names do not overlap."""
MAX_PAIRED = 300
MAX_DRAWN = 300
T_STATISTIC = Quantity("rank IC t", "Newey-West", 2, around_zero=True)
SCORES = OBJECTIVES | {"rank_ic_t": T_STATISTIC}


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
        sections += [selection_bias_section(trials), importance_section(trials), pairs(trials)]
    if trials.unfinished or trials.refused:
        sections.append(not_completed(trials, page_folder))
    state = "finished" if trials.completed else "failed"
    name = "/".join(trials.folder.resolve().parts[-3:]).replace("//", "/")
    return Page("runs in", name, headline(trials), subtitle(trials), state, sections)


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
    lead = f"Best by validation {SCORES[trials.objective].title} ({scores(trials, best.name)[0]})"
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
            " Runs that differ in seed or fold only are one line: the mean over folds and seeds ± "
            "the sample deviation over seeds. One that lacks runs (1 of 2) is never the best."
        )
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
            *_effort(trials, each),
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
            *(SCORES[n].title for n in validation),
            *("tested epoch", "seconds"),
            *(SCORES[n].title for n in test),
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
        links=_addresses(
            {
                name: trials.completed[each.runs[0]]
                for name, each in trials.configurations.items()
                if len(each.runs) == 1
            },
            page_folder,
        ),
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


def selection_bias_section(trials: Trials) -> Section:
    """How much of the best one's showing is owed to having tried many."""
    rows, without = [], []
    count = 0
    for group in trials.groups:
        score = validation_scores(trials, group)
        count += sum(trials.configurations[str(name)].trials for name in score.index)
        if not len(score):
            continue  # ensembles alone
        found = selection_bias(trials, group)
        if found is None:
            without.append(group.label)
            continue
        rows.append(
            (
                *(group.label, str(found.trials), found.selected, f"{found.sharpe:+.3f}"),
                *(f"{found.expected_maximum:+.3f}", _probability(found.deflated)),
                MISSING if found.overfitting is None else f"{found.overfitting:.0%}",
            )
        )
    header = (
        *("tested on", "trials", "selected", "daily Sharpe ratio\nof the excess"),
        *("best of as many\nwithout skill", "deflated Sharpe\n(probability)"),
        "probability of\noverfitting",
    )
    remarks = [
        "The deflated Sharpe ratio is the probability that the selected run's true Sharpe ratio "
        "exceeds what the best of so many trials without skill would show (Bailey and Lopez de "
        "Prado 2014): below 0.95, assume chance. Daily, not annualised, of returns after costs "
        "less those of the equal-weight universe, on the validation dates, where the selection is "
        "made. All completed and pruned trials of the folder count, seeds and edited targets "
        "included; trials deleted or made elsewhere would count too, but cannot be seen from here.",
    ]
    if rows:
        remarks.append(
            "The probability of backtest overfitting is how often the configuration with the best "
            "Sharpe ratio of the same returns on half of the validation dates is in the lower half "
            "of all on the other half (CSCV, Bailey and others 2015): about half for noise. It "
            f"takes {MIN_CONFIGURATIONS} configurations that share {MIN_BLOCKS * MIN_BLOCK} dates."
        )
    lead = f"{format_count(count, 'completed trial')}."
    if without:
        lead += (
            " No daily validation returns in the evaluation.json of the runs tested on "
            f"{'; '.join(without)}, hence no deflated Sharpe ratio."
        )
    tables = [Table(header, rows, words=(0, 2))] if rows else []
    return Section("What the selection is worth", lead, tables, remarks if rows else ())


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


def pairs(trials: Trials) -> Section:
    """Any two runs, the difference of their daily rank IC tested."""
    title = "Two runs compared"
    groups = [_paired(group) for group in trials.groups if group.rank_ic.shape[1] > 1]
    if not groups:
        return Section(title, "It takes two runs with daily metrics, tested on the same dates.")
    lead = (
        "The paired difference of daily rank IC on the test dates, Newey-West: whether the first "
        "run is better than the second by more than chance. Of many pairs, one in twenty is below "
        "p = 0.05 by chance."
    )
    if any(group.rank_ic.shape[1] > MAX_PAIRED for group in trials.groups):
        lead += f" The best {MAX_PAIRED} by validation can be chosen."
    return Section(title, lead, pairs=json.dumps(groups, separators=(",", ":")))


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


def _effort(trials: Trials, configuration: Configuration) -> tuple[str, str]:
    """The tested epoch, and how long the training took, in all."""
    runs = [trials.completed[name] for name in configuration.runs]
    if configuration.is_ensemble:
        return "ensemble", MISSING
    tested = [run.evaluation.epoch for run in runs if run.evaluation is not None]
    epochs = [epoch for epoch in tested if epoch is not None]
    seconds = sum(
        run.metrics["seconds"].sum() if "seconds" in run.metrics else math.nan
        for run in runs
        if run.metrics is not None
    )
    lowest, highest = min(epochs), max(epochs)
    span = str(lowest) if lowest == highest else f"{lowest} to {highest}"
    return span, TRAINING_TIME.format(seconds)


def _cells(
    names: Sequence[str], means: pd.DataFrame, deviations: pd.DataFrame, row: str
) -> list[str]:
    return [with_deviation(SCORES[n], means[n][row], deviations[n][row]) for n in names]


def _probability(value: float) -> str:
    return ">0.999" if value > 0.999 else format_p(value)


def _addresses(runs: dict[str, RecordedRun], page_folder: Path) -> dict[str, str]:
    """Each run's report where there is one, else its folder, as seen from the page."""
    reports = {name: RunDir(run.path).report_file for name, run in runs.items()}
    return {
        name: address(report if report.exists() else report.parent, page_folder)
        for name, report in reports.items()
    }


def _paired(group: Group) -> dict[str, object]:
    """What the page needs to compare any two runs of a group; short numbers, not a NaN in it."""
    rank_ic = group.rank_ic.iloc[:, :MAX_PAIRED]
    tests = paired_tests(rank_ic, group.horizon)
    ic = METRICS["rank_ic"]
    return {
        "label": group.label,
        "dates": [f"{date:%Y-%m-%d}" for date in rank_ic.index],
        "runs": list(rank_ic.columns),
        "rank_ic": [_short(rank_ic[name]) for name in rank_ic],
        "mean": [ic.format(mean) for mean in tests["mean"]],
        "n": [int(n) for n in tests["n"]],
        "t": [format_t(t) for t in tests["t"]],
        "p": [format_p(p) for p in tests["p"]],
    }


def _short(series: pd.Series) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 4) for value in series]
