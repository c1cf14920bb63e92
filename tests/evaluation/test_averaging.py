"""The mean of runs: seeds as they are, models with the same spread."""

from __future__ import annotations

import numpy as np
import pytest

from stockformer.evaluation.averaging import mean_forecast, run_weights


def test_seeds_of_a_configuration_are_averaged_as_they_are() -> None:
    forecasts = np.array([[[1.0, 2.0, 4.0]], [[3.0, 0.0, 9.0]]])
    np.testing.assert_array_equal(mean_forecast(forecasts, ["a", "a"]), forecasts.mean(axis=0))


def test_a_model_with_a_large_spread_does_not_outweigh_the_other() -> None:
    small, large = np.array([[0.0, 1.0, 2.0]]), np.array([[200.0, 100.0, 0.0]])
    found = mean_forecast(np.stack([small, large]), ["a", "b"])
    np.testing.assert_allclose(found, np.full((1, 3), 50.5), atol=1e-12)  # equal and opposite


def test_a_configuration_counts_once_whatever_its_number_of_seeds() -> None:
    rng = np.random.default_rng(0)
    *seeds, other = rng.normal(size=(4, 4, 1, 50))
    found = mean_forecast(np.stack([*seeds, 3 * other]), ["a", "a", "a", "b"])
    both = [np.mean(seeds, axis=0), 3 * other]
    spreads = [each.std(axis=-1, keepdims=True) for each in both]
    middle = [each.mean(axis=-1, keepdims=True) for each in both]
    scaled = [(x - m) / s for x, m, s in zip(both, middle, spreads)]
    expected = np.mean(scaled, axis=0) * np.mean(spreads, axis=0) + np.mean(middle, axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("rounding", [0.0, 1e-9])
def test_a_constant_forecast_adds_its_level_and_no_order(rounding: float) -> None:
    rng = np.random.default_rng(0)
    order, constant = rng.normal(size=(2, 1, 191))
    forecasts = np.stack([order, 0.1 + rounding * constant])
    found = mean_forecast(forecasts, ["a", "b"])
    np.testing.assert_allclose(found.mean(), (order.mean() + 0.1) / 2)
    np.testing.assert_array_equal(found.argsort(), order.argsort())
    assert (run_weights(forecasts, ["a", "b"])[1] == 0).all()
