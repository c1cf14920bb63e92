"""What a model predicted beside what happened, and how well the two agree.

Every metric is taken per signal date across the stocks with a valid target and only then averaged
over dates, so that a date with many stocks weighs no more than one with few. Returns are fractions.
S signal dates, H steps of the horizon, N stocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
from scipy.stats import rankdata


@dataclass(frozen=True)
class Predictions:
    """Forecasts made at the close of each signal date, with the realised targets.

    signal_dates (S,) datetime64[D]: every input was known at the close of that date.
    target_start, target_end (S, H) datetime64[D]: the target runs from close to close.
    tickers (N,) str.
    prediction (S, H, N) float64: forecast return, a fraction.
    probability (S, H, N) float64: forecast probability of class "up", in [0, 1].
    label (S, H, N) float64: realised return, NaN where nobody knows it.
    up (S, H, N) bool: realised class; label > 0 unless the target defines it otherwise.
    valid (S, H, N) bool: the cells that are scored.
    """

    signal_dates: np.ndarray
    target_start: np.ndarray
    target_end: np.ndarray
    tickers: np.ndarray
    prediction: np.ndarray
    probability: np.ndarray
    label: np.ndarray
    up: np.ndarray
    valid: np.ndarray

    def __post_init__(self) -> None:
        if self.prediction.ndim != 3:
            raise ValueError(
                f"predictions: prediction has shape {self.prediction.shape}, expected (S, H, N)"
            )
        dates, steps, stocks = self.prediction.shape
        expected: dict[str, tuple[int, ...]] = {
            "signal_dates": (dates,),
            "tickers": (stocks,),
            "target_start": (dates, steps),
            "target_end": (dates, steps),
        }
        for name in (f.name for f in fields(self)):
            shape = expected.get(name, self.prediction.shape)
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"predictions: {name} has shape {getattr(self, name).shape}, expected {shape}"
                )
        for name in ("up", "valid"):
            if getattr(self, name).dtype != bool:
                raise ValueError(
                    f"predictions: {name} has dtype {getattr(self, name).dtype}, expected bool"
                )

    @property
    def horizon(self) -> int:
        """The most signal dates that one target reaches past its own, at least 1.

        Consecutive targets overlap where it exceeds 1, which `statistics` must allow for.
        """
        if len(self.signal_dates) == 0:
            return 1
        last = np.searchsorted(self.signal_dates, self.target_end.max(axis=1), side="right") - 1
        return max(1, int((last - np.arange(len(last))).max()))

    def step(self, step: int) -> Predictions:
        """Only that step of the horizon, counted from 1; ValueError where there is none."""
        steps = self.prediction.shape[1]
        if not 1 <= step <= steps:
            raise ValueError(f"predictions: step {step} is not one of 1 to {steps}")
        only = slice(step - 1, step)
        stepped = (f.name for f in fields(self) if f.name not in ("signal_dates", "tickers"))
        return replace(self, **{name: getattr(self, name)[:, only] for name in stepped})

    def masked_as_zero(self) -> Predictions:
        """Masked cells count as a zero forecast of a zero return.

        So the code published with StockMixer (AAAI 2024) correlates; only for comparing with it.
        """
        return replace(
            self,
            prediction=np.where(self.valid, self.prediction, 0.0),
            label=np.where(self.valid, self.label, 0.0),
            up=self.up & self.valid,
            probability=np.where(self.valid, self.probability, 0.5),
            valid=np.ones_like(self.valid),
        )

    def frame(self) -> pd.DataFrame:
        """One row a cell, ordered by date, step, ticker; `step` is counted from 1."""
        dates, steps, stocks = self.prediction.shape
        cells = ("prediction", "probability", "label", "up", "valid")
        return pd.DataFrame(
            {
                "signal_date": np.repeat(self.signal_dates, steps * stocks),
                "target_start": np.repeat(self.target_start.ravel(), stocks),
                "target_end": np.repeat(self.target_end.ravel(), stocks),
                "ticker": np.tile(self.tickers, dates * steps),
                "step": np.tile(np.repeat(np.arange(1, steps + 1), stocks), dates),
                **{name: getattr(self, name).ravel() for name in cells},
            }
        )


def join(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of consecutive folds as one, ordered by signal date.

    Raises ValueError where the tickers differ or a signal date occurs twice.
    """
    for part in parts[1:]:
        if not np.array_equal(part.tickers, parts[0].tickers):
            raise ValueError("predictions: the parts to join have different tickers")
    dates = np.concatenate([part.signal_dates for part in parts])
    order = np.argsort(dates)
    repeated = dates[order][1:][np.diff(dates[order]) == np.timedelta64(0, "D")]
    if len(repeated):
        raise ValueError(f"predictions: signal date {repeated[0]} is in two of the parts to join")
    names = [f.name for f in fields(Predictions) if f.name != "tickers"]
    joined = {name: np.concatenate([getattr(p, name) for p in parts])[order] for name in names}
    return Predictions(tickers=parts[0].tickers, **joined)


