"""The parts of the excess return add up, and each is what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_data import backtest_settings

from stockformer.evaluation.backtest import topk_dropout, universe_returns
from stockformer.evaluation.money import PARTS, daily_parts, top_k_weights, waterfall
from stockformer.evaluation.trading import market_of_prices

DATES = np.datetime64("2024-01-01") + np.arange(40)
TICKERS = np.array([f"S{i:02d}" for i in range(20)])
SETTINGS = backtest_settings(top_k=5, n_drop=2, slippage_basis_points=4.0)


def market(fill="close", missing=0.0, seed=0):
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0.001, 0.02, (40, 20)), axis=0))
    close[random.random(close.shape) < missing] = np.nan
    prices = {"close": close, "open": close * np.exp(random.normal(0, 0.005, close.shape))}
    member = random.random(close.shape) > missing
    return market_of_prices(
        DATES, TICKERS, prices, fill=fill, tradable=np.isfinite(close), member=member
    )


def parts_of(where, signal, rows, **settings):
    chosen = replace(SETTINGS, **settings)
    ledger = topk_dropout(signal, DATES[rows], where, chosen)
    return daily_parts(signal, DATES[rows], where, ledger), ledger


@pytest.mark.parametrize("fill", ["close", "open"])
@pytest.mark.parametrize("delay", [1, 2])
@pytest.mark.parametrize("rebalance_days", [1, 3])
def test_the_parts_add_up_to_the_net_excess(fill, delay, rebalance_days):
    rows = np.r_[3:17, 20:38]  # with a gap
    signal = np.random.default_rng(1).normal(size=(len(rows), 20))
    where = market(fill, missing=0.1)
    parts, ledger = parts_of(where, signal, rows, delay=delay, rebalance_days=rebalance_days)
    table = waterfall(parts)
    excess = ledger.equity["net_return"] - ledger.equity["benchmark"]
    assert table["net"].mean == pytest.approx(excess.mean(), abs=1e-15)
    assert abs(sum(table[part].mean for part in PARTS) - table["net"].mean) < 1e-12
    np.testing.assert_allclose(parts[list(PARTS)].sum(axis=1), parts["net"], rtol=0, atol=1e-12)


def test_day_0_is_what_the_top_k_earned_from_the_signals_close():
    where = market()
    ahead = where.close[1:] / where.close[:-1] - 1
    signal = ahead[3:33]  # knows the next day
    parts, _ = parts_of(where, signal, np.arange(3, 33))
    best = np.sort(signal, axis=1)[:, -5:].mean(axis=1) - universe_returns(where)[4:34]
    # The ledger's first date earns nothing, each other what the date before traded.
    np.testing.assert_allclose(parts["day_0"], [0.0, *best[:-1]], atol=1e-12)
    # A day late the knowledge is worth nothing.
    assert parts["day_0"].mean() > 0.02 > abs((parts["day_0"] + parts["delay"]).mean())


def test_without_delay_costs_cash_and_with_daily_renewal_only_day_0_is_left():
    where = market()
    signal = np.random.default_rng(2).normal(size=(30, 20))
    free = {"buy_cost": 0.0, "sell_cost": 0.0, "slippage_basis_points": 0.0}
    parts, ledger = parts_of(
        where, signal, np.arange(3, 33), delay=0, n_drop=15, risk_degree=1.0, **free
    )
    means = parts.mean()
    assert means["delay"] == means["costs"] == 0.0
    assert abs(means["cash"]) < 1e-12
    # What is left of holding is the drift of the weights, and the picks that stayed.
    assert abs(means["holding"]) < 1e-3 < abs(parts["day_0"]).max()
    assert ledger.equity["turnover"].mean() > 0.5


def test_cash_costs_the_universes_return():
    where = market()
    signal = np.tile(np.arange(20.0), (30, 1))  # the same stocks for ever
    parts, ledger = parts_of(where, signal, np.arange(3, 33), risk_degree=0.5)
    share = (ledger.equity["cash"] / ledger.equity["account"]).shift().fillna(0.0)
    np.testing.assert_allclose(
        parts["cash"].iloc[1:], (-share * ledger.equity["benchmark"]).iloc[1:], atol=1e-15
    )


def test_the_top_k_are_those_known_the_earlier_stock_first_if_tied():
    signal = np.array([[1.0, 3.0, 3.0, np.nan], [np.nan] * 4, [np.nan, 2.0, np.nan, np.nan]])
    np.testing.assert_allclose(top_k_weights(signal, 1), [[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_allclose(top_k_weights(signal, 2)[0], [0, 0.5, 0.5, 0])
