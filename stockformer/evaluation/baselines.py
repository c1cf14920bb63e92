"""Baselines that a model has to beat: simple rules, and a linear and a boosted model.

Every baseline forecasts exactly the model's signal dates, steps and valid cells, from data known at
the close of the signal date, and is fitted only on signal days before the test.

Return forecast. A ranking baseline (reversal, momentum) has a score, not a return. One coefficient
a step, fitted by least squares through the origin on the training cells, converts the score to a
return, so that its MAE is meaningful. The fitted models forecast a percentile rank, converted by
the training return per unit of rank. Neither changes the order of stocks. Constants (zero, the
training mean, one class) do not rank stocks: level forecasts are compared with them.

Probability of "up". For a forecast r it is Phi(Phi^-1(s) + r / sd), s the share of "up" and sd the
standard deviation of the return in the training cells: a zero forecast gives the training share.
The training mean also gives the share; always up, the majority class and yesterday's class give
probability 0 or 1.

T dates of the panel, N stocks, F factors, D training days; S signal dates, H steps of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import norm

from stockformer.data.factors.cross_section import percentile_ranks
from stockformer.evaluation.predictions import Predictions
from stockformer.models.regression import Boosting, boosted_trees, ridge_weights

RIDGE_ALPHA = 3000.0
TREES = Boosting(
    n_estimators=150,
    learning_rate=0.03,
    num_leaves=31,
    min_child_samples=300,
    colsample_bytree=0.3,
    subsample=0.7,
    reg_lambda=50.0,
)
MIN_COEFFICIENT = 1e-6
DAYS_AT_ONCE = 16  # forecast together; a multiple of 4, so that BLAS rounds as on all days at once
STRONGEST = "lightgbm"
"""The baseline that usually ranks best: the verdict notes it if it was not run."""

CONSTANTS = ("zero_return", "training_mean", "always_up", "majority_class")
"""Baselines with the same forecast for every stock on every date."""


@dataclass(frozen=True)
class BaselineInputs:
    """The panel and targets that baselines use.

    dates (T,) datetime64[D]; tickers (N,); returns (T, N) daily, a fraction, NaN where not traded;
    factors (T, N, F), NaN where unknown. label, up, valid (T, H, N): the target of each signal day,
    as in `Predictions`. training_days (D,) int: rows of the signal days to learn from.
    """

    dates: np.ndarray
    tickers: np.ndarray
    returns: np.ndarray
    factors: np.ndarray
    label: np.ndarray
    up: np.ndarray
    valid: np.ndarray
    training_days: np.ndarray

    def __post_init__(self) -> None:
        panel = (len(self.dates), len(self.tickers))
        shapes = {"returns": self.returns.shape, "factors": self.factors.shape[:2]}
        for name in ("label", "up", "valid"):
            shapes[name] = getattr(self, name).shape[::2]
        for name, shape in shapes.items():
            if shape != panel:
                raise ValueError(
                    f"baseline inputs: {name} is {shape} dates by stocks, expected {panel}"
                )

    def training_cells(self, step: int) -> np.ndarray:
        """(D, N) bool: training cells with a known target at that step, counted from 0."""
        return self.valid[self.training_days, step]


def all_baselines(
    model: Predictions, history: BaselineInputs, with_lightgbm: bool = True
) -> dict[str, Predictions]:
    """Every baseline on the model's signal dates, steps and cells, by name.

    Ridge and LightGBM (one thread, three seeds) need factors, and LightGBM its library. Raises
    ValueError if the tickers or the number of steps differ, a signal date is not in the inputs, a
    training day is not before the first signal date, or a step has no training cell.
    """
    rows = _rows(model, history)
    learners: dict[str, Learner] = {"ridge": _ridge} if history.factors.shape[-1] else {}
    if learners and with_lightgbm and lightgbm_missing() is None:
        learners[STRONGEST] = _lightgbm
    steps = [_forecasts(history, rows, step) for step in range(model.prediction.shape[1])]
    forecasts = {name: np.stack([step[name] for step in steps], axis=1) for name in steps[0]}
    forecasts |= _learned(learners, history, rows)
    baselines = {
        name: replace(model, prediction=forecast, probability=_probability(forecast, history))
        for name, forecast in forecasts.items()
    }
    share = baselines["zero_return"].probability
    yesterday = np.broadcast_to(history.returns[rows][:, None], share.shape)
    classes = {
        "training_mean": share,
        "always_up": np.ones_like(share),
        "majority_class": (share > 0.5).astype(float),
        "yesterday_class": np.where(np.isfinite(yesterday), yesterday > 0, share),
    }
    return baselines | {
        name: replace(baselines[name], probability=probability)
        for name, probability in classes.items()
    }


def lightgbm_missing() -> str | None:
    """Why LightGBM cannot be loaded; None if it can."""
    try:
        import lightgbm  # noqa: F401, PLC0415 - takes a second to load
    except (ImportError, OSError) as error:  # OSError: the system's OpenMP library is missing
        return " ".join(str(error).split())
    return None


Fitted = Callable[[np.ndarray], np.ndarray]
"""(inputs to forecast (Q, F)) -> forecast (Q,)."""
Learner = Callable[[np.ndarray, np.ndarray], Fitted]
"""(inputs (R, F), target (R,)) -> the fitted model."""


def _rows(model: Predictions, history: BaselineInputs) -> np.ndarray:
    """(S,) rows of the history on which the model forecasts."""
    if not np.array_equal(model.tickers, history.tickers):
        raise ValueError("baselines: the tickers of history and predictions differ")
    if history.label.shape[1] != model.prediction.shape[1]:
        raise ValueError(
            f"baselines: the history's targets have {history.label.shape[1]} steps, the model's"
            f" predictions {model.prediction.shape[1]}"
        )
    known = np.isin(model.signal_dates, history.dates)
    if not known.all():
        raise ValueError(
            f"baselines: signal date {model.signal_dates[~known][0]} is not in the history"
        )
    for step in range(model.prediction.shape[1]):
        if not history.training_cells(step).any():
            raise ValueError(f"baselines: step {step + 1} has no valid cell on the training days")
    rows = np.searchsorted(history.dates, model.signal_dates)
    if history.training_days.max() >= rows.min():
        raise ValueError(
            f"baselines: training day {history.dates[history.training_days.max()]} is not before"
            f" the first signal date {history.dates[rows.min()]}"
        )
    return rows


def _forecasts(history: BaselineInputs, rows: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """The return forecast (S, N) of every rule for one step, by name."""
    zero = np.zeros((len(rows), len(history.tickers)))
    cells = history.training_cells(step)
    forecasts = dict.fromkeys((*CONSTANTS, "yesterday_class"), zero)
    forecasts["training_mean"] = zero + history.label[history.training_days, step][cells].mean()
    for name, score in _scores(history.returns).items():
        forecasts[name] = _scaled(score, history, step)[rows]
    return forecasts


def _scores(returns: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (T, N) of the ranking baselines."""
    return {
        "reversal_1_day": -_past_return(returns, 1),
        "reversal_5_day": -_past_return(returns, 5),
        "momentum_20_day": _past_return(returns, 20),
    }


