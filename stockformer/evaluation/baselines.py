"""What a model has to beat: forecasts that need no model, or only a linear or boosted one.

Every baseline answers on exactly the model's signal dates, steps and valid cells, from what was
known at the close of the signal date, and learns only from the training signal days.

Return forecast. A ranking baseline (reversal, momentum) has a score, not a return; one coefficient
a step, fitted by least squares through the origin on the training cells, turns it into one, so its
MAE means something. The learned ones forecast a percentile rank, turned into a return by the
training return per unit of rank. Neither changes the order of stocks. The class baselines forecast
zero.

Probability of "up". For a forecast r it is Phi(Phi^-1(s) + r / sd), s the share of "up" and sd the
standard deviation of the return in the training cells: a forecast of zero answers with the training
share, and so with the majority class. Yesterday's class is answered with certainty.

T dates of the panel, N stocks, F factors, D training days; S signal dates, H steps of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from stockformer.evaluation.metrics import Predictions, daily
from stockformer.evaluation.statistics import MeanTest, newey_west, paired_comparison

RIDGE_ALPHA = 3000.0
SMALLEST_COEFFICIENT = 1e-6
SIGNIFICANCE = 0.05
TOO_GOOD = 0.3
"""A mean daily rank IC that no honest forecast of daily returns reaches."""

BETTER = {"rank_ic": 1, "mae": -1, "accuracy": 1}
"""The compared metrics in the order of the verdict; 1 where more is better, -1 where less is."""

NAMES = {"rank_ic": "rank IC", "mae": "MAE", "accuracy": "accuracy"}
FORMATS = {"rank_ic": ".4f", "mae": ".5f", "accuracy": ".3f"}


@dataclass(frozen=True)
class History:
    """The panel and targets that baselines look at.

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
                raise ValueError(f"history: {name} is {shape} dates by stocks, expected {panel}")

    def training_cells(self, step: int) -> np.ndarray:
        """(D, N) bool: training cells with a known target at that step, counted from 0."""
        return self.valid[self.training_days, step]


def all_baselines(
    model: Predictions, history: History, with_lightgbm: bool = True
) -> dict[str, Predictions]:
    """Every baseline on the model's signal dates, steps and cells, by name.

    Ridge is among them where there are factors; LightGBM too, if wanted and installed (the extra
    `gbm`), one thread of it, three seeds. Raises ValueError where the tickers or the number of
    steps differ, a signal date is not in the history, a training day is not before the first signal
    date, or a step has no training cell.
    """
    rows = _rows(model, history)
    learners: dict[str, Learner] = {"ridge": _ridge} if history.factors.shape[-1] else {}
    if learners and with_lightgbm and find_spec("lightgbm"):
        learners["lightgbm"] = _lightgbm
    rank = _factor_ranks(history.factors, np.union1d(history.training_days, rows))
    steps = [
        _forecasts(history, rank, learners, rows, step) for step in range(model.prediction.shape[1])
    ]
    forecasts = {name: np.stack([step[name] for step in steps], axis=1) for name in steps[0]}
    baselines = {
        name: replace(model, prediction=forecast, probability=_probability(forecast, history))
        for name, forecast in forecasts.items()
    }
    yesterday = history.returns[rows][:, None]
    share = baselines["majority_class"].probability
    certain = np.where(np.isfinite(yesterday), yesterday > 0, share)
    baselines["yesterday_class"] = replace(baselines["yesterday_class"], probability=certain)
    return baselines


def comparison_table(model: Predictions, baselines: Mapping[str, Predictions]) -> pd.DataFrame:
    """The model (first row, "model") beside its baselines, on the same dates.

    Columns: for each of rank_ic, mae and accuracy the mean over dates, and t and p of the model's
    daily value minus the row's (Newey-West). A baseline that does not tell stocks apart has no rank
    IC, which compares as zero; so does the model's own row: its t and p test its rank IC against
    zero. n_dates: dates with a rank IC of the model.
    """
    dates = {"model": daily(model)} | {name: daily(p) for name, p in baselines.items()}
    n_dates = int(dates["model"]["rank_ic"].count())
    rows = {}
    for name, frame in dates.items():
        row: dict[str, float] = {}
        for metric in BETTER:
            test = _against(dates["model"], frame, metric, model.horizon, own=name == "model")
            row |= {metric: frame[metric].mean(), f"{metric}_t": test.t, f"{metric}_p": test.p}
        rows[name] = row | {"n_dates": n_dates}
    return pd.DataFrame.from_dict(rows, orient="index")


