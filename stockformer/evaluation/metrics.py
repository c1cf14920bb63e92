"""Every metric, declared once: its name, unit, direction, format, and the function of a day.

Epoch selection, the closing table, verdicts, pages, TensorBoard and the leaderboard read
`METRICS`: a new metric is one more entry. Metrics are computed across the stocks with a valid
target on a date and then averaged over dates, so that every date has the same weight whatever its
number of stocks. Returns are fractions. S signal dates, H steps of the horizon, N stocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from stockformer.evaluation.quantities import EARNED, Quantity


@dataclass(frozen=True)
class Cells:
    """Forecasts and realised targets, the input of the functions of `METRICS`.

    prediction, label (S, H, N): NaN where not valid. probability, up, valid (S, H, N). k: number of
    top stocks; quantiles: number of groups of stocks.
    """

    prediction: np.ndarray
    probability: np.ndarray
    label: np.ndarray
    up: np.ndarray
    valid: np.ndarray
    k: int
    quantiles: int

    @cached_property
    def n_valid(self) -> np.ndarray:
        """(S, H) the number of valid stocks."""
        return self.valid.sum(axis=-1)

    @cached_property
    def error(self) -> np.ndarray:
        return self.prediction - self.label

    @cached_property
    def right(self) -> np.ndarray:
        """Whether the class probability > 0.5 came true."""
        return (self.probability > 0.5) == self.up

    @cached_property
    def top_k(self) -> np.ndarray:
        """Weights (S, H, N) of the k highest forecasts; none where fewer stocks are valid."""
        return highest(self.prediction, np.where(self.n_valid < self.k, 0, self.k))

    @cached_property
    def top_and_bottom(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (S, H, N) of the highest and the lowest 1/quantiles of forecasts."""
        count = self.n_valid // self.quantiles
        return highest(self.prediction, count), highest(-self.prediction, count)


@dataclass(frozen=True, kw_only=True)
class Metric(Quantity):
    """A metric of a date and step.

    daily: (S, H), NaN where it is undefined. compared_with: the constant baselines, known before
    the test, that the model is compared with in this metric; None: it is not compared; empty: it is
    compared with the baselines that rank. brief: shown where there is space for few.
    """

    daily: Callable[[Cells], np.ndarray]
    compared_with: tuple[str, ...] | None = None
    brief: bool = False


def _balanced_accuracy(cells: Cells) -> np.ndarray:
    ups, downs = (mean(cells.right, cells.valid & which) for which in (cells.up, ~cells.up))
    return (ups + downs) / 2


def _top_k_excess(cells: Cells) -> np.ndarray:
    return mean(cells.label, cells.top_k) - mean(cells.label, cells.valid)


def _top_minus_bottom(cells: Cells) -> np.ndarray:
    top, bottom = cells.top_and_bottom
    return mean(cells.label, top) - mean(cells.label, bottom)


TOP_K, QUANTILES = 10, 5
"""Stocks at the top, and groups of equal size, by forecast."""

METRICS = {
    "rank_ic": Metric(
        title="rank IC",  # Spearman's, ties averaged
        unit="correlation",
        decimals=4,
        around_zero=True,
        higher_is_better=True,
        daily=lambda c: correlation(ranks(c.prediction), ranks(c.label), c.valid),
        compared_with=(),
        brief=True,
    ),
    "ic": Metric(
        title="IC",  # Pearson's
        unit="correlation",
        decimals=4,
        around_zero=True,
        higher_is_better=True,
        daily=lambda c: correlation(c.prediction, c.label, c.valid),
        brief=True,
    ),
    "mae": Metric(
        title="MAE",
        unit="basis points",
        decimals=2,
        basis_points=True,
        higher_is_better=False,
        daily=lambda c: mean(np.abs(c.error), c.valid),
        compared_with=("zero_return", "training_mean"),
        brief=True,
    ),
    "rmse": Metric(
        title="RMSE",
        unit="basis points",
        decimals=2,
        basis_points=True,
        higher_is_better=False,
        daily=lambda c: np.sqrt(mean(c.error**2, c.valid)),
    ),
    "accuracy": Metric(
        title="accuracy",
        unit="share of stocks",
        decimals=3,
        higher_is_better=True,
        daily=lambda c: mean(c.right, c.valid),
        compared_with=("always_up", "majority_class"),
        brief=True,
    ),
    "balanced_accuracy": Metric(
        title="balanced accuracy",  # needs both classes
        unit="share of stocks",
        decimals=3,
        higher_is_better=True,
        daily=_balanced_accuracy,
    ),
    "brier": Metric(
        title="Brier score",
        unit="probability\u00b2",
        decimals=4,
        higher_is_better=False,
        daily=lambda c: mean((c.probability - c.up) ** 2, c.valid),
        compared_with=("training_mean",),
    ),
    "precision_at_k": Metric(
        title=f"precision at {TOP_K}",
        unit="share of stocks",
        decimals=3,
        higher_is_better=True,
        daily=lambda c: mean(c.up, c.top_k),
    ),
    "top_k_excess": Metric(
        title=f"mean of the top {TOP_K} less the universe",
        unit="basis points",
        decimals=1,
        basis_points=True,
        around_zero=True,
        higher_is_better=True,
        daily=_top_k_excess,
    ),
    "top_minus_bottom": Metric(
        title="top minus bottom fifth",
        unit="basis points",
        decimals=1,
        basis_points=True,
        around_zero=True,
        higher_is_better=True,
        daily=_top_minus_bottom,
        brief=True,
    ),
}
"""In display order."""

