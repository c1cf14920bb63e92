"""The mean of runs: seeds as they are, models with the same spread."""

from __future__ import annotations

import numpy as np

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
    one, other = rng.normal(size=(2, 4, 1, 50))
    twice = mean_forecast(np.stack([one, other]), ["a", "b"])
    seeds = mean_forecast(np.stack([one, one, one, other]), ["a", "a", "a", "b"])
    np.testing.assert_allclose(seeds, twice, atol=1e-12)
    spreads = [each.std(axis=-1) for each in (one, other)]
    middle = [each.mean(axis=-1, keepdims=True) for each in (one, other)]
    scaled = [(x - m) / s[..., None] for x, m, s in zip((one, other), middle, spreads)]
    expected = np.mean(scaled, axis=0) * np.mean(spreads, axis=0)[..., None] + np.mean(middle, 0)
    np.testing.assert_allclose(twice, expected, atol=1e-12)


def test_a_constant_forecast_adds_its_level_and_no_order() -> None:
    forecasts = np.stack([np.array([[0.0, 1.0, 5.0]]), np.full((1, 3), 7.0)])
    found = mean_forecast(forecasts, ["a", "b"])
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found.argsort(), [[0, 1, 2]])
    np.testing.assert_allclose(found.mean(), (2 + 7) / 2)
    assert np.isfinite(run_weights(forecasts, ["a", "b"])).all()
