"""What is attainable in a simulated market: by rank IC, and traded by the model's own strategy."""

from __future__ import annotations

import numpy as np
import pytest
from small_data import backtest_settings

from stockformer.evaluation.backtest import Settings
from stockformer.evaluation.oracle import excess_sentence, holding_days, oracle_excess
from stockformer.evaluation.trading import BacktestSpec, market_of_returns

DAYS, STOCKS, AHEAD = 40, 6, 4


def trading(returns: np.ndarray, **changes: float) -> BacktestSpec:
    dates = np.datetime64("2024-01-01") + np.arange(len(returns))
    tickers = np.array([f"S{i}" for i in range(STOCKS)])
    settings = backtest_settings(top_k=1, n_drop=1, **changes)
    where = market_of_returns(dates, tickers, returns, fill="close")
    return BacktestSpec(where, settings, start_offsets=1, participation_rate=0.05)


@pytest.fixture
def returns() -> np.ndarray:
    return np.random.default_rng(2).normal(0, 0.02, (DAYS + AHEAD, STOCKS))


def known_ahead(returns: np.ndarray) -> np.ndarray:
    """(S, N, K) the returns themselves of the next days, as an oracle."""
    return np.stack([returns[1 + k : 1 + k + DAYS] for k in range(AHEAD)], axis=-1)


def test_the_oracle_trades_what_is_earned_after_the_delay(returns: np.ndarray) -> None:
    """One stock, replaced daily, bought a day later: it earns the best return of the day after."""
    spec = trading(returns, delay=1, buy_cost=0.0, sell_cost=0.0, risk_degree=1.0)
    found = oracle_excess(spec.market.dates[:DAYS], known_ahead(returns), spec)
    best = returns[2 : DAYS + 1]  # bought at the close of the row before
    by_hand = np.append(0.0, best.max(axis=1) - best.mean(axis=1)).mean()
    assert found == pytest.approx(by_hand, rel=1e-6)
    same_day = known_ahead(returns)[:, :, :1]  # knows only the day before the trade
    assert oracle_excess(spec.market.dates[:DAYS], same_day, spec) < 0.5 * by_hand


def test_costs_are_taken_off_the_oracle_too(returns: np.ndarray) -> None:
    free = trading(returns, delay=1, buy_cost=0.0, sell_cost=0.0)
    dear = trading(returns, delay=1, buy_cost=0.002, sell_cost=0.002)
    found = [
        oracle_excess(spec.market.dates[:DAYS], known_ahead(returns), spec) for spec in (free, dear)
    ]
    assert found[0] - found[1] > 0.002


@pytest.mark.parametrize(
    ("changes", "days"),
    [
        ({"top_k": 6, "n_drop": 2, "delay": 1}, [1, 2, 3]),
        ({"top_k": 6, "n_drop": 2, "delay": 0}, [0, 1, 2]),
        ({"top_k": 6, "n_drop": 2, "delay": 1, "rebalance_days": 3}, [1, 2, 3, 4, 5]),
        ({"top_k": 2, "n_drop": 4, "delay": 2}, [2]),
        ({"top_k": 6, "n_drop": 2, "delay": 9}, [5]),
    ],
)
def test_a_purchase_is_held_until_all_stocks_have_been_replaced(
    changes: dict[str, int], days: list[int]
) -> None:
    settings: Settings = backtest_settings(**changes)
    assert np.flatnonzero(holding_days(settings, 6)).tolist() == days


def test_the_sentence_gives_the_share_that_the_model_reaches() -> None:
    start = "Traded in the same way, the oracle of this simulated market earns "
    assert excess_sentence(0.0016, 0.0008) == (
        f"{start}+16.0 basis points a day over the universe after costs; "
        "the model reaches 50% of it."
    )
    assert excess_sentence(0.0016, -0.0001).endswith("; the model reaches none of it.")
    assert excess_sentence(-0.0003, 0.001).endswith(
        "-3.0 basis points a day over the universe after costs: nothing is attainable."
    )