def by_date(predictions: Predictions, k: int = 10, quantiles: int = 5) -> pd.DataFrame:
    """Every metric by (signal_date, step); NaN where a metric has no meaning.

    mae, rmse: of the return, a fraction. accuracy, balanced_accuracy: of the class
    probability > 0.5; balanced needs both classes. brier: mean squared error of the probability.
    ic, rank_ic: Pearson and Spearman (ties averaged) correlation of prediction and label; they need
    two valid stocks and variation in both. precision_at_k: share of class "up" among the k
    highest predictions; top_k_excess: their mean label less that of all valid stocks; they need k
    valid stocks. top_minus_bottom: mean label
    of the highest 1/quantiles of predictions minus that of the lowest; needs `quantiles` valid
    stocks. Stocks tied at the edge of a group share its remaining places equally. n_valid: the
    number of valid stocks.

    Raises ValueError for a prediction, probability or label that is not finite in a valid cell.
    """
    metrics = _metrics(predictions, k, quantiles)
    steps = np.arange(1, predictions.prediction.shape[1] + 1)
    index = pd.MultiIndex.from_product(
        (predictions.signal_dates, steps), names=("signal_date", "step")
    )
    return pd.DataFrame({name: values.ravel() for name, values in metrics.items()}, index=index)


def daily(predictions: Predictions, k: int = 10, quantiles: int = 5) -> pd.DataFrame:
    """The metrics of `by_date` averaged over the steps that have them, by signal_date."""
    metrics = _metrics(predictions, k, quantiles)
    steps_mean = {name: _mean(values, np.isfinite(values)) for name, values in metrics.items()}
    return pd.DataFrame(steps_mean, index=pd.Index(predictions.signal_dates, name="signal_date"))


def score(predictions: Predictions, k: int = 10, quantiles: int = 5) -> dict[str, float]:
    """Each metric of `daily` averaged over the dates that have it.

    ic_std, rank_ic_std are standard deviations over dates (of the steps' mean, n - 1 in the
    denominator); icir, rank_icir are mean / standard deviation, not annualised. n_dates counts
    dates with a valid cell, n_ranked_dates those with a rank IC: where the second is smaller, the
    model did not tell stocks apart on the others. Raises as `by_date` does.
    """
    dates = daily(predictions, k, quantiles)
    scores = {name: float(dates[name].mean()) for name in dates.columns.drop("n_valid")}
    for name in ("ic", "rank_ic"):
        deviation = float(dates[name].std(ddof=1))
        scores[f"{name}_std"] = deviation
        scores[f"{name}ir"] = scores[name] / deviation if deviation > 0 else np.nan
    scores["n_dates"] = float((dates["n_valid"] > 0).sum())
    scores["n_ranked_dates"] = float(dates["rank_ic"].count())
    return scores


def rank_stability(predictions: Predictions) -> pd.Series:
    """Rank correlation of a date's forecasts with the date before's, by signal date.

    Over the stocks valid on both, averaged over the steps; NaN on the first date, and where
    forecasts are all the same. At 1 the order of the stocks never changes.
    """
    both = predictions.valid[1:] & predictions.valid[:-1]
    before, after = (
        _ranks(np.where(both, predictions.prediction[days], np.nan))
        for days in (slice(None, -1), slice(1, None))
    )
    correlation = _correlation(before, after, both)
    by_date = _mean(correlation, np.isfinite(correlation))
    dates = pd.Index(predictions.signal_dates, name="signal_date")
    return pd.Series(np.concatenate([[np.nan], by_date]), index=dates)


def calibration(predictions: Predictions, bins: int = 10) -> pd.DataFrame:
    """How often "up" came true where it was given a probability, in bins of equal width.

    One row a bin: lower, upper (exclusive, but for the last), probability (mean forecast),
    frequency (share realised up), n (valid cells). Empty bins are NaN with n = 0. Raises as
    `by_date` does, and ValueError for a probability outside [0, 1].
    """
    _require_finite(predictions)
    probability = predictions.probability[predictions.valid]
    if ((probability < 0) | (probability > 1)).any():
        raise ValueError("predictions: a probability in a valid cell is outside [0, 1]")
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    some = np.where(counts > 0, counts, np.nan)
    forecast = np.bincount(which, weights=probability, minlength=bins)
    realised = np.bincount(which, weights=predictions.up[predictions.valid], minlength=bins)
    return pd.DataFrame(
        {
            "lower": edges[:-1],
            "upper": edges[1:],
            "probability": forecast / some,
            "frequency": realised / some,
            "n": counts,
        }
    )


