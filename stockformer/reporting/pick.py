"""What the best of many runs is worth: beside the pick, and in a section of its own."""

from __future__ import annotations

import math

from stockformer.evaluation.metrics import OBJECTIVES
from stockformer.evaluation.quantities import (
    MISSING,
    NET_EXCESS,
    Quantity,
    format_count,
    format_p,
)
from stockformer.evaluation.statistics import MIN_BLOCK, MIN_BLOCKS
from stockformer.reporting.page import Mark, Section
from stockformer.reporting.tables import Table
from stockformer.sweeps.selection_bias import (
    MIN_CONFIGURATIONS,
    SelectionBias,
    selection_bias,
    validation_scores,
)
from stockformer.sweeps.trials import Configuration, Trials, with_deviation

SHARPE = Quantity("daily Sharpe ratio", "of the excess", 3, around_zero=True)
SKILL = 0.95
"""A deflated Sharpe ratio below it may be chance."""


def card(trials: Trials) -> list[Mark]:
    """How many trials the pick was taken from, what is left of its lead after that, and its test.

    Empty where runs were tested on several data sets, or none can be picked.
    """
    groups = [group for group in trials.groups if not validation_scores(trials, group).empty]
    if len(groups) != 1 or (best := trials.best(groups[0])) is None:
        return []
    found = selection_bias(trials, groups[0])
    count = sum(each.trials for each in trials.configurations.values() if not each.is_ensemble)
    number = found.trials if found is not None else count
    marks = [
        Mark(
            "Trials before this pick",
            "plain",
            f"{number:,}",
            "Seeds and pruned trials count. The more trials, the better the best looks by luck.",
        ),
        _luck(found),
    ]
    return [*marks, _tested(trials, best)]


def _luck(found: SelectionBias | None) -> Mark:
    title = "More than the luck of the best?"
    if found is None or math.isnan(found.deflated):
        return Mark(title, "unsure", "unknown", "No daily validation returns that vary.")
    text = (
        f"Deflated Sharpe ratio: run {found.selected} earned a daily Sharpe ratio of "
        f"{SHARPE.format(found.sharpe)} over the universe on the validation dates; the best of "
        f"{format_count(found.trials, 'trial')} without skill would show "
        f"{SHARPE.format(found.expected_maximum)}. Below {SKILL}, assume chance."
    )
    return Mark(title, "good" if found.deflated >= SKILL else "bad", probability(found), text)


def _tested(trials: Trials, best: Configuration) -> Mark:
    """Validation beside test, to be looked at once."""
    name = trials.objective
    quantity = OBJECTIVES[name]
    chosen = with_deviation(
        quantity, trials.validation[name][best.name], trials.validation_sd[name][best.name]
    )
    title = "Validation against test (not for choosing)"
    if name not in trials.test:
        return Mark(title, "plain", chosen, f"Validation {quantity.heading}.")
    test = with_deviation(quantity, trials.test[name][best.name], trials.test_sd[name][best.name])
    text = (
        f"The {quantity.heading} on the validation days, by which it was picked, and on the test."
    )
    excess = trials.test["net_excess"][best.name] if "net_excess" in trials.test else math.nan
    if math.isfinite(excess):
        text += (
            f" Traded on the test days, {NET_EXCESS.format(excess)} basis points a day "
            "over the universe after costs."
        )
    return Mark(title, "plain", f"{chosen} → {test}", text)


def probability(found: SelectionBias) -> str:
    return ">0.999" if found.deflated > 0.999 else format_p(found.deflated)


def section(trials: Trials) -> Section:
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
                *(group.label, str(found.trials), found.selected, SHARPE.format(found.sharpe)),
                *(SHARPE.format(found.expected_maximum), probability(found)),
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
        f"Prado 2014): below {SKILL}, assume chance. Daily, not annualised, of returns after costs "
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
