"""Forecasts without exposure to common factors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stockformer.evaluation.neutralise import Neutraliser, neutralise_notes

DAYS, STOCKS = 200, 80
Market = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def market() -> Market:
    """Returns (DAYS, STOCKS) of two factors and noise; the factors' exposures (STOCKS, 2)."""
    rng = np.random.default_rng(0)
    exposures = rng.normal(size=(STOCKS, 2))
    moves = rng.normal(0, 0.02, (DAYS, 2))
    return moves @ exposures.T + rng.normal(0, 0.01, (DAYS, STOCKS)), exposures


def neutraliser(market: Market, **changes: object) -> Neutraliser:
    settings = {"components": 2, "volatility": True, "days": 150} | changes
    return Neutraliser(market[0], None, **settings)


def test_common_factors_are_taken_out_and_the_own_part_stays(market: Market) -> None:
    rng = np.random.default_rng(1)
    own = rng.normal(0, 0.01, (1, 1, STOCKS))
    forecast = 0.003 + own + 0.01 * market[1] @ [1.0, -2.0]
    (found,) = neutraliser(market, volatility=False)(np.array([180]), forecast)[0]
    assert found.mean() == pytest.approx(forecast.mean(), rel=1e-9)
    for exposure in market[1].T:
        assert abs(np.corrcoef(found, exposure)[0, 1]) < 0.1
        assert abs(np.corrcoef(forecast[0, 0], exposure)[0, 1]) > 0.2
    assert np.corrcoef(found, own[0, 0])[0, 1] > 0.8


def test_what_is_left_is_orthogonal_to_every_exposure(market: Market) -> None:
    made = neutraliser(market)
    rows = np.array([100, 199])
    found = made(rows, np.random.default_rng(2).normal(size=(2, 3, STOCKS)))
    assert made.exposures(100).shape == (STOCKS, 3)
    for row, steps in zip(rows, found):
        deviations = steps - steps.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(deviations @ made.exposures(row), 0, atol=1e-12)
    np.testing.assert_allclose(made(rows, found), found, atol=1e-12)
    volatility = np.log(market[0][50:200].std(axis=0))
    assert np.corrcoef(made.exposures(199)[:, 2], volatility)[0, 1] > 0.999


def test_nothing_later_than_the_signal_date_is_read(market: Market) -> None:
    returns, row, forecast = market[0].copy(), np.array([150]), np.ones((1, 1, STOCKS)).cumsum(-1)
    before = neutraliser((returns, market[1]))(row, forecast)
    returns[151:] *= -7
    np.testing.assert_array_equal(neutraliser((returns, market[1]))(row, forecast), before)
    returns[150] = returns[150, ::-1]
    assert not np.allclose(neutraliser((returns, market[1]))(row, forecast), before)


def test_the_order_of_the_stocks_does_not_matter(market: Market) -> None:
    order = np.random.default_rng(3).permutation(STOCKS)
    forecast = np.random.default_rng(4).normal(size=(1, 1, STOCKS))
    one = neutraliser(market)(np.array([160]), forecast)
    other = neutraliser((market[0][:, order], market[1]))(np.array([160]), forecast[..., order])
    np.testing.assert_allclose(other, one[..., order], atol=1e-10)


def test_stocks_without_a_return_that_day_do_not_bend_the_others(market: Market) -> None:
    returns = market[0].copy()
    returns[160, :5] = np.nan
    returns[:, 5] = np.nan
    forecast = np.random.default_rng(5).normal(size=(1, 1, STOCKS))
    one = neutraliser((returns, market[1]))(np.array([160]), forecast)
    odd = forecast.copy()
    odd[..., :6] = 1e3
    other = neutraliser((returns, market[1]))(np.array([160]), odd)
    np.testing.assert_allclose(other[..., 6:], one[..., 6:], atol=1e-10)
    assert np.isfinite(other).all()


def test_a_stock_listed_lately_keeps_its_forecast_and_bends_no_other(market: Market) -> None:
    forecast = np.random.default_rng(8).normal(size=(1, 1, STOCKS))
    returns = market[0].copy()
    returns[:, :2] = np.nan
    without = neutraliser((returns, market[1]))(np.array([160]), forecast)
    returns[155:, 0] = 0.01  # five days
    returns[:, 1] = 0.0  # a price that does not move
    found = neutraliser((returns, market[1]))(np.array([160]), forecast)
    np.testing.assert_allclose(found, without, atol=1e-12)
    np.testing.assert_array_equal(found[..., :2], forecast[..., :2])


def test_only_the_universe_is_regressed(market: Market) -> None:
    member = np.ones(market[0].shape, bool)
    member[160, 40:] = False
    made = Neutraliser(market[0], member, 2, True, 150)
    (found,) = made(np.array([160]), np.random.default_rng(9).normal(size=(1, 1, STOCKS)))[0]
    inside = found[:40] - found[:40].mean()
    np.testing.assert_allclose(inside @ made.exposures(160)[:40], 0, atol=1e-12)


def test_few_days_or_stocks(market: Market) -> None:
    forecast = np.random.default_rng(6).normal(size=(1, 1, STOCKS))
    many = neutraliser(market, components=20)
    assert many.exposures(21).shape == (STOCKS, 12)  # half of the days that there are
    np.testing.assert_array_equal(many(np.array([5]), forecast), forecast)
    few = Neutraliser(market[0][:, :5], None, components=2, volatility=True, days=150)
    np.testing.assert_array_equal(few(np.array([160]), forecast[..., :5]), forecast[..., :5])


def test_settings_have_exposures_of_their_own(market: Market) -> None:
    one = neutraliser(market)
    assert one.exposures(160).shape == (STOCKS, 3)
    assert replace(one, components=5).exposures(160).shape == (STOCKS, 6)


def test_nothing_is_taken_out_by_default(market: Market) -> None:
    none = neutraliser(market, components=0, volatility=False)
    forecast = np.random.default_rng(7).normal(size=(1, 1, STOCKS))
    assert none(np.array([160]), forecast) is forecast
    assert neutralise_notes(0, False, 150) == []
    assert neutralise_notes(3, False, 150) == [
        "forecasts without exposure to 3 principal components of returns of up to 150 days"
    ]