LOSSES = {
    "loss": Quantity("total loss", "no unit", 4, higher_is_better=False),
    "regression_loss": Quantity("regression loss", "no unit", 5, higher_is_better=False),
    "classification_loss": Quantity("classification loss", "nats", 4, higher_is_better=False),
}
"""The training losses; on the validation days they are logged with the metrics."""

OVER_DATES = {
    "rank_ic_std": Quantity("deviation of the rank IC", "over dates", 4),
    "rank_icir": Quantity("rank ICIR", "mean / deviation, not annualised", 3, around_zero=True),
    "ic_std": Quantity("deviation of the IC", "over dates", 4),
    "icir": Quantity("ICIR", "mean / deviation, not annualised", 3, around_zero=True),
    "n_dates": Quantity("test dates", "number", 0),
    "n_ranked_dates": Quantity("test dates with a rank IC", "number", 0),
}
"""Figures of `predictions.score` other than the means."""

COMPARED = {name: metric for name, metric in METRICS.items() if metric.compared_with is not None}
"""The metrics in which a model is compared with its baselines."""

MONITORS = LOSSES | METRICS
"""Valid names for `trainer.monitor`: everything logged for the validation days."""

OBJECTIVES: dict[str, Quantity] = MONITORS | {
    "turnover": replace(EARNED["turnover"], higher_is_better=False)
}
"""What a search can optimise on the validation days; turnover is that of their backtest."""


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the last axis; NaN where the weights are all zero."""
    total = weights.sum(axis=-1)
    weighted = np.where(weights > 0, values, 0.0) * weights
    return np.divide(
        weighted.sum(axis=-1), total, out=np.full(total.shape, np.nan), where=total > 0
    )


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks over the last axis, ties averaged, NaN where the value is NaN."""
    from scipy.stats import rankdata  # noqa: PLC0415 (slow; the table above is read by every command)

    return rankdata(values, axis=-1, nan_policy="omit")


def correlation(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Pearson correlation over the last axis; NaN without two cells and variation in both."""
    a_centred, b_centred = (np.where(valid, x - mean(x, valid)[..., None], 0.0) for x in (a, b))
    covariance = (a_centred * b_centred).sum(axis=-1)
    scale = np.sqrt((a_centred**2).sum(axis=-1) * (b_centred**2).sum(axis=-1))
    # Rounding gives a constant a variance of about 1e-40, so test the values themselves.
    defined = _varies(a, valid) & _varies(b, valid) & (scale > 0)
    return np.divide(covariance, scale, out=np.full(scale.shape, np.nan), where=defined)


def _varies(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    highest = np.where(valid, values, -np.inf).max(axis=-1, initial=-np.inf)
    lowest = np.where(valid, values, np.inf).min(axis=-1, initial=np.inf)
    return highest > lowest


def highest(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Weights over the last axis that select the `count` highest values; NaN is never selected.

    Values tied at the edge share the remaining places, so the order of stocks does not matter.
    count (S, H) is at most the number of values that are not NaN; 0 selects nothing.
    """
    low_first = np.sort(np.where(np.isnan(values), -np.inf, values), axis=-1)
    place = np.clip(values.shape[-1] - count, 0, values.shape[-1] - 1)
    edge = np.take_along_axis(low_first, place[..., None], axis=-1)
    above, tied = values > edge, values == edge
    places_left = count[..., None] - above.sum(axis=-1, keepdims=True)
    share = places_left / np.maximum(tied.sum(axis=-1, keepdims=True), 1)
    return np.where(count[..., None] > 0, above + tied * share, 0.0)