def _metrics(predictions: Predictions, k: int, quantiles: int) -> dict[str, np.ndarray]:
    """Each metric as (S, H)."""
    if k < 1 or quantiles < 2:
        raise ValueError(f"metrics: k must be >= 1 and quantiles >= 2, got {k} and {quantiles}")
    _require_finite(predictions)
    valid, up = predictions.valid, predictions.up
    prediction = np.where(valid, predictions.prediction, np.nan)
    label = np.where(valid, predictions.label, np.nan)
    error = prediction - label
    right = (predictions.probability > 0.5) == up
    n_valid = valid.sum(axis=-1)
    in_quantile = n_valid // quantiles
    top_k = _highest(prediction, np.where(n_valid < k, 0, k))
    top = _highest(prediction, in_quantile)
    bottom = _highest(-prediction, in_quantile)
    return {
        "mae": _mean(np.abs(error), valid),
        "rmse": np.sqrt(_mean(error**2, valid)),
        "accuracy": _mean(right, valid),
        "balanced_accuracy": (_mean(right, valid & up) + _mean(right, valid & ~up)) / 2,
        "brier": _mean((predictions.probability - up) ** 2, valid),
        "ic": _correlation(prediction, label, valid),
        "rank_ic": _correlation(_ranks(prediction), _ranks(label), valid),
        "precision_at_k": _mean(up, top_k),
        "top_k_excess": _mean(label, top_k) - _mean(label, valid),
        "top_minus_bottom": _mean(label, top) - _mean(label, bottom),
        "n_valid": n_valid,
    }


def _require_finite(predictions: Predictions) -> None:
    """A number that is not finite stops the evaluation: leaving it out would flatter a model."""
    for name in ("prediction", "probability", "label"):
        broken = predictions.valid & ~np.isfinite(getattr(predictions, name))
        if broken.any():
            date, step, stock = np.argwhere(broken)[0]
            raise ValueError(
                f"predictions: {name} is {getattr(predictions, name)[date, step, stock]} in a valid"
                f" cell, first on {predictions.signal_dates[date]} for"
                f" {predictions.tickers[stock]} (step {step + 1}); {broken.sum()} such cells"
            )


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the last axis; NaN where the weights are all zero."""
    total = weights.sum(axis=-1)
    weighted = np.where(weights > 0, values, 0.0) * weights
    return np.divide(
        weighted.sum(axis=-1), total, out=np.full(total.shape, np.nan), where=total > 0
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks over the last axis, ties averaged, NaN where the value is NaN."""
    return rankdata(values, axis=-1, nan_policy="omit")


def _correlation(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Pearson correlation over the last axis; NaN without two cells and variation in both."""
    a_centred, b_centred = (np.where(valid, x - _mean(x, valid)[..., None], 0.0) for x in (a, b))
    covariance = (a_centred * b_centred).sum(axis=-1)
    scale = np.sqrt((a_centred**2).sum(axis=-1) * (b_centred**2).sum(axis=-1))
    # Rounding leaves a constant a variance of 1e-40, so the values themselves must vary.
    defined = _varies(a, valid) & _varies(b, valid) & (scale > 0)
    return np.divide(covariance, scale, out=np.full(scale.shape, np.nan), where=defined)


def _varies(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    highest = np.where(valid, values, -np.inf).max(axis=-1, initial=-np.inf)
    lowest = np.where(valid, values, np.inf).min(axis=-1, initial=np.inf)
    return highest > lowest


def _highest(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Weights over the last axis that pick the `count` highest values; NaN is never picked.

    Values tied at the edge share the places that are left, so the order of stocks has no say.
    count (S, H) is at most the number of values that are not NaN; 0 picks nothing.
    """
    low_first = np.sort(np.where(np.isnan(values), -np.inf, values), axis=-1)
    place = np.clip(values.shape[-1] - count, 0, values.shape[-1] - 1)
    edge = np.take_along_axis(low_first, place[..., None], axis=-1)
    above, tied = values > edge, values == edge
    places_left = count[..., None] - above.sum(axis=-1, keepdims=True)
    share = places_left / np.maximum(tied.sum(axis=-1, keepdims=True), 1)
    return np.where(count[..., None] > 0, above + tied * share, 0.0)
