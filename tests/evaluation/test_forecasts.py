"""Forecasts taken apart, on tables small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from reporting.run_folder import some_predictions

from stockformer.evaluation import forecasts
from stockformer.evaluation.predictions import daily, score
from stockformer.evaluation.statistics import estimate


def cells(predictions: list[list[float]], labels: list[list[float]]) -> pd.DataFrame:
    """A row a date, a column a stock."""
    dates, stocks = np.shape(predictions)
    return pd.DataFrame(
        {
            "signal_date": np.repeat(pd.date_range("2024-01-01", periods=dates), stocks),
            "step": 1,
            "ticker": np.tile([f"S{i}" for i in range(stocks)], dates),
            "prediction": np.ravel(predictions),
            "label": np.ravel(labels),
        }
    )


def test_quantiles_are_of_each_date_and_less_the_dates_mean() -> None:
    days = forecasts.quantile_returns(
        cells([[1, 2, 3, 4], [4, 3, 2, 1]], [[0.1, 0.2, 0.3, 0.6], [0, 0, 1, 3]]), quantiles=2
    )
    np.testing.assert_allclose(days.to_numpy(), [[-0.15, 0.15], [1, -1]])


def test_a_date_of_tied_forecasts_ranks_nothing() -> None:
    for noise in (0.0, 1e-8):
        same = [1 + noise, 1, 1 - noise]
        days = forecasts.quantile_returns(
            cells([same, [1, 2, 3]], [[1, 2, 3], [1, 2, 3]]), quantiles=3
        )
        np.testing.assert_allclose(days.to_numpy(), [[np.nan] * 3, [-1, 0, 1]])
        nothing = forecasts.quantile_returns(cells([same], [[1, 2, 3]]), quantiles=3)
        assert nothing.shape == (1, 3)
        assert nothing.isna().all(axis=None)


def test_no_valid_cell_gives_empty_tables() -> None:
    none = cells([[1, 2]], [[1, 2]]).iloc[:0]
    assert forecasts.quantile_returns(none).shape == (0, 5)
    assert forecasts.outcome_by_prediction(none).empty
    assert forecasts.rank_ic_by_stock(none).empty


def test_quantiles_have_the_estimates_of_their_daily_returns() -> None:
    random = np.random.default_rng(0)
    days = pd.DataFrame(random.normal(size=(60, 2)), columns=[1, 2])
    found = forecasts.quantile_estimates(days, horizon=2)
    for quantile, series in days.items():
        expected = estimate(series, 2)
        assert found.loc[quantile, "mean"] == pytest.approx(series.mean())
        assert found.loc[quantile, "lower"] == expected.lower < expected.upper


def test_the_rolling_mean_fits_its_window_to_the_dates() -> None:
    series = pd.Series(np.arange(70.0)).mask(lambda s: s == 5)
    mean, window = forecasts.rolling_mean(series)
    assert window == 21
    assert len(mean) == 69 - 20
    assert mean.iloc[-1] == pytest.approx(series.iloc[-21:].mean())
    assert forecasts.rolling_mean(series.iloc[:40]) is None


def test_the_brier_skill_is_one_less_the_ratio_of_means_and_covers_it() -> None:
    random = np.random.default_rng(1)
    reference = pd.Series(random.normal(0.25, 0.05, 200))
    brier = 0.7 * reference + random.normal(0, 0.01, 200)
    skill = forecasts.brier_skill(brier, reference, 1)
    assert skill.mean == pytest.approx(1 - brier.mean() / reference.mean())
    # The interval is that of the ratio, not of the difference over a fixed reference.
    ratios = [
        1 - brier[draw].mean() / reference[draw].mean()
        for draw in random.integers(0, 200, (2000, 200))
    ]
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert (skill.lower, skill.upper) == pytest.approx((low, high), abs=2e-3)
    assert skill.sign == 1
    assert forecasts.brier_skill(reference, reference, 1).mean == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_the_stocks_shares_add_up_to_the_mean_rank_ic(seed: int) -> None:
    predictions = some_predictions(seed=seed)
    predictions.prediction[3] = 0.0  # no rank IC on this date
    predictions.prediction[5, 1] = 0.0  # nor for this step
    frame = predictions.frame()
    table = forecasts.rank_ic_by_stock(frame[frame["valid"]])
    assert np.isnan(daily(predictions)["rank_ic"].iloc[3])
    assert table["contribution"].sum() == pytest.approx(score(predictions)["rank_ic"], abs=1e-12)
    assert table["cells"].sum() == frame["valid"].sum()
    assert table["contribution"].is_monotonic_decreasing


def test_outcomes_are_averaged_in_bins_of_equally_many_forecasts() -> None:
    four = pd.DataFrame({"prediction": [3.0, 1.0, 2.0, 4.0], "label": [30.0, 10.0, 20.0, 50.0]})
    binned = forecasts.outcome_by_prediction(four, bins=2)
    np.testing.assert_allclose(binned, [[1.5, 15.0, 2], [3.5, 40.0, 2]])
    same = forecasts.outcome_by_prediction(four.assign(prediction=0.0))
    np.testing.assert_allclose(same, [[0.0, 27.5, 4]])


def test_the_interval_of_a_frequency_counts_dates_not_stocks() -> None:
    random = np.random.default_rng(0)
    covered, narrow, trials = 0, 0, 200
    for _ in range(trials):
        before = some_predictions(60, seed=int(random.integers(1 << 30)))
        # On each date all stocks rise, or none does.
        up = np.broadcast_to(random.random((60, 2, 1)) < 0.5, before.up.shape) & before.valid
        probability = np.where(random.random(up.shape) < 0.5, 0.3, 0.7)
        judged = replace(before, up=up, probability=probability, label=np.where(up, 1.0, -1.0))
        table = forecasts.calibration_intervals(judged, 2)
        covered += table["lower_frequency"].iloc[0] <= 0.5 <= table["upper_frequency"].iloc[0]
        narrow += abs(table["frequency"].iloc[0] - 0.5) < 2 * 0.5 / np.sqrt(table["n"].iloc[0])
    assert covered / trials > 0.9, covered / trials
    assert narrow / trials < 0.8


def test_bins_of_few_forecasts_have_no_frequency() -> None:
    before = some_predictions(60)
    probability = np.full(before.up.shape, 0.6)
    probability[0, 0, 0] = 0.1
    table = forecasts.calibration_intervals(replace(before, probability=probability), 10)
    assert len(table) == 1
    assert table["probability"].iloc[0] == pytest.approx(0.6)