def _past_return(returns: np.ndarray, days: int) -> np.ndarray:
    """Compound return (T, N) of the last `days` days, the signal day included.

    A stock with a missing day gets the median of the date: a middle rank.
    """
    past = np.full_like(returns, np.nan)
    if len(returns) >= days:
        windows = np.lib.stride_tricks.sliding_window_view(1 + returns, days, axis=0)
        past[days - 1 :] = windows.prod(axis=-1) - 1
    frame = pd.DataFrame(past.T)
    return frame.fillna(frame.median().fillna(0.0)).to_numpy().T


def _coefficient(score: np.ndarray, label: np.ndarray) -> float:
    """Least-squares return per unit of score, through the origin, on (R,) training cells.

    Kept above zero, so that a reversal that lost in training keeps its order of stocks.
    """
    power = float(score @ score)
    return max(float(score @ label) / power, MIN_COEFFICIENT) if power else 0.0


def _scaled(score: np.ndarray, history: BaselineInputs, step: int) -> np.ndarray:
    """The score (T, N) as a return forecast of that step."""
    cells = history.training_cells(step)
    label = history.label[history.training_days, step]
    return score * _coefficient(score[history.training_days][cells], label[cells])


def _probability(forecast: np.ndarray, history: BaselineInputs) -> np.ndarray:
    """Probability of "up" (S, H, N) for a return forecast, by the rule in this file's docstring."""
    probability = np.empty_like(forecast)
    for step in range(forecast.shape[1]):
        cells = history.training_cells(step)
        share = history.up[history.training_days, step][cells].mean()
        deviation = history.label[history.training_days, step][cells].std()
        shift = forecast[:, step] / deviation if deviation > 0 else 0.0
        probability[:, step] = norm.cdf(norm.ppf(share) + shift)
    return probability


