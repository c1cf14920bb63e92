"""The paired test of a challenger against the model in use, the champion, on the same days.

S signal dates, H steps of the horizon, N stocks. The figure is the daily rank IC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from stockformer.evaluation.comparison import MIN_RANKINGS, effective_rankings
from stockformer.evaluation.metrics import METRICS
from stockformer.evaluation.predictions import Predictions, daily, rank_stability
from stockformer.evaluation.statistics import (
    MIN_DATES,
    MeanTest,
    bootstrap_interval,
    newey_west,
    p_value,
)

LEAST_ALPHA, LARGEST_ALPHA = 0.001, 0.1
"""Of a level; below it the bootstrap's 2,000 resamples say nothing."""

CHANGED_BY = 1e-3
"""Returns of one cell that differ by more than this fraction are different, not rounded."""

MAX_CHANGED = 0.1
"""The share of changed cells above which outcomes are of other data, not corrected ones."""


@dataclass(frozen=True)
class Level:
    """When a challenger counts as better: one-sided p below `alpha`, on at least `min_days` days.

    Raises ValueError for values with which the test means nothing.
    """

    alpha: float = 0.01
    min_days: int = MIN_DATES

    def __post_init__(self) -> None:
        if not LEAST_ALPHA <= self.alpha <= LARGEST_ALPHA:
            raise ValueError(
                f"alpha={self.alpha}: must be from {LEAST_ALPHA} to {LARGEST_ALPHA}, the level of "
                "the one-sided test"
            )
        if self.min_days < MIN_DATES:
            raise ValueError(
                f"min_days={self.min_days}: must be at least {MIN_DATES}; on fewer days the test "
                "finds a lead in noise at twice its level"
            )


@dataclass(frozen=True)
class PairedTest:
    """A challenger's daily lead over the champion in rank IC, and whether it is better.

    challenger, champion: mean rank IC over the days. lead: Newey-West test of the lead; lower: its
    one-sided moving-block bootstrap bound of confidence 1 - alpha. first_day, last_day: signal
    dates. rankings: effective number of separate rankings of the challenger.
    static_champion: whether the champion's order of the stocks hardly changes, so that its rank IC
    is taken for zero.
    """

    challenger: float
    champion: float
    lead: MeanTest
    lower: float
    first_day: str
    last_day: str
    rankings: float
    static_champion: bool
    level: Level

    @property
    def p(self) -> float:
        """One-sided: of a lead of zero or less. NaN if the two never differ."""
        two_sided = self.lead.p
        return two_sided / 2 if self.lead.t > 0 else 1 - two_sided / 2

    @property
    def obstacle(self) -> str:
        """Why the challenger is not better; empty if it is. Test and bound must agree."""
        if self.lead.n < self.level.min_days:
            return f"{self.lead.n} days, at least {self.level.min_days} are needed"
        if self.rankings < MIN_RANKINGS:
            return (
                "the challenger's order of the stocks hardly changes, so that the days count as "
                f"about {max(self.rankings, 1):.0f}"
            )
        if math.isnan(self.p):
            return "the two rank the stocks alike"
        if not (self.p < self.level.alpha and self.lower > 0):
            return f"not significantly better at alpha {self.level.alpha:g}"
        return ""

    @property
    def better(self) -> bool:
        return not self.obstacle

    def sentence(self) -> str:
        """The figures of the test."""
        form = METRICS["rank_ic"].format
        taken = ""
        if self.static_champion:
            taken = ", taken for 0 because its order of the stocks hardly changes"
        return (
            f"rank IC of the challenger {form(self.challenger)}, of the champion "
            f"{form(self.champion)}{taken}; lead {form(self.lead.mean)}, "
            f"one-sided {p_value(self.p)}, on {self.lead.n} days, {self.first_day} to "
            f"{self.last_day}"
        )

    def figures(self) -> dict[str, float | str | None]:
        """The figures for a record; None for a number that is not finite."""
        numbers = {
            "challenger_rank_ic": self.challenger,
            "champion_rank_ic": self.champion,
            "lead": self.lead.mean,
            "lower": self.lower,
            "p": self.p,
            "rankings": self.rankings,
            "alpha": self.level.alpha,
        }
        return {
            "days": self.lead.n,
            "first_day": self.first_day,
            "last_day": self.last_day,
            **{name: x if math.isfinite(x) else None for name, x in numbers.items()},
        }


def paired_test(challenger: Predictions, champion: Predictions, level: Level) -> PairedTest:
    """Compare both on the days and stocks that both have, with the same outcomes.

    On a day on which only one of them ranks, the other has a rank IC of 0: a model must not gain by
    giving all stocks the same forecast, nor escape the test. Raises ValueError where they have no
    day in common, or different outcomes.
    """
    ours, theirs = aligned(challenger, champion)
    days = pd.DataFrame(
        {name: daily(each)["rank_ic"] for name, each in (("ours", ours), ("theirs", theirs))}
    )
    days = days.dropna(how="all").fillna(0.0)
    rankings, of_champion = (
        effective_rankings(len(days), float(rank_stability(each).mean())) for each in (ours, theirs)
    )
    static_champion = len(days) > 0 and of_champion < MIN_RANKINGS
    lead = days["ours"] - (0.0 if static_champion else days["theirs"])
    return PairedTest(
        challenger=float(days["ours"].mean()),
        champion=float(days["theirs"].mean()),
        lead=newey_west(lead, ours.horizon),
        lower=bootstrap_interval(lead, confidence=1 - 2 * level.alpha)[0],
        first_day=str(ours.signal_dates[0]),
        last_day=str(ours.signal_dates[-1]),
        rankings=rankings,
        static_champion=static_champion,
        level=level,
    )


def aligned(one: Predictions, other: Predictions) -> tuple[Predictions, Predictions]:
    """Both on their common days and stocks, scored in the same cells by the same outcomes.

    Raises ValueError where they have none in common, or different outcomes.
    """
    days, our_days, their_days = np.intersect1d(
        one.signal_dates, other.signal_dates, return_indices=True
    )
    stocks, our_stocks, their_stocks = np.intersect1d(
        one.tickers, other.tickers, return_indices=True
    )
    if not len(days) or not len(stocks):
        missing = "stock" if len(days) else "day"
        raise ValueError(f"paired test: the two models have no {missing} in common")
    ours, theirs = _chosen(one, our_days, our_stocks), _chosen(other, their_days, their_stocks)
    if not np.array_equal(ours.target_end, theirs.target_end):
        raise ValueError("paired test: the two models have different targets")
    valid = ours.valid & theirs.valid
    if changed_share(ours.label, theirs.label, valid) > MAX_CHANGED:
        raise ValueError("paired test: the two models were given different outcomes")
    return replace(ours, valid=valid), replace(theirs, valid=valid, label=ours.label, up=ours.up)


def changed_share(one: np.ndarray, other: np.ndarray, known: np.ndarray) -> float:
    """The share of the known cells whose returns differ by more than rounding; 1 without any."""
    if not known.any():
        return 1.0
    return float((np.abs(one - other)[known] > CHANGED_BY).mean())


def _chosen(predictions: Predictions, days: np.ndarray, stocks: np.ndarray) -> Predictions:
    """Only those days and stocks, by position, in that order."""
    cells = {
        name: getattr(predictions, name)[days][..., stocks]
        for name in ("prediction", "probability", "label", "up", "valid")
    }
    dates = {
        name: getattr(predictions, name)[days]
        for name in ("signal_dates", "target_start", "target_end")
    }
    return replace(predictions, tickers=predictions.tickers[stocks], **dates, **cells)
