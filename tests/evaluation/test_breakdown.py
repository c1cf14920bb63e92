"""The rank IC by sector, volatility and size, on forecasts whose skill is in one place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from stockformer.evaluation import breakdown
from stockformer.evaluation.trading import market_of_prices, market_of_returns

STOCKS = 30
SECTORS = np.array(["bank", "oil", ""] * 10)


@pytest.fixture
def predictions(random_predictions):
    return random_predictions(dates=60, steps=2, stocks=STOCKS)


def knowing(predictions, cells):
    """The same forecasts, perfect where `cells` (S, N)."""
    label = np.nan_to_num(predictions.label)
    return replace(predictions, prediction=np.where(cells[:, None], label, predictions.prediction))


def around(predictions, calm=30):
    """A market from 40 days before the first signal on: volatile after the `calm`-th signal."""
    dates = predictions.signal_dates[0] - 40 + np.arange(110)
    returns = np.random.default_rng(0).normal(0, 0.005, (110, STOCKS))
    returns[40 + calm :] += np.random.default_rng(1).normal(0, 0.05, 110)[40 + calm :, None]
    return dates, returns


def test_skill_in_one_sector_is_found_there(predictions):
    cells = np.broadcast_to(SECTORS == "oil", (60, STOCKS))
    table = breakdown.by_sector(knowing(predictions, cells), SECTORS)
    assert set(table["sector"]) == {"bank", "oil"}  # "" is no sector
    oil, bank = (table[table["sector"] == name] for name in ("oil", "bank"))
    np.testing.assert_allclose(oil["rank_ic"].astype(float), 1.0)
    assert (bank["rank_ic"].abs() < 0.6).all()
    months = pd.DatetimeIndex(predictions.signal_dates).strftime("%Y-%m")
    assert oil.set_index("month")["n_dates"].to_dict() == months.value_counts().to_dict()
    assert oil["n_stocks"].between(5, 10).all()


def test_a_sector_of_few_stocks_has_no_rank_ic(predictions):
    sectors = np.array(["few"] * 4 + ["many"] * 26)
    assert set(breakdown.by_sector(predictions, sectors)["sector"]) == {"many"}
    assert breakdown.by_sector(predictions, np.array([""] * STOCKS)).empty


def test_skill_in_volatile_markets_is_found_there(predictions):
    dates, returns = around(predictions)
    market = market_of_returns(dates, predictions.tickers, returns, fill="close")
    cells = np.broadcast_to(np.arange(60)[:, None] >= 40, (60, STOCKS))
    table = breakdown.by_volatility(knowing(predictions, cells), market)
    assert table.index.tolist() == list(breakdown.TERCILES)
    assert table["n"].tolist() == [20, 20, 20]
    assert table["mean"].iloc[2] > 0.5 > abs(table["mean"].iloc[0])
    assert (table["from"].to_numpy()[1:] >= table["to"].to_numpy()[:-1]).all()


def test_the_volatility_of_a_date_does_not_see_later_days(predictions):
    dates, returns = around(predictions)
    before = breakdown.by_volatility(
        predictions, market_of_returns(dates, predictions.tickers, returns, fill="close")
    )
    returns[dates > predictions.signal_dates[-1]] *= 30
    after = breakdown.by_volatility(
        predictions, market_of_returns(dates, predictions.tickers, returns, fill="close")
    )
    pd.testing.assert_frame_equal(before, after)


def test_skill_in_large_stocks_is_found_there(predictions):
    dates, returns = around(predictions)
    close = 100 * np.cumprod(1 + returns, axis=0)
    volume = np.broadcast_to(10.0 ** (np.arange(STOCKS) // 10 * 2), close.shape)
    prices = {"close": close, "volume": volume.copy()}
    market = market_of_prices(
        dates, predictions.tickers, prices, fill="close", tradable=np.isfinite(close)
    )
    everywhere = replace(predictions, valid=np.ones_like(predictions.valid))
    everywhere = replace(everywhere, label=np.nan_to_num(predictions.label) + 0.0)
    cells = np.broadcast_to(np.arange(STOCKS) >= 20, (60, STOCKS))
    table = breakdown.by_size(knowing(everywhere, cells), market)
    assert table.loc["highest third", "mean"] > 0.95
    assert table.loc["lowest third", "mean"] < 0.3
    assert table.loc["highest third", "from"] > table.loc["lowest third", "to"]
    assert breakdown.by_size(predictions, replace(market, volume=None)) is None