def _learned(
    learners: dict[str, Learner], history: BaselineInputs, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Return forecasts (S, H, N) of models of percentile ranks by name, one model a step."""
    if not learners:
        return {}
    models = _fitted(learners, history)
    shape = len(rows), history.label.shape[1], len(history.tickers)
    forecasts = {name: np.empty(shape) for name in learners}
    for first in range(0, len(rows), DAYS_AT_ONCE):
        block = slice(first, first + DAYS_AT_ONCE)
        inputs = np.concatenate([_factor_ranks(history.factors[row]) for row in rows[block]])
        for name, by_step in models.items():
            for step, (model, scale) in enumerate(by_step):
                forecast = model(inputs).reshape(-1, shape[-1])
                forecasts[name][block, step] = forecast * scale
    return forecasts


def _fitted(
    learners: dict[str, Learner], history: BaselineInputs
) -> dict[str, list[tuple[Fitted, float]]]:
    """For each learner a model a step, and the return per unit of its forecast."""
    days = history.training_days
    used = history.valid[days].any(axis=1)
    table = np.empty((int(used.sum()), history.factors.shape[-1]), np.float32)
    place = 0
    for day, stocks in zip(days, used):
        ranks = _factor_ranks(history.factors[day])[stocks]
        table[place : place + len(ranks)] = ranks
        place += len(ranks)
    models: dict[str, list[tuple[Fitted, float]]] = {name: [] for name in learners}
    for step in range(history.label.shape[1]):
        cells = history.training_cells(step)
        label = np.where(cells, history.label[days, step], np.nan)
        target = np.nan_to_num(percentile_ranks(label))[cells]
        known = cells[used]
        inputs = table if known.all() else table[known]  # a copy only where it is needed
        scale = _coefficient(target, label[cells])
        for name, learner in learners.items():
            models[name].append((learner(inputs, target), scale))
    return models


def _factor_ranks(factors: np.ndarray) -> np.ndarray:
    """(N, F) float32 percentile ranks of a day's factors, 0 where unknown."""
    return np.nan_to_num(percentile_ranks(factors, axis=0)).astype(np.float32)


def _ridge(inputs: np.ndarray, target: np.ndarray) -> Fitted:
    """Ridge regression without intercept, as ranks are centred within each day."""
    (weights,) = ridge_weights(inputs, target, [RIDGE_ALPHA])
    return lambda rows: rows @ weights


def _lightgbm(inputs: np.ndarray, target: np.ndarray) -> Fitted:
    """The mean of three boosted models that differ in their seed; the same on every run."""
    boosters = [boosted_trees(inputs, target, TREES, seed) for seed in range(3)]
    return lambda rows: np.mean([np.asarray(each.predict(rows)) for each in boosters], axis=0)
