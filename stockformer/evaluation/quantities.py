"""The name, unit and display format of every number."""

from __future__ import annotations

import math
from dataclasses import dataclass

MISSING = "-"


@dataclass(frozen=True)
class Quantity:
    """A number's name, its unit, and its meaningful decimals.

    around_zero: zero means no effect, so the sign is shown and a test against zero makes sense.
    percent: a fraction that is shown in percent; basis_points: one that is shown in hundredths of a
    percent, as returns of a day are. higher_is_better: None where neither is better.
    """

    title: str
    unit: str
    decimals: int
    around_zero: bool = False
    percent: bool = False
    basis_points: bool = False
    higher_is_better: bool | None = None

    @property
    def direction(self) -> int:
        """1 if higher is better, -1 if lower is. Raises ValueError if neither is."""
        if self.higher_is_better is None:
            raise ValueError(f"{self.title}: neither higher nor lower is better")
        return 1 if self.higher_is_better else -1

    @property
    def heading(self) -> str:
        """The title, with the unit where the numbers alone would be taken for fractions."""
        return f"{self.title} (basis points)" if self.basis_points else self.title

    @property
    def axis(self) -> str:
        return f"{self.title} ({self.unit})"

    @property
    def scale(self) -> float:
        """What a value is multiplied by before `spec` formats it."""
        return 1e4 if self.basis_points else 1.0

    @property
    def spec(self) -> str:
        """A format specification valid in both Python and Plotly (d3)."""
        return f"{'+' if self.around_zero else ''}.{self.decimals}{'%' if self.percent else 'f'}"

    def format(self, value: float) -> str:
        """What rounds to zero has no minus sign: with one it would read as worse than nothing."""
        spec = self.spec.replace(".", "z.")  # Plotly has no z
        return MISSING if math.isnan(value) else format(value * self.scale, spec)

    def in_words(self, value: float) -> str:
        """For a sentence: with the unit where the number alone would be taken for a fraction."""
        return f"{self.format(value)}{' basis points' if self.basis_points else ''}"


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
    "cost": Quantity("costs a day", "basis points, with slippage", 1, basis_points=True),
    "n_dates": Quantity("days", "number", 0),
}
"""Names of `evaluation.backtest.figures`, in display order."""


NET_EXCESS = Quantity("net excess", "basis points a day", 1, around_zero=True)
ONE_SIDED_TURNOVER = Quantity("turnover", "one-sided, % a day", 1, percent=True)
TRAINING_TIME = Quantity("training time", "seconds", 1)


def format_count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def format_interval(quantity: Quantity, lower: float, upper: float) -> str:
    if math.isnan(lower):
        return MISSING
    return f"{quantity.format(lower)} to {quantity.format(upper)}"


def format_t(t: float) -> str:
    return MISSING if math.isnan(t) else f"{t:+z.2f}"


def format_p(p: float) -> str:
    """A p-value that would round to zero is shown as a bound."""
    if math.isnan(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"
