"""What is attainable in a simulated market, whose expected returns are known: the oracle.

S signal dates, N stocks, K days ahead. Returns are fractions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stockformer.evaluation.backtest import BASIS_POINT, Settings, excess_returns, topk_dropout
from stockformer.evaluation.predictions import Predictions, score
from stockformer.evaluation.trading import BacktestSpec, earned_steps


def oracle_rank_ic(first: Predictions, oracle: np.ndarray) -> float:
    """Rank IC of the expected next-day returns, on the cells where they are known.

    first: the model's predictions of the first step; oracle (S, N, K).
    """
    expected = oracle[:, None, :, 0]
    known = first.valid & np.isfinite(expected)
    return score(replace(first, prediction=expected, valid=known))["rank_ic"]


def oracle_excess(signal_dates: np.ndarray, oracle: np.ndarray, trading: BacktestSpec) -> float:
    """Mean daily return above the universe's, after costs, of trading the expected returns.

    oracle (S, N, K), traded as the model's forecasts are: the signal is the mean expected return
    of the days on which a purchase is usually held, after the delay.
    """
    days = holding_days(trading.settings, oracle.shape[-1])
    signal = oracle[:, :, days].mean(axis=-1)
    ledger = topk_dropout(signal, signal_dates, trading.market, trading.settings)
    return float(excess_returns(ledger.equity).mean())


def holding_days(settings: Settings, days: int) -> np.ndarray:
    """(K,) bool: the days from a purchase to its sale, if n_drop of the stocks are replaced each
    time; of the `days` after a signal, the last one if none is left after the delay."""
    ahead = np.arange(days)
    holding = settings.rebalance_days * max(1, settings.top_k // settings.n_drop)
    held: np.ndarray = earned_steps(ahead, settings.delay) & (ahead < settings.delay + holding)
    return held if held.any() else ahead == days - 1


def excess_sentence(oracle: float, model: float) -> str:
    """The model's mean daily excess return as a share of the oracle's, both after costs."""
    attainable = f"{oracle / BASIS_POINT:+z.1f} basis points a day"
    start = f"Traded in the same way, the oracle of this simulated market earns {attainable}"
    if oracle <= 0:
        return f"{start} over the universe after costs: nothing is attainable."
    reached = f"{model / oracle:.0%}" if model > 0 else "none"
    return f"{start} over the universe after costs; the model reaches {reached} of it."
