"""Metrics against tables worked out by hand, and against scipy, scikit-learn and alphalens."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from stockformer.evaluation.predictions import (
    calibration,
    daily,
    join,
    rank_stability,
    score,
)


def by_date(predictions, k=10, quantiles=5):
    """The metrics by (signal_date, step)."""
    steps = range(1, predictions.prediction.shape[1] + 1)
    tables = [daily(predictions.step(step), k, quantiles) for step in steps]
    return pd.concat(tables, keys=steps, names=["step"]).swaplevel().sort_index()


def test_hand_worked_date(predictions):
    # Errors 1, -1, 2, 0 %; ranks of the prediction 4 2 3 1, of the label 3 4 2 1.
    prediction = [[[0.04, 0.02, 0.03, -0.02]]]
    label = [[[0.03, 0.03 + 1e-9, 0.01, -0.02]]]
    probability = np.array([[[0.9, 0.4, 0.6, 0.2]]])
    row = by_date(predictions(prediction, label, probability), k=2, quantiles=2).iloc[0]
    assert row["mae"] == pytest.approx(0.01)
    assert row["rmse"] == pytest.approx(np.sqrt(6e-4 / 4))
    assert row["accuracy"] == 0.75  # only the second is wrong
    assert row["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert row["brier"] == pytest.approx((0.01 + 0.36 + 0.16 + 0.04) / 4)
    assert row["rank_ic"] == pytest.approx(1 - 6 * (1 + 4 + 1 + 0) / (4 * 15))
    assert row["precision_at_k"] == 1.0
    assert row["top_k_excess"] == pytest.approx(0.02 - 0.0125)
    assert row["top_minus_bottom"] == pytest.approx((0.03 + 0.01) / 2 - (0.03 - 0.02) / 2)
    assert row["n_valid"] == 4


def test_agrees_with_scipy_and_sklearn(random_predictions):
    p = random_predictions()
    table = by_date(p)
    for (date, step), row in table.iterrows():
        day = np.flatnonzero(p.signal_dates == date.to_datetime64())[0]
        cells = p.valid[day, step - 1]
        prediction, label, probability, up = (
            array[day, step - 1, cells] for array in (p.prediction, p.label, p.probability, p.up)
        )
        chosen = probability > 0.5
        expected = {
            "mae": sklearn_metrics.mean_absolute_error(label, prediction),
            "rmse": sklearn_metrics.root_mean_squared_error(label, prediction),
            "accuracy": sklearn_metrics.accuracy_score(up, chosen),
            "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(up, chosen),
            "brier": sklearn_metrics.brier_score_loss(up, probability),
            "ic": stats.pearsonr(prediction, label).statistic,
            "rank_ic": stats.spearmanr(prediction, label).statistic,
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning:alphalens.*")
def test_agrees_with_alphalens(predictions):
    performance = pytest.importorskip("alphalens.performance")
    utils = pytest.importorskip("alphalens.utils")
    rng = np.random.default_rng(1)
    dates, stocks = 30, 20
    returns = rng.normal(0, 0.01, (dates, stocks))
    p = predictions(rng.normal(size=(dates - 1, 1, stocks)), returns[1:, None])
    days = pd.DatetimeIndex(np.append(p.signal_dates, p.target_end[-1, 0]))
    prices = pd.DataFrame(100 * np.cumprod(1 + returns, axis=0), days, p.tickers)
    factor = p.frame().set_index(["signal_date", "ticker"])["prediction"]
    factor.index.names = ["date", "asset"]
    table = utils.get_clean_factor_and_forward_returns(factor, prices, periods=(1,), quantiles=5)
    ours = by_date(p, quantiles=5).droplevel("step")
    theirs = performance.factor_information_coefficient(table)["1D"]
    np.testing.assert_allclose(ours["rank_ic"], theirs, atol=1e-12)
    by_quantile = performance.mean_return_by_quantile(table, by_date=True)[0]["1D"]
    np.testing.assert_allclose(
        ours["top_minus_bottom"], by_quantile.loc[5] - by_quantile.loc[1], atol=1e-12
    )


def test_score_averages_dates_not_cells(predictions):
    # One date with a single stock, off by 4 %, one with three stocks that are right.
    label = np.array([[[0.01, np.nan, np.nan]], [[0.01, 0.02, 0.03]]])
    prediction = np.array([[[0.05, 0.0, 0.0]], [[0.01, 0.02, 0.03]]])
    scores = score(predictions(prediction, label), k=1)
    assert scores["mae"] == pytest.approx(0.02)
    assert scores["n_dates"] == 2
    assert scores["n_ranked_dates"] == 1
    assert scores["rank_ic"] == pytest.approx(1.0)


def test_ratio_of_the_daily_mean_over_steps(random_predictions):
    p = random_predictions()
    per_date = by_date(p)["rank_ic"].groupby("signal_date").mean()
    scores = score(p)
    assert scores["rank_ic"] == pytest.approx(per_date.mean())
    assert scores["rank_ic_std"] == pytest.approx(per_date.std())
    assert scores["rank_icir"] == pytest.approx(per_date.mean() / per_date.std())
    pd.testing.assert_series_equal(daily(p)["rank_ic"], per_date, check_freq=False)


def test_broken_number_names_its_date_and_ticker(random_predictions):
    p = random_predictions()
    p.valid[3, 1, 7] = True
    p.label[3, 1, 7] = 0.01
    p.prediction[3, 1, 7] = np.inf
    with pytest.raises(ValueError, match=r"prediction is inf .* 2024-01-04 for S007 \(step 2\)"):
        score(p)
    p.valid[3, 1, 7] = False
    assert np.isfinite(score(p)["mae"])


@pytest.mark.parametrize("seed", range(5))
def test_masked_cells_and_order_of_stocks_have_no_say(random_predictions, seed):
    p = random_predictions(seed=seed)
    expected = by_date(p)
    rng = np.random.default_rng(seed)
    garbage = {
        name: np.where(p.valid, getattr(p, name), rng.normal(size=p.valid.shape))
        for name in ("prediction", "probability", "label")
    }
    pd.testing.assert_frame_equal(by_date(replace(p, **garbage)), expected)
    order = rng.permutation(len(p.tickers))
    stocks = ("prediction", "probability", "label", "up", "valid")
    shuffled = {name: getattr(p, name)[..., order] for name in stocks}
    pd.testing.assert_frame_equal(by_date(replace(p, **shuffled)), expected)
    stretched = replace(p, prediction=np.exp(20 * p.prediction))
    pd.testing.assert_series_equal(by_date(stretched)["rank_ic"], expected["rank_ic"])


def test_constant_prediction_tells_nothing_apart(predictions):
    label = np.random.default_rng(0).normal(size=(3, 1, 10))
    row = by_date(predictions(np.full(label.shape, 0.1), label), k=4).iloc[0]
    assert np.isnan(row[["ic", "rank_ic"]].astype(float)).all()
    # Tied stocks share the places: the precision of a random choice, and no spread.
    assert row["precision_at_k"] == pytest.approx((label[0] > 0).mean())
    assert row["top_minus_bottom"] == pytest.approx(0.0)
    assert np.isnan(score(predictions(np.full(label.shape, 0.1), label))["rank_icir"])


def test_places_at_the_edge_are_shared(predictions):
    prediction = [[[3.0, 2.0, 2.0, 2.0, 1.0]]]
    label = [[[0.01, 0.02, -0.02, -0.02, 0.05]]]
    row = by_date(predictions(prediction, label), k=2).iloc[0]
    assert row["precision_at_k"] == pytest.approx((1 + 1 / 3) / 2)
    everything = by_date(predictions(prediction, label), k=5).iloc[0]
    assert everything["precision_at_k"] == pytest.approx(3 / 5)


def test_too_few_stocks_is_not_a_number(predictions):
    label = np.array([[[0.01, np.nan, np.nan]], [[np.nan] * 3]])
    table = by_date(predictions(np.zeros(label.shape), label), k=2, quantiles=2)
    few = ["ic", "rank_ic", "precision_at_k", "top_minus_bottom", "balanced_accuracy"]
    assert table[few].isna().all(axis=None)
    assert table["n_valid"].tolist() == [1, 0]
    assert table["mae"].isna().tolist() == [False, True]


def test_calibration_by_hand(predictions):
    probability = np.array([[[0.1, 0.2, 0.5, 1.0, 0.9]]])
    label = np.array([[[0.01, -0.01, 0.01, 0.01, np.nan]]])
    table = calibration(predictions(np.zeros(label.shape), label, probability), bins=2)
    assert table["n"].tolist() == [2, 2]
    np.testing.assert_allclose(table["probability"], [0.15, 0.75])
    np.testing.assert_allclose(table["frequency"], [0.5, 1.0])
    with pytest.raises(ValueError, match="outside"):
        calibration(predictions(np.zeros(label.shape), label, probability + 0.1))


def test_calibration_agrees_with_sklearn(random_predictions):
    p = random_predictions(dates=40)
    table = calibration(p, bins=7)  # no edge at 0.5, where there are ties
    frequency, probability = calibration_curve(p.up[p.valid], p.probability[p.valid], n_bins=7)
    some = table[table["n"] > 0]
    np.testing.assert_allclose(some["frequency"], frequency)
    np.testing.assert_allclose(some["probability"], probability)
    assert table["n"].sum() == p.valid.sum()


def test_precision_and_return_of_the_highest_agree_with_sorting(random_predictions):
    p = random_predictions(dates=20)
    p = replace(p, prediction=p.prediction + 1e-9 * np.arange(40))  # without ties
    for (date, step), row in by_date(p, k=7).iterrows():
        cell = np.flatnonzero(p.signal_dates == date.to_datetime64())[0], step - 1
        known = np.flatnonzero(p.valid[cell])
        best = known[np.argsort(-p.prediction[cell][known])[:7]]
        assert row["precision_at_k"] == pytest.approx(p.up[cell][best].mean())
        excess = p.label[cell][best].mean() - p.label[cell][known].mean()
        assert row["top_k_excess"] == pytest.approx(excess)


def test_rank_stability_compares_a_ranking_with_the_date_before(random_predictions, predictions):
    forecast = np.array([[1, 2, 3], [10, 20, 90], [3, 2, 1], [5, 5, 5]], float)[:, None]
    stability = rank_stability(predictions(forecast, np.zeros_like(forecast)))
    np.testing.assert_allclose(stability, [np.nan, 1, -1, np.nan])
    p = random_predictions(dates=2, steps=1)
    both = p.valid[:, 0].all(axis=0)
    expected = stats.spearmanr(*p.prediction[:, 0, both]).statistic
    assert rank_stability(p).iloc[1] == pytest.approx(expected)


def test_deviations_and_ratios_agree_with_scipy(random_predictions):
    p = random_predictions(dates=50, steps=1)
    scores = score(p)
    for name, correlation in (("ic", stats.pearsonr), ("rank_ic", stats.spearmanr)):
        days = [
            correlation(p.prediction[d, 0, p.valid[d, 0]], p.label[d, 0, p.valid[d, 0]]).statistic
            for d in range(50)
        ]
        assert scores[f"{name}_std"] == pytest.approx(stats.tstd(days))
        assert scores[f"{name}ir"] == pytest.approx(1 / stats.variation(days, ddof=1))


def test_frame_is_tidy(random_predictions):
    p = random_predictions(dates=3, stocks=4)
    frame = p.frame()
    assert len(frame) == 3 * 2 * 4
    row = frame.set_index(["signal_date", "step", "ticker"]).loc[("2024-01-02", 2, "S003")]
    assert row["prediction"] == p.prediction[1, 1, 3]
    assert row["valid"] == p.valid[1, 1, 3]
    assert row["target_end"] == p.target_end[1, 1]


def test_step_and_join(random_predictions):
    p = random_predictions(dates=4)
    np.testing.assert_array_equal(p.step(2).label[:, 0], p.label[:, 1])
    with pytest.raises(ValueError, match="step 3 is not one of 1 to 2"):
        p.step(3)
    later = replace(p, signal_dates=p.signal_dates + 10)
    np.testing.assert_array_equal(join([later, p]).label, np.concatenate([p.label, later.label]))
    with pytest.raises(ValueError, match="2024-01-01 is in two"):
        join([p, p])
    with pytest.raises(ValueError, match="different tickers"):
        join([p, replace(later, tickers=p.tickers[::-1])])


def test_horizon_counts_overlapping_targets(random_predictions):
    p = random_predictions(dates=6)
    assert p.step(1).horizon == 1
    assert p.horizon == 2
    assert replace(p.step(1), target_end=p.step(1).target_end + 4).horizon == 5


def test_shapes_are_checked(random_predictions):
    p = random_predictions()
    with pytest.raises(ValueError, match=r"label has shape \(11, 2, 40\), expected \(12, 2, 40\)"):
        replace(p, label=p.label[1:])
    with pytest.raises(ValueError, match="valid has dtype float64, expected bool"):
        replace(p, valid=p.label)
    with pytest.raises(ValueError, match="k must be >= 1"):
        score(p, k=0)


def test_an_epoch_of_validation_takes_milliseconds(random_predictions):
    p = random_predictions(dates=60, stocks=200)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        score(p)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05
