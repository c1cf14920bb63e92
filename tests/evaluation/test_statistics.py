"""Statistics against statsmodels, published numbers, and the errors they make on noise."""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stockformer.evaluation.predictions import daily
from stockformer.evaluation.statistics import (
    bootstrap_interval,
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    newey_west,
    paired_comparison,
    probabilistic_sharpe_ratio,
    probability_of_overfitting,
    sharpe_ratio,
    summary,
)

TRIALS = 1000


def noise(seed: int, days_per_target: int) -> np.ndarray:
    """(TRIALS, 250) series without a mean; consecutive ones share all but one of their days."""
    rng = np.random.default_rng(seed)
    daily_noise = rng.normal(size=(TRIALS, 250 + days_per_target - 1))
    return np.lib.stride_tricks.sliding_window_view(daily_noise, days_per_target, axis=1).sum(-1)


@pytest.mark.parametrize(("n", "horizon", "lag"), [(250, 1, 4), (60, 1, 3), (100, 10, 9)])
def test_newey_west_agrees_with_statsmodels(n, horizon, lag):
    api = pytest.importorskip("statsmodels.api")
    series = 0.1 + noise(seed=1, days_per_target=3)[0, :n]
    ours = newey_west(series, horizon)
    settings = {"maxlags": lag, "use_correction": True}
    theirs = api.OLS(series, np.ones(n)).fit(cov_type="HAC", cov_kwds=settings, use_t=True)
    assert ours.lag == lag
    assert ours.mean == pytest.approx(theirs.params[0])
    assert ours.standard_error == pytest.approx(theirs.bse[0])
    assert ours.t == pytest.approx(theirs.tvalues[0])
    assert ours.p == pytest.approx(theirs.pvalues[0])


def test_newey_west_by_hand():
    # n = 4, lag 1: mean 2, deviations -1 1 -1 1, sum of squares 4, of neighbours -3, weight 1/2.
    result = newey_west(np.array([1.0, 3.0, 1.0, 3.0]), horizon=1)
    assert result.lag == 1
    assert result.standard_error == pytest.approx(np.sqrt((4 - 3) / 4 / 3))
    assert result.t == pytest.approx(2 * np.sqrt(12))


def test_missing_days_are_dropped_and_n_says_so():
    series = noise(seed=2, days_per_target=1)[0]
    gaps = np.insert(series, [3, 100], np.nan)
    assert newey_west(gaps, 1) == newey_west(series, 1)
    assert newey_west(gaps, 1).n == 250
    assert bootstrap_interval(gaps) == bootstrap_interval(series)


@pytest.mark.parametrize("series", [[], [0.1], [0.0, 0.0, 0.0]])
def test_nothing_to_test(series):
    result = newey_west(np.array(series), horizon=1)
    assert result.n == len(series)
    assert np.isnan([result.t, result.p]).all()


def test_the_same_on_every_day_is_no_luck():
    result = newey_west(np.full(10, -0.1), horizon=1)
    assert result.t == -np.inf
    assert result.p == 0.0


def test_infinite_days_and_horizons_are_refused():
    with pytest.raises(ValueError, match="infinite"):
        newey_west(np.array([0.1, np.inf]), 1)
    with pytest.raises(ValueError, match="horizon must be >= 1, got 0"):
        newey_west(np.zeros(3), 0)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(np.zeros(3), confidence=95)


@pytest.mark.parametrize(("days", "lowest", "highest"), [(1, 0.036, 0.064), (2, 0.0, 0.09)])
def test_size_on_noise(days, lowest, highest):
    rejected = np.mean([newey_west(series, days).p < 0.05 for series in noise(3, days)])
    sys.stdout.write(f"targets of {days} days: {rejected:.1%} of {TRIALS} noise series rejected\n")
    assert lowest <= rejected <= highest


@pytest.mark.parametrize("days", [1, 2])
def test_coverage_on_noise(days):
    intervals = [bootstrap_interval(series, seed=i) for i, series in enumerate(noise(4, days))]
    covered = np.mean([lower <= 0 <= upper for lower, upper in intervals])
    sys.stdout.write(f"targets of {days} days: {covered:.1%} of {TRIALS} intervals cover\n")
    assert covered >= 0.92


def test_bootstrap_agrees_with_the_t_interval_and_its_seed():
    series = noise(seed=5, days_per_target=1)[0]
    interval = bootstrap_interval(series)
    expected = stats.t.interval(0.95, 249, series.mean(), series.std(ddof=1) / np.sqrt(250))
    np.testing.assert_allclose(interval, expected, atol=0.02)
    assert interval == bootstrap_interval(series)
    assert interval != bootstrap_interval(series, seed=1)
    np.testing.assert_allclose(
        bootstrap_interval(np.array([1.0, 2.0])), 1.5 + np.array([-0.5, 0.5]) * np.sqrt(2), atol=0.1
    )


def test_blocks_widen_the_interval_of_dependent_days():
    series = noise(seed=6, days_per_target=5)[0]
    lower, upper = bootstrap_interval(series)
    independent = 2 * 1.96 * series.std(ddof=1) / np.sqrt(len(series))
    assert upper - lower > 1.5 * independent