def verdict(table: pd.DataFrame) -> str:
    """One sentence: does the model of `comparison_table` beat all baselines, and by how much.

    Beating a baseline means a better mean with a paired p under 0.05. Each metric is told beside
    the best baseline that it does not beat, or the best of all where it beats every one. A model
    that beats them on nothing and whose rank IC is not above zero (p under 0.05) is said to show no
    skill; a rank IC over 0.3 is said first to be too good to be true.
    """
    rank_ic, p = table["rank_ic"].iloc[0], table["rank_ic_p"].iloc[0]
    warning = (
        f"Too good to be true: a rank IC of {rank_ic:.3f}, over {TOO_GOOD}, is a leaked label "
        "until shown otherwise. "
        if rank_ic > TOO_GOOD
        else ""
    )
    won = [NAMES[metric] for metric in BETTER if _beaten(table, metric).all()]
    lost = [name for name in NAMES.values() if name not in won]
    told = "; ".join(_told(table, metric) for metric in BETTER)
    if not won:
        skill = "" if rank_ic > 0 and p < SIGNIFICANCE else "shows no skill and "
        return f"{warning}The model {skill}does not beat the baselines: {told}."
    but = f" but not on {' or '.join(lost)}" if lost else ""
    return f"{warning}The model beats every baseline on {' and '.join(won)}{but}: {told}."


Learner = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(inputs (R, F), target (R,), inputs to forecast (Q, F)) -> forecast (Q,)."""


def _rows(model: Predictions, history: History) -> np.ndarray:
    """(S,) rows of the history on which the model forecasts."""
    if not np.array_equal(model.tickers, history.tickers):
        raise ValueError("baselines: the history has other tickers than the model's predictions")
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


def _forecasts(
    history: History,
    rank: np.ndarray,
    learners: dict[str, Learner],
    rows: np.ndarray,
    step: int,
) -> dict[str, np.ndarray]:
    """The return forecast (S, N) of every baseline for one step, by name."""
    zero = np.zeros((len(rows), len(history.tickers)))
    forecasts = dict.fromkeys(("zero_return", "majority_class", "yesterday_class"), zero)
    for name, score in _scores(history.returns).items():
        forecasts[name] = _scaled(score, history, step)[rows]
    for name, learner in learners.items():
        forecasts[name] = _learned(learner, rank, history, step, rows)
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

    Where a day of them is missing, the day's median stands: the middle rank, so no opinion.
    """
    past = np.full_like(returns, np.nan)
    if len(returns) >= days:
        windows = np.lib.stride_tricks.sliding_window_view(1 + returns, days, axis=0)
        past[days - 1 :] = windows.prod(axis=-1) - 1
    frame = pd.DataFrame(past.T)
    return frame.fillna(frame.median().fillna(0.0)).to_numpy().T


def _coefficient(score: np.ndarray, label: np.ndarray) -> float:
    """Least-squares return per unit of score, through the origin, on (R,) training cells.

    Kept above zero: a reversal that lost in training is still a reversal, with hardly a forecast.
    """
    power = float(score @ score)
    return max(float(score @ label) / power, SMALLEST_COEFFICIENT) if power else 0.0


def _scaled(score: np.ndarray, history: History, step: int) -> np.ndarray:
    """The score (T, N) as a return forecast of that step."""
    cells = history.training_cells(step)
    label = history.label[history.training_days, step]
    return score * _coefficient(score[history.training_days][cells], label[cells])


def _probability(forecast: np.ndarray, history: History) -> np.ndarray:
    """Probability of "up" (S, H, N) that goes with a return forecast; the rule is the file's."""
    probability = np.empty_like(forecast)
    for step in range(forecast.shape[1]):
        cells = history.training_cells(step)
        share = history.up[history.training_days, step][cells].mean()
        deviation = history.label[history.training_days, step][cells].std()
        shift = forecast[:, step] / deviation if deviation > 0 else 0.0
        probability[:, step] = norm.cdf(norm.ppf(share) + shift)
    return probability


def _percentile_ranks(values: np.ndarray) -> np.ndarray:
    """Percentile rank over the last axis minus 0.5, ties averaged; 0 where the value is NaN."""
    count = np.isfinite(values).sum(axis=-1, keepdims=True)
    ranks = rankdata(values, axis=-1, nan_policy="omit")
    return np.nan_to_num((ranks - 0.5) / np.maximum(count, 1) - 0.5, nan=0.0)


