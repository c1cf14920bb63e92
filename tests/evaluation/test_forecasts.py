"""Forecasts taken apart, on tables small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from reporting.run_folder import some_predictions

from stockformer.evaluation import forecasts
from stockformer.evaluation.predictions import daily, score


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


def test_a_date_of_tied_forecasts_has_gaps() -> None:
    days = forecasts.quantile_returns(cells([[1, 1, 1]], [[1, 2, 3]]), quantiles=3)
    np.testing.assert_allclose(days.to_numpy(), [[np.nan, 0, np.nan]])


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
