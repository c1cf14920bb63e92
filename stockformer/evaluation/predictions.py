"""A model's forecasts with the realised targets, and their metrics.

S signal dates, H steps of the horizon, N stocks. Returns are fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from stockformer.evaluation.metrics import (
    METRICS,
    QUANTILES,
    TOP_K,
    Cells,
    correlation,
    mean,
    ranks,
)


@dataclass(frozen=True)
class Predictions:
    """Forecasts made at the close of each signal date, with the realised targets.

    signal_dates (S,) datetime64[D]: every input was known at the close of that date.
    target_start, target_end (S, H) datetime64[D]: the target runs from close to close.
    tickers (N,) str.
    prediction (S, H, N) float64: forecast return, a fraction.
    probability (S, H, N) float64: forecast probability of class "up", in [0, 1].
    label (S, H, N) float64: realised return, NaN where unknown.
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
        """Largest number of signal dates from a signal date to the end of its target, at least 1.

        If it exceeds 1, consecutive targets overlap, which `statistics` must allow for.
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

    def on(self, date: np.datetime64) -> Predictions:
        """Only those of one signal date."""
        only = self.signal_dates == date
        dated = (f.name for f in fields(self) if f.name != "tickers")
        return replace(self, **{name: getattr(self, name)[only] for name in dated})

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


def daily(predictions: Predictions, k: int = TOP_K, quantiles: int = QUANTILES) -> pd.DataFrame:
    """Every metric of `METRICS` by signal date, averaged over the steps that have it.

    NaN where no step has it: precision_at_k and top_k_excess need k valid stocks, top_minus_bottom
    `quantiles` of them; stocks tied at the edge of a group share its remaining places equally. ic
    and rank_ic need two valid stocks and variation in both. n_valid: the number of valid stocks.

    Raises ValueError for a prediction, probability or label that is not finite in a valid cell.
    """
    metrics = _metrics(predictions, k, quantiles)
    steps_mean = {name: mean(values, np.isfinite(values)) for name, values in metrics.items()}
    return pd.DataFrame(steps_mean, index=pd.Index(predictions.signal_dates, name="signal_date"))


def score(predictions: Predictions, k: int = TOP_K, quantiles: int = QUANTILES) -> dict[str, float]:
    """Each metric of `daily` averaged over the dates that have it.

    ic_std, rank_ic_std are standard deviations over dates (of the steps' mean, n - 1 in the
    denominator); icir, rank_icir are mean / standard deviation, not annualised. n_dates counts
    dates with a valid cell, n_ranked_dates those with a rank IC: on the other dates the model gave
    all stocks the same forecast. Raises as `daily` does.
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
        ranks(np.where(both, predictions.prediction[days], np.nan))
        for days in (slice(None, -1), slice(1, None))
    )
    by_step = correlation(before, after, both)
    by_date = mean(by_step, np.isfinite(by_step))
    dates = pd.Index(predictions.signal_dates, name="signal_date")
    return pd.Series(np.concatenate([[np.nan], by_date]), index=dates)


def calibration(predictions: Predictions, bins: int = 10) -> pd.DataFrame:
    """Forecast probability of "up" and its realised frequency, in bins of equal width.

    One row a bin: lower, upper (exclusive, except in the last), probability (mean forecast),
    frequency (share realised up), n (valid cells). Empty bins are NaN with n = 0. Raises as
    `daily` does, and ValueError for a probability outside [0, 1].
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
    valid = predictions.valid
    cells = Cells(
        prediction=np.where(valid, predictions.prediction, np.nan),
        probability=predictions.probability,
        label=np.where(valid, predictions.label, np.nan),
        up=predictions.up,
        valid=valid,
        k=k,
        quantiles=quantiles,
    )
    values = {name: metric.daily(cells) for name, metric in METRICS.items()}
    return values | {"n_valid": cells.n_valid}


def _require_finite(predictions: Predictions) -> None:
    """A number that is not finite is an error: leaving it out would improve the metrics."""
    for name in ("prediction", "probability", "label"):
        broken = predictions.valid & ~np.isfinite(getattr(predictions, name))
        if broken.any():
            date, step, stock = np.argwhere(broken)[0]
            raise ValueError(
                f"predictions: {name} is {getattr(predictions, name)[date, step, stock]} in a valid"
                f" cell, first on {predictions.signal_dates[date]} for"
                f" {predictions.tickers[stock]} (step {step + 1}); {broken.sum()} such cells"
            )