def _factor_ranks(factors: np.ndarray, days: np.ndarray) -> np.ndarray:
    """(T, N, F) float32 percentile ranks of those days, 0 on others.

    One day at a time, to keep the working memory small.
    """
    ranks = np.zeros(factors.shape, dtype=np.float32)
    for day in days:
        ranks[day] = _percentile_ranks(factors[day].T).T
    return ranks


def _learned(
    learner: Learner, rank: np.ndarray, history: History, step: int, rows: np.ndarray
) -> np.ndarray:
    """Return forecast (S, N) of a learner of percentile ranks, one model a step."""
    days, cells = history.training_days, history.training_cells(step)
    label = np.where(cells, history.label[days, step], np.nan)
    target = _percentile_ranks(label)[cells]
    forecast = learner(rank[days][cells], target, rank[rows].reshape(-1, rank.shape[-1]))
    return forecast.reshape(len(rows), -1) * _coefficient(target, label[cells])


def _ridge(inputs: np.ndarray, target: np.ndarray, forecast_inputs: np.ndarray) -> np.ndarray:
    """Ridge regression in closed form; no intercept, as ranks are centred within each day."""
    gram = (inputs.T @ inputs).astype(np.float64)
    gram[np.diag_indices_from(gram)] += RIDGE_ALPHA
    weights = np.linalg.solve(gram, inputs.T @ target.astype(inputs.dtype))
    return forecast_inputs @ weights


def _lightgbm(inputs: np.ndarray, target: np.ndarray, forecast_inputs: np.ndarray) -> np.ndarray:
    """The mean of three boosted models that differ in their seed; the same on every run."""
    import lightgbm  # noqa: PLC0415 - optional, the extra gbm

    forecasts = []
    for seed in range(3):
        booster = lightgbm.LGBMRegressor(
            n_estimators=150,
            learning_rate=0.03,
            num_leaves=31,
            min_child_samples=300,
            colsample_bytree=0.3,
            subsample=0.7,
            subsample_freq=1,
            reg_lambda=50.0,
            random_state=seed,
            deterministic=True,
            force_row_wise=True,
            # On shared cores its threads wait for one another: two took four times as long as one.
            n_jobs=1,
            verbose=-1,
        )
        forecasts.append(np.asarray(booster.fit(inputs, target).predict(forecast_inputs)))
    return np.mean(forecasts, axis=0)


def _against(
    model: pd.DataFrame, other: pd.DataFrame, metric: str, horizon: int, own: bool
) -> MeanTest:
    """Test of the model's daily metric minus the other's; what has no rank IC counts as zero."""
    if metric == "rank_ic" and (own or not other[metric].notna().any()):
        return newey_west(model[metric], horizon)
    return paired_comparison(model[metric], other[metric], horizon)


def _beaten(table: pd.DataFrame, metric: str) -> np.ndarray:
    """(baselines,) bool: which of them the model, the first row, beats on that metric."""
    worth = BETTER[metric] * table[metric].fillna(0.0).to_numpy()
    p = table[f"{metric}_p"].to_numpy()
    return (worth[0] > worth[1:]) & (p[1:] < SIGNIFICANCE)


def _told(table: pd.DataFrame, metric: str) -> str:
    """A metric of the model beside the best baseline it does not beat, else the best of all."""
    beaten = _beaten(table, metric)
    values = table[metric].fillna(0.0).to_numpy()
    shown = np.flatnonzero(beaten.all() | ~beaten) + 1
    best = shown[np.argmax(BETTER[metric] * values[shown])]
    form, p = FORMATS[metric], table[f"{metric}_p"].iloc[best]
    difference = f"{values[0] - values[best]:+{form}}"
    if not difference.strip("+-0."):
        difference = difference.replace("-", "+")  # a zero has no sign
    certainty = "p < 0.001" if p < 0.001 else f"p {p:.3f}" if math.isfinite(p) else "no p"
    return (
        f"{NAMES[metric]} {table[metric].iloc[0]:{form}}"
        f" {'beats' if beaten.all() else 'does not beat'} {values[best]:{form}} of"
        f" {str(table.index[best]).replace('_', ' ')} (difference {difference}, {certainty})"
    )
