"""What the selection of the best of many trials is worth."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from stockformer.evaluation.backtest import excess_returns
from stockformer.evaluation.statistics import (
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    probability_of_overfitting,
    sharpe_ratio,
)
from stockformer.runs.recorded_run import RecordedRun
from stockformer.sweeps.trials import Configuration, Group, Trials, by_date

MIN_CONFIGURATIONS = 10
"""Below this many there is no probability of backtest overfitting."""


@dataclass(frozen=True)
class SelectionBias:
    """What the selection of the best of `trials` is worth, by the daily Sharpe ratio, not
    annualised, of its validation forecasts traded after costs, less the universe.

    trials: completed or pruned, each seed counts, folds do not. expected_maximum: what the best of
    so many trials without skill would show; deflated: the probability that the selected one's is
    more than that. overfitting: the probability of backtest overfitting; None for fewer than
    `MIN_CONFIGURATIONS`, or too few dates.
    """

    trials: int
    selected: str
    sharpe: float
    expected_maximum: float
    deflated: float
    overfitting: float | None


def selection_bias(trials: Trials, group: Group) -> SelectionBias | None:
    """Of the group's best configuration; None where none has validation returns that vary.

    Every completed or pruned trial of the folder counts, whatever it was tested on: a setting
    edited between two sweeps does not make fewer of them.
    """
    count = sum(run.status.state == "pruned" for run in trials.unfinished.values())
    sharpes: list[float] = []
    for each in trials.configurations.values():
        if each.is_ensemble:
            continue
        count += each.trials
        sharpes += [sharpe_ratio(returns) for returns in returns_by_seed(trials, each)]
    all_sharpes = pd.Series(sharpes, dtype=float).dropna().to_numpy()
    returns = {}
    for each in trials.compared(group):
        by_seed = returns_by_seed(trials, each)
        if by_seed:
            returns[each.name] = by_date(by_seed)
    known = [name for name, series in returns.items() if pd.notna(sharpe_ratio(series))]
    if not known:
        return None
    selected = known[0]
    several = len(returns) >= MIN_CONFIGURATIONS
    return SelectionBias(
        trials=count,
        selected=selected,
        sharpe=sharpe_ratio(returns[selected]),
        expected_maximum=expected_maximum_sharpe(all_sharpes, count),
        deflated=deflated_sharpe_ratio(returns[selected], all_sharpes, count),
        overfitting=probability_of_overfitting(pd.DataFrame(returns)) if several else None,
    )


def returns_by_seed(trials: Trials, configuration: Configuration) -> list[pd.Series]:
    """Of each seed the validation returns in excess of the universe, all folds by date; without
    the seeds that have none."""
    by_seed: dict[str, list[pd.Series]] = {}
    for name in configuration.runs:
        excess = validation_excess(trials.completed[name])
        if excess is not None:
            by_seed.setdefault(trials.seeds[name], []).append(excess)
    return [by_date(series) for series in by_seed.values()]


def validation_excess(run: RecordedRun) -> pd.Series | None:
    """By date, the traded validation forecasts' return after costs less the universe's."""
    returns = None if run.evaluation is None else run.evaluation.validation
    return None if returns is None else excess_returns(returns)


def validation_scores(trials: Trials, group: Group) -> pd.Series:
    """The first objective of the group's configurations; an ensemble has none."""
    names = [name for name in group.configurations if not trials.configurations[name].is_ensemble]
    return trials.score.loc[names]
