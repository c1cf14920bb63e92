"""Baselines: what they may see, what they answer, and their known scores on real markets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from stockformer.evaluation import baselines
from stockformer.evaluation.baselines import RIDGE_ALPHA, BaselineInputs, all_baselines
from stockformer.evaluation.predictions import Predictions, daily, join, score

HORIZON = 2


def history_of(
    returns, dates, tickers, *, training_days, factors=None, horizon=HORIZON
) -> BaselineInputs:
    """Targets are the daily returns of the next `horizon` days."""
    label = np.full((len(dates), horizon, len(tickers)), np.nan)
    for step in range(horizon):
        label[: len(dates) - 1 - step, step] = returns[1 + step :]
    valid = np.isfinite(label)
    return BaselineInputs(
        dates=dates,
        tickers=tickers,
        returns=returns,
        factors=np.zeros((*returns.shape, 0)) if factors is None else factors,
        label=label,
        up=np.where(valid, label, 0) > 0,
        valid=valid,
        training_days=training_days,
    )


def empty_model(history: BaselineInputs, rows: np.ndarray) -> Predictions:
    """A model that forecasts zero on those rows of the history."""
    ends = rows[:, None] + 1 + np.arange(history.label.shape[1])
    shape = history.label[rows].shape
    return Predictions(
        signal_dates=history.dates[rows],
        target_start=history.dates[ends - 1],
        target_end=history.dates[ends],
        tickers=history.tickers,
        prediction=np.zeros(shape),
        probability=np.full(shape, 0.5),
        label=history.label[rows],
        up=history.up[rows],
        valid=history.valid[rows],
    )


@pytest.fixture
def market() -> BaselineInputs:
    """Sixty days of twenty stocks that revert from one day to the next, with three factors."""
    rng = np.random.default_rng(0)
    returns = rng.normal(0.001, 0.02, (60, 20))
    for day in range(1, 60):
        returns[day] -= 0.3 * returns[day - 1]
    returns[30, 4] = np.nan
    factors = rng.normal(size=(60, 20, 3))
    factors[:, :, 0] += 50 * np.nan_to_num(returns)
    factors[10, 3] = np.nan
    dates = np.datetime64("2024-01-01") + np.arange(60)
    tickers = np.array([f"S{i}" for i in range(20)])
    return history_of(returns, dates, tickers, training_days=np.arange(38), factors=factors)


ROWS = np.arange(40, 58)


def test_same_cells_as_the_model(market):
    model = empty_model(market, ROWS)
    for name, baseline in all_baselines(model, market).items():
        for field in ("signal_dates", "target_end", "tickers", "label", "up", "valid"):
            assert getattr(baseline, field) is getattr(model, field), name
        assert np.isfinite(baseline.prediction).all(), name
        assert ((baseline.probability >= 0) & (baseline.probability <= 1)).all(), name


def test_trivial_answers(market):
    answers = all_baselines(empty_model(market, ROWS), market, with_lightgbm=False)
    for name in ("zero_return", "always_up", "majority_class", "yesterday_class"):
        assert not answers[name].prediction.any()
    assert (answers["always_up"].probability == 1).all()
    for step in range(HORIZON):
        cells = market.valid[:38, step]
        share = market.up[:38, step][cells].mean()
        mean = market.label[:38, step][cells].mean()
        np.testing.assert_allclose(answers["training_mean"].probability[:, step], share)
        np.testing.assert_allclose(answers["training_mean"].prediction[:, step], mean)
        assert (answers["majority_class"].probability[:, step] == (share > 0.5)).all()
    np.testing.assert_array_equal(
        answers["yesterday_class"].probability[0, 1] > 0.5, market.returns[40] > 0
    )


def test_rankings_by_hand(market):
    answers = all_baselines(empty_model(market, ROWS), market, with_lightgbm=False)
    past = (1 + market.returns[36:41]).prod(axis=0) - 1
    expected = {
        "reversal_1_day": -market.returns[40],
        "reversal_5_day": -past,
        "momentum_20_day": (1 + market.returns[21:41]).prod(axis=0) - 1,
    }
    for name, score_of_day in expected.items():
        known = np.isfinite(score_of_day)
        for step in range(HORIZON):
            forecast = answers[name].prediction[0, step]
            correlation = np.corrcoef(forecast[known], score_of_day[known])[0, 1]
            assert correlation == pytest.approx(1.0), name
    # A stock with a gap in its window stands in the middle of the others.
    momentum = answers["momentum_20_day"].prediction[0, 0]
    assert momentum[4] == pytest.approx(np.median(np.delete(momentum, 4)))


def test_reversal_coefficient_is_least_squares(market):
    answers = all_baselines(empty_model(market, ROWS), market, with_lightgbm=False)
    past = market.returns[:38]
    past = np.where(np.isnan(past), np.nanmedian(past, axis=1, keepdims=True), past)
    cells = market.valid[:38, 0]
    slope = np.linalg.lstsq(-past[cells][:, None], market.label[:38, 0][cells], rcond=None)[0]
    np.testing.assert_allclose(
        answers["reversal_1_day"].prediction[:, 0], -slope * market.returns[ROWS]
    )
    assert slope > 0.2


def test_ridge_agrees_with_sklearn(market):
    answers = all_baselines(empty_model(market, ROWS), market, with_lightgbm=False)

    def ranks(values: np.ndarray) -> pd.DataFrame:
        frame = pd.DataFrame(values)
        return frame.rank(axis=1).sub(0.5).div(frame.count(axis=1), axis=0).sub(0.5)

    inputs = np.stack(
        [ranks(market.factors[:, :, factor]).fillna(0) for factor in range(3)], axis=-1
    )
    cells = market.valid[:38, 1]
    label = np.where(cells, market.label[:38, 1], np.nan)
    target = ranks(label).to_numpy()[cells]
    model = Ridge(alpha=RIDGE_ALPHA, fit_intercept=False).fit(inputs[:38][cells], target)
    per_rank = target @ label[cells] / (target @ target)
    expected = model.predict(inputs[ROWS].reshape(-1, 3)).reshape(len(ROWS), -1) * per_rank
    np.testing.assert_allclose(
        answers["ridge"].prediction[:, 1], expected, atol=1e-4 * expected.std()
    )


def test_lightgbm_says_the_same_on_every_run(market):
    model = empty_model(market, ROWS)
    first, again = (all_baselines(model, market)["lightgbm"] for _ in range(2))
    np.testing.assert_array_equal(first.prediction, again.prediction)
    assert "lightgbm" not in all_baselines(model, market, with_lightgbm=False)
    no_factors = replace(market, factors=market.factors[:, :, :0])
    assert not {"ridge", "lightgbm"} & set(all_baselines(model, no_factors))


def test_no_baseline_sees_past_its_signal_date(market):
    """Garbage after a date must not move any answer up to it."""
    model = empty_model(market, ROWS)
    before = all_baselines(model, market, with_lightgbm=False)
    cut = 50
    rng = np.random.default_rng(1)
    returns, factors = market.returns.copy(), market.factors.copy()
    returns[cut + 1 :] = rng.normal(size=returns[cut + 1 :].shape)
    factors[cut + 1 :] = np.nan
    garbage = history_of(
        returns, market.dates, market.tickers, training_days=market.training_days, factors=factors
    )
    after = all_baselines(empty_model(garbage, ROWS), garbage, with_lightgbm=False)
    known = market.dates[ROWS] <= market.dates[cut]
    for name in before:
        for field in ("prediction", "probability"):
            old, new = (getattr(each[name], field) for each in (before, after))
            np.testing.assert_array_equal(old[known], new[known])
    assert (before["ridge"].prediction[~known] != after["ridge"].prediction[~known]).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training_days": np.arange(41)}, "training day 2024-02-10 is not before"),
        ({"training_days": np.arange(0)}, "step 1 has no valid cell"),
        (
            {"tickers": np.array([f"X{i}" for i in range(20)])},
            "tickers of history and predictions differ",
        ),
        (
            {"dates": np.datetime64("2025-01-01") + np.arange(60)},
            "2024-02-10 is not in the history",
        ),
    ],
)
def test_misfits_are_refused(market, change, message):
    model = empty_model(market, ROWS)
    with pytest.raises(ValueError, match=message):
        all_baselines(model, replace(market, **change))


def test_steps_must_agree(market):
    with pytest.raises(ValueError, match="targets have 2 steps, the model's predictions 1"):
        all_baselines(empty_model(market, ROWS).step(1), market)


def test_history_checks_shapes(market):
    with pytest.raises(ValueError, match="label is"):
        replace(market, label=market.label[:-1])


def test_phase5_trivial_scores(shared):
    """On the last 82 days: zero has MAE 0.0158 (zero returns left out), "up" accuracy 0.533."""
    folder = shared / "data/nifty200_phase5"
    labels = pd.read_csv(folder / "label.csv", index_col=0, parse_dates=True)
    dates = labels.index.to_numpy().astype("datetime64[D]")
    returns = np.load(folder / "flow.npz", allow_pickle=False)["result"]
    history = history_of(
        returns, dates, labels.columns.to_numpy(), training_days=np.arange(19, 493)
    )
    rows = np.arange(len(dates) - 82 + 19, len(dates) - 2)
    answers = all_baselines(empty_model(history, rows), history)
    zero = answers["zero_return"].step(2)
    moved = replace(zero, valid=zero.valid & (zero.label != 0))
    assert len(rows) == 61
    assert score(moved)["mae"] == pytest.approx(0.0158, abs=5e-5)
    assert score(answers["majority_class"].step(2))["accuracy"] == pytest.approx(0.533, abs=5e-4)


def test_nifty_walk_forward_scores(nifty, monkeypatch):
    """The protocol NIFTY-WF: six folds of sixty days; mean daily rank IC over 359 days."""
    alpha158 = pytest.importorskip("stockformer.data.factors.alpha158")
    close = nifty["close"]
    returns = close.pct_change(fill_method=None).to_numpy()
    factors, _ = alpha158.compute({name: frame.to_numpy() for name, frame in nifty.items()})
    # The ranks of a day are the same in every fold: computed once, to save half the time.
    ranks = [baselines._factor_ranks(day) for day in factors]
    place, size = factors.ctypes.data, factors[0].nbytes
    monkeypatch.setattr(
        baselines, "_factor_ranks", lambda day: ranks[(day.ctypes.data - place) // size]
    )
    dates = close.index.to_numpy().astype("datetime64[D]")
    folds: dict[str, list[Predictions]] = {}
    for start in range(300, 660, 60):
        # A fold is given nothing past its own end.
        end = min(start + 60, 659)
        history = history_of(
            returns[: end + 1],
            dates[: end + 1],
            close.columns.to_numpy(),
            training_days=np.arange(60, start - 1),
            factors=factors[: end + 1],
            horizon=1,
        )
        model = empty_model(history, np.arange(start, end))
        for name, fold in all_baselines(model, history, with_lightgbm=False).items():
            folds.setdefault(name, []).append(fold)
    rank_ic = {name: daily(join(parts))["rank_ic"] for name, parts in folds.items()}
    expected = {
        "ridge": (0.0249, 4.1),
        "reversal_5_day": (0.0229, 3.2),
        "reversal_1_day": (0.0191, 2.7),
        "momentum_20_day": (-0.0075, None),
    }
    for name, (mean, t) in expected.items():
        series = rank_ic[name]
        assert series.count() == 359
        assert series.mean() == pytest.approx(mean, abs=1e-4), name
        if t is not None:
            assert series.mean() / series.sem() == pytest.approx(t, abs=0.05), name
