"""What each number is called, its unit, and how precisely it is told: the same in every report."""

from __future__ import annotations

import math
from dataclasses import dataclass

MISSING = "-"


@dataclass(frozen=True)
class Quantity:
    """A number's name, its unit, and the decimals that mean something.

    around_zero: zero is "nothing there", so the sign is shown and a test against zero makes sense.
    percent: a fraction that is told in percent.
    """

    title: str
    unit: str
    decimals: int
    around_zero: bool = False
    percent: bool = False

    @property
    def axis(self) -> str:
        return f"{self.title} ({self.unit})"

    @property
    def spec(self) -> str:
        """As Python and Plotly (d3) both understand it."""
        return f"{'+' if self.around_zero else ''}.{self.decimals}{'%' if self.percent else 'f'}"

    def format(self, value: float) -> str:
        return MISSING if math.isnan(value) else format(value, self.spec)


METRICS = {
    "rank_ic": Quantity("rank IC", "correlation", 4, around_zero=True),
    "ic": Quantity("IC", "correlation", 4, around_zero=True),
    "mae": Quantity("MAE", "return, fraction", 5),
    "rmse": Quantity("RMSE", "return, fraction", 5),
    "accuracy": Quantity("accuracy", "share of stocks", 3),
    "balanced_accuracy": Quantity("balanced accuracy", "share of stocks", 3),
    "brier": Quantity("Brier score", "squared probability", 4),
    "precision_at_k": Quantity("precision at 10", "share of stocks", 3),
    "top_k_excess": Quantity(
        "mean of the top 10 less the universe", "return, fraction", 5, around_zero=True
    ),
    "top_minus_bottom": Quantity("top minus bottom fifth", "return, fraction", 5, around_zero=True),
    "rank_ic_std": Quantity("deviation of the rank IC", "over dates", 4),
    "rank_icir": Quantity("rank ICIR", "mean / deviation, not annualised", 3, around_zero=True),
    "ic_std": Quantity("deviation of the IC", "over dates", 4),
    "icir": Quantity("ICIR", "mean / deviation, not annualised", 3, around_zero=True),
    "n_dates": Quantity("test dates", "number", 0),
    "n_ranked_dates": Quantity("test dates with a rank IC", "number", 0),
}
"""Names of `evaluation.metrics.score`, in the order in which they are told."""

CURVES = {
    "loss": Quantity("total loss", "no unit", 4),
    "regression_loss": Quantity("regression loss", "no unit", 5),
    "classification_loss": Quantity("classification loss", "nats", 4),
    "mae": METRICS["mae"],
    "accuracy": METRICS["accuracy"],
    "rank_ic": METRICS["rank_ic"],
    "seconds": Quantity("training time", "seconds", 1),
}
"""What is told of each epoch: names of metrics.csv, there with the part of the split in front."""

EARNED = {
    "total_return": Quantity("total return", "%", 1, around_zero=True, percent=True),
    "annual_return": Quantity("annual return", "%, compounded", 1, around_zero=True, percent=True),
    "annual_excess_return": Quantity(
        "annual excess over the universe", "%, mean", 1, around_zero=True, percent=True
    ),
    "annual_volatility": Quantity("annual volatility", "%", 1, percent=True),
    "annual_sharpe": Quantity("Sharpe ratio", "annual, no risk-free rate", 2, around_zero=True),
    "annual_sortino": Quantity("Sortino ratio", "annual", 2, around_zero=True),
    "annual_information_ratio": Quantity(
        "information ratio", "annual, to the universe", 2, around_zero=True
    ),
    "max_drawdown": Quantity("largest drawdown", "%", 1, around_zero=True, percent=True),
    "calmar": Quantity("Calmar ratio", "annual return / drawdown", 2, around_zero=True),
    "turnover": Quantity("turnover a day", "%, bought and sold", 1, percent=True),
    "cost": Quantity("costs a day", "%, with slippage", 3, percent=True),
    "n_dates": Quantity("days", "number", 0),
}
"""Names of `evaluation.backtest.figures`, in the order in which they are told."""

COMPARED = ("rank_ic", "mae", "accuracy", "brier")
"""Metrics that a model is compared with its baselines by, in the order in which they are told."""


def format_count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def format_interval(quantity: Quantity, lower: float, upper: float) -> str:
    if math.isnan(lower):
        return MISSING
    return f"{quantity.format(lower)} to {quantity.format(upper)}"


def format_t(t: float) -> str:
    return MISSING if math.isnan(t) else f"{t:+.2f}"


def format_p(p: float) -> str:
    """A probability that would round to zero is told as a bound."""
    if math.isnan(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"
