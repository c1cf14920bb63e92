"""What a panel says of its days: who is locked at a price limit, and who can be traded."""

from __future__ import annotations

import numpy as np

from stockformer.data.panel import Panel


def panel_of(close: np.ndarray, **prices: np.ndarray) -> Panel:
    days, stocks = close.shape
    return Panel(
        dates=np.datetime64("2024-01-01") + np.arange(days),
        tickers=np.array([f"S{i}" for i in range(stocks)]),
        returns=np.vstack([np.full(stocks, np.nan), close[1:] / close[:-1] - 1]),
        factors=np.zeros((days, stocks, 0), np.float32),
        factor_names=(),
        prices={"close": close, **prices},
    )


def test_a_day_without_a_range_after_a_large_move_is_locked() -> None:
    close = np.full((5, 3), 10.0)
    close[2:, 0] = 11.0
    close[3:, 1] = 12.0  # moves as much, but has a range
    high, low = close + 0.1, close - 0.1
    high[2, 0] = low[2, 0] = 11.0
    panel = panel_of(close, high=high, low=low)
    assert np.argwhere(panel.locked(0.04)).tolist() == [[2, 0]]
    assert np.array_equal(panel.tradable(0.04), ~panel.locked(0.04))
    assert panel.tradable(0.2).all()


def test_the_move_is_from_the_last_known_close() -> None:
    close = np.array([[10.0], [np.nan], [10.1], [12.0]])
    panel = panel_of(close, high=close, low=close)
    assert panel.locked(0.04)[:, 0].tolist() == [False, False, False, True]
    assert panel.tradable(0.04)[:, 0].tolist() == [True, False, True, False]


def test_without_high_and_low_nothing_is_known_to_be_locked() -> None:
    close = np.array([[10.0], [20.0]])
    assert not panel_of(close).locked(0.04).any()
    assert panel_of(close).tradable(0.04).all()