def test_paired_comparison_sees_a_small_steady_difference():
    dates = pd.date_range("2024-01-01", periods=250)
    common, own = noise(seed=7, days_per_target=1)[:2]
    common -= common.mean()
    a = pd.Series(common, dates)
    b = pd.Series(common - 0.02 + 0.05 * own, dates)
    assert newey_west(a, 1).p > 0.05
    result = paired_comparison(a, b, 1)
    assert result.p < 0.001
    assert result.mean == pytest.approx((a - b).mean())
    assert np.isnan(paired_comparison(a, a, 1).p)
    with pytest.raises(ValueError, match="different dates"):
        paired_comparison(a, b.iloc[1:], 1)


def test_summary_has_a_row_for_every_metric(random_predictions):
    p = random_predictions(dates=30)
    frame = daily(p)
    table = summary(frame, p.horizon)
    assert list(table.index) == list(frame.columns)
    row = table.loc["rank_ic"]
    assert row["mean"] == pytest.approx(frame["rank_ic"].mean())
    assert row["lower"] < row["mean"] < row["upper"]
    assert row["n"] == 30


def test_deflated_sharpe_of_the_paper():
    # Bailey and Lopez de Prado (2014), numerical example: the annual Sharpe ratios of 100 trials
    # have variance 1/2, five years of 250 days, the best is 2.5 with skewness -3 and kurtosis 10.
    spread = np.sqrt(0.5 / 250 * 99 / 100)
    trials = np.repeat([spread, -spread], 50)
    maximum = expected_maximum_sharpe(trials)
    assert maximum == pytest.approx(0.1132, abs=5e-5)
    value = probabilistic_sharpe_ratio(2.5 / np.sqrt(250), maximum, 1250, -3, 10)
    assert value == pytest.approx(0.9004, abs=5e-5)


def test_expected_maximum_is_that_of_many_draws():
    trials = np.random.default_rng(8).normal(0, 0.05, (2000, 50))
    predicted = np.mean([expected_maximum_sharpe(row) for row in trials])
    assert predicted == pytest.approx(trials.max(axis=1).mean(), rel=0.03)


def test_more_trials_deflate_more():
    rng = np.random.default_rng(9)
    returns = rng.normal(0.001, 0.01, 250)
    own = sharpe_ratio(returns)
    trials = np.append(rng.normal(0, 0.06, 99), own)
    alone = deflated_sharpe_ratio(returns, np.array([own]))
    assert alone == pytest.approx(
        probabilistic_sharpe_ratio(
            own, 0.0, 250, stats.skew(returns), stats.kurtosis(returns, fisher=False)
        )
    )
    assert deflated_sharpe_ratio(returns, trials) < alone
    assert np.isnan(deflated_sharpe_ratio(np.zeros(10), trials))
    with pytest.raises(ValueError, match="every trial"):
        deflated_sharpe_ratio(returns, np.append(trials, np.nan))


def test_deflated_sharpe_does_not_believe_the_best_of_noise():
    believed = 0
    for seed in range(100):
        trials = np.random.default_rng(seed).normal(0, 0.01, (40, 250))
        sharpes = np.array([sharpe_ratio(trial) for trial in trials])
        believed += deflated_sharpe_ratio(trials[sharpes.argmax()], sharpes) > 0.95
    assert believed <= 5


def overfitting_step_by_step(returns: np.ndarray, blocks: int) -> float:
    """The algorithm as Bailey and others (2015) describe it, one combination after another."""
    parts = np.array_split(np.arange(len(returns)), blocks)
    below = []
    for chosen in combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[i] for i in chosen])
        outside = np.concatenate([parts[i] for i in range(blocks) if i not in chosen])
        fitted, held_out = (
            np.array([sharpe_ratio(column) for column in returns[rows].T])
            for rows in (inside, outside)
        )
        rank = 1 + (held_out < held_out[np.argmax(fitted)]).sum()
        omega = rank / (returns.shape[1] + 1)
        below.append(np.log(omega / (1 - omega)) <= 0)
    return float(np.mean(below))


def test_the_probability_of_overfitting_is_the_papers():
    rng = np.random.default_rng(0)
    for dates, blocks in ((25, 6), (47, 10)):
        returns = rng.normal(0, 0.01, (dates, 7))
        expected = overfitting_step_by_step(returns, blocks)
        assert probability_of_overfitting(pd.DataFrame(returns)) == pytest.approx(expected)


def test_overfitting_is_likely_for_noise_and_unlikely_for_skill():
    rng = np.random.default_rng(1)
    noise = [
        probability_of_overfitting(pd.DataFrame(rng.normal(0, 1, (64, 20)))) for _ in range(40)
    ]
    assert 0.4 < np.mean(noise) < 0.6
    skilled = rng.normal(0, 1, (64, 20))
    skilled[:, 3] += 1
    assert probability_of_overfitting(pd.DataFrame(skilled)) < 0.02


def test_overfitting_needs_dates_and_configurations():
    returns = pd.DataFrame(np.random.default_rng(2).normal(0, 1, (40, 5)))
    assert probability_of_overfitting(returns[:23]) is None
    assert probability_of_overfitting(returns[[0]]) is None
    shared = returns.copy()
    shared.iloc[5:, 2] = np.nan  # only dates that all have
    assert probability_of_overfitting(shared) is None
