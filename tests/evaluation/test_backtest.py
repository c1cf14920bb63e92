"""The backtest against qlib's ledger, against arithmetic by hand, and against its own books."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from small_data import backtest_settings

from stockformer.evaluation.backtest import (
    Market,
    capacity,
    dropout,
    figures,
    largest_imbalance,
    sector_exposure,
    topk_dropout,
)


def market_of(close: np.ndarray, **others: np.ndarray) -> Market:
    """A market traded at its closes wherever it has one."""
    close = np.asarray(close, float)
    return Market(
        dates=np.datetime64("2024-01-01") + np.arange(len(close)),
        tickers=np.array([f"S{stock:03d}" for stock in range(close.shape[1])]),
        close=close,
        **{"fill": close, "tradable": np.isfinite(close)} | others,
    )


@pytest.fixture
def random_market():
    """Makes a market with gaps and locked days, and a signal for each of its dates."""

    def make(dates: int = 40, stocks: int = 30, seed: int = 0) -> tuple[Market, np.ndarray]:
        rng = np.random.default_rng(seed)
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, (dates, stocks)), axis=0))
        close[rng.random(close.shape) < 0.03] = np.nan
        fill = close * np.exp(rng.normal(0, 0.005, close.shape))
        free = np.isfinite(close) & (rng.random(close.shape) > 0.05)
        volume = rng.integers(1_000, 100_000, close.shape).astype(float)
        signal = rng.normal(size=close.shape)
        signal[rng.random(close.shape) < 0.05] = np.nan
        return market_of(close, fill=fill, tradable=free, volume=volume), signal

    return make


SMALL = backtest_settings(top_k=5, n_drop=2)


@pytest.fixture(scope="session")
def golden(shared, nifty):
    """qlib's run: the market to its last day, the signal, and its two ledgers."""
    close = nifty["close"].dropna(axis=1)
    signal = -(close / close.shift(5) - 1).round(6).iloc[300:420].to_numpy()
    dates = close.index[:420].to_numpy().astype("datetime64[D]")
    prices = close.iloc[:420].to_numpy()
    market = replace(market_of(prices), dates=dates, tickers=close.columns.to_numpy())
    positions = pd.read_parquet(shared / "golden/topk_dropout_positions.parquet")
    positions["date"] = pd.to_datetime(positions["date"])
    account = pd.read_csv(
        shared / "golden/topk_dropout_account.csv", index_col="date", parse_dates=["date"]
    )
    return market, signal, positions, account


def test_reproduces_qlib(golden):
    market, signal, positions, account = golden
    ours = topk_dropout(signal, market.dates[300:], market, backtest_settings())
    both = ours.positions.merge(
        positions, on=["date", "ticker"], how="outer", suffixes=("", "_qlib"), indicator=True
    )
    assert len(both) == 2380
    assert (both["_merge"] == "both").all()
    np.testing.assert_allclose(both["shares"], both["shares_qlib"], rtol=1e-4)
    pd.testing.assert_index_equal(ours.equity.index, account.index, exact=False)
    for column, theirs in (
        ("account", "account"),
        ("cash", "cash"),
        ("value", "value"),
        ("turnover", "turnover"),
        ("cost", "cost"),
        ("gross_return", "return"),
    ):
        np.testing.assert_allclose(
            ours.equity[column], account[theirs], rtol=1e-4, atol=1e-7, err_msg=column
        )
    assert largest_imbalance(ours) < 1e-9


def test_dropout_by_hand():
    signal = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    nothing = np.zeros(6, bool)
    sell, buy = dropout(signal, nothing, top_k=3, n_drop=1)
    assert (sell.tolist(), buy.tolist()) == ([], [0, 1, 2])
    # Held 1, 3, 4; candidate 0; the worst of the four is 4, which is held.
    held = np.isin(np.arange(6), [1, 3, 4])
    sell, buy = dropout(signal, held, top_k=3, n_drop=1)
    assert (sell.tolist(), buy.tolist()) == ([4], [0])
    # Held are the best: the candidates are the worst of the union, so nothing is dropped.
    held = np.isin(np.arange(6), [0, 1, 2])
    sell, buy = dropout(signal, held, top_k=3, n_drop=2)
    assert (sell.tolist(), buy.tolist()) == ([], [])
    # One held too few: filled up without a sale.
    held = np.isin(np.arange(6), [0, 1])
    sell, buy = dropout(signal, held, top_k=3, n_drop=1)
    assert (sell.tolist(), buy.tolist()) == ([], [2])
    sell, buy = dropout(np.arange(50) % 2, np.zeros(50, bool), top_k=3, n_drop=1)
    assert buy.tolist() == [1, 3, 5]
    # No opinion on a held stock ranks it last; none on another keeps it from being bought.
    blind = np.where(np.isin(np.arange(6), [0, 1]), np.nan, signal)
    sell, buy = dropout(blind, np.isin(np.arange(6), [1, 2, 3]), top_k=3, n_drop=1)
    assert (sell.tolist(), buy.tolist()) == ([1], [4])
    # A holding that cannot be sold, as after a delisting, does not keep the others from it.
    sellable = np.arange(6) != 1
    held = np.isin(np.arange(6), [1, 3, 5])
    sell, buy = dropout(blind, held, top_k=3, n_drop=1, sellable=sellable)
    assert (sell.tolist(), buy.tolist()) == ([5], [2])


@pytest.mark.parametrize("seed", range(20))
def test_no_stock_is_dropped_for_a_worse_one(seed):
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=50).round(1)
    held = np.isin(np.arange(50), rng.choice(50, 10, replace=False))
    sell, buy = dropout(signal, held, top_k=10, n_drop=3)
    assert len(sell) == len(buy) <= 3
    assert held[sell].all()
    assert not held[buy].any()
    if len(sell):
        assert signal[buy].min() >= signal[sell].max()


def test_ledger_by_hand():
    """One stock of two is held; bought at 10, it rises to 12 and is replaced by the other at 5."""
    settings = backtest_settings(
        top_k=1,
        n_drop=1,
        capital=1000.0,
        risk_degree=0.5,
        buy_cost=0.01,
        sell_cost=0.02,
        slippage_basis_points=100,
    )
    close = [[10.0, 5.0], [10.0, 5.0], [12.0, 5.0]]
    signal = np.array([[2.0, 1.0], [1.0, 2.0]])
    market = market_of(close)
    run = topk_dropout(signal, market.dates[:2], market, settings)
    bought = 500 / 10.1
    cash = 1000 - 500 * 1.01
    first, second = run.equity.iloc[0], run.equity.iloc[1]
    assert first["cash"] == pytest.approx(cash)
    assert first["account"] == pytest.approx(cash + bought * 10)
    assert first["cost"] == pytest.approx(5 / 1000)
    assert first["slippage"] == pytest.approx(bought * 0.1 / 1000)
    assert first["gross_return"] == pytest.approx(0.0)
    assert first["turnover"] == pytest.approx(0.5)
    proceeds = bought * 12 * 0.99
    cash += proceeds * 0.98
    assert second["cash"] == pytest.approx(cash - cash / 2 * 1.01)
    assert second["value"] == pytest.approx(cash / 2 / 5.05 * 5)
    assert second["gross_return"] == pytest.approx(bought * 2 / first["account"])
    assert run.trades["side"].tolist() == ["buy", "sell", "buy"]
    assert run.trades["ticker"].tolist() == ["S000", "S000", "S001"]
    assert run.positions["ticker"].tolist() == ["S000", "S001"]
    assert run.equity["benchmark"].tolist() == pytest.approx([0.0, 0.1])


@pytest.mark.parametrize("seed", range(10))
def test_books_balance(random_market, seed):
    market, signal = random_market(seed=seed)
    settings = replace(SMALL, slippage_basis_points=7.0, rebalance_days=1 + seed % 3)
    run = topk_dropout(signal, market.dates, market, settings, offset=seed % 4)
    assert largest_imbalance(run) < 1e-9
    assert (run.equity["cash"] > 0).all()
    assert (run.positions["shares"] > 0).all()
    free = pd.DataFrame(market.tradable, pd.DatetimeIndex(market.dates), market.tickers).stack()
    traded = pd.MultiIndex.from_frame(run.trades[["date", "ticker"]])
    assert free.reindex(traded).all()


def test_imbalance_is_noticed(random_market):
    market, signal = random_market()
    run = topk_dropout(signal, market.dates, market, SMALL)
    for name, column in (("trades", "shares"), ("equity", "cash"), ("positions", "shares")):
        frame = getattr(run, name).copy()
        frame.iloc[5, frame.columns.get_loc(column)] *= 1.001
        assert largest_imbalance(replace(run, **{name: frame})) > 1e-6, name


def test_signal_is_traded_on_the_next_bar(random_market):
    market, signal = random_market()
    before = topk_dropout(signal, market.dates, market, SMALL)
    assert before.equity.index[0] == pd.Timestamp(market.dates[1])
    later = signal.copy()
    later[20:] = np.random.default_rng(9).normal(size=later[20:].shape)
    after = topk_dropout(later, market.dates, market, SMALL)
    same = before.equity.index <= pd.Timestamp(market.dates[20])
    pd.testing.assert_frame_equal(before.equity[same], after.equity[same])
    assert not before.equity[~same].equals(after.equity[~same])
    # Knowing the next close is worth nothing by default, and a fortune on the signal's own bar.
    known = np.vstack([market.close[1:] / market.close[:-1] - 1, np.full((1, 30), np.nan)])
    closes = replace(market, fill=market.close)
    honest, cheating = (
        figures(topk_dropout(known, market.dates, closes, replace(SMALL, delay=delay)).equity)
        for delay in (1, 0)
    )
    assert cheating["annual_sharpe"] > 5 + honest["annual_sharpe"]


def test_locked_stock_is_neither_bought_nor_sold():
    close = np.full((5, 3), 10.0)
    close[2:, 0] = 11.0
    close[3:, 1] = 12.0
    free = np.isfinite(close)
    free[2, 0] = False
    settings = backtest_settings(top_k=1, n_drop=1)
    wanted, unwanted = [2.0, 1.0, 0.0], [0.0, 1.0, 2.0]
    market = market_of(close, tradable=free)
    # Bought on day 1; to be sold on day 2, where it is locked; sold on day 3.
    run = topk_dropout(np.array([wanted, unwanted, unwanted]), market.dates[:3], market, settings)
    sold = run.trades[run.trades["side"] == "sell"]
    assert sold["date"].tolist() == [pd.Timestamp(market.dates[3])]
    # Wanted on day 2, where it is locked: the cash stays until day 3.
    run = topk_dropout(np.array([wanted, wanted]), market.dates[1:3], market, settings)
    assert run.equity["n_held"].tolist() == [0, 1]
    assert run.equity["turnover"].iloc[0] == 0.0
    # Of two to buy one is locked: the other gets its half of the cash, not all of it.
    pair = replace(settings, top_k=2)
    run = topk_dropout(np.array([wanted]), market.dates[1:2], market, pair)
    assert run.equity["turnover"].iloc[0] == pytest.approx(0.95 / 2)


def test_stock_without_a_price_keeps_its_value():
    close = np.full((4, 3), 10.0)
    close[2, 0] = np.nan
    close[3, 0] = 12.0
    market = market_of(close)
    signal = np.tile([2.0, 1.0, 0.0], (3, 1))
    run = topk_dropout(signal, market.dates[:3], market, backtest_settings(top_k=1, n_drop=1))
    assert run.equity["net_return"].iloc[1] == pytest.approx(0.0)
    gain = run.positions["shares"].iloc[0] * 2 / run.equity["account"].iloc[1]
    assert run.equity["gross_return"].iloc[2] == pytest.approx(gain)
    assert run.equity["benchmark"].tolist() == pytest.approx([0.0, 0.0, 0.2 / 3])
    # Listed later: without a price on the signal date there is no signal.
    late = np.full((3, 3), 10.0)
    late[0, 0] = np.nan
    market = market_of(late)
    run = topk_dropout(signal[:1], market.dates[:1], market, backtest_settings(top_k=1, n_drop=1))
    assert run.positions["ticker"].tolist() == ["S001"]


def test_rebalancing_calendar_and_offsets(random_market):
    market, signal = random_market()
    settings = replace(SMALL, rebalance_days=5)
    free = replace(market, tradable=np.isfinite(market.close) & np.isfinite(market.fill))
    run = topk_dropout(signal, market.dates, free, settings, offset=2)
    traded = sorted(set(run.trades["date"]))
    assert traded[0] == pd.Timestamp(market.dates[3])
    assert {(later - earlier).days for earlier, later in pairwise(traded)} == {5}


def test_figures_by_hand(random_market):
    """Empyrical's figures, on the installed pandas and NumPy, against their formulas."""
    market, signal = random_market()
    index = np.nan_to_num(market.close, nan=100.0).mean(axis=1)
    run = topk_dropout(signal, market.dates, replace(market, index=index), SMALL)
    values = figures(run.equity)
    net = run.equity["net_return"].to_numpy()
    excess = net - run.equity["benchmark"].to_numpy()
    wealth = np.concatenate(([1.0], np.cumprod(1 + net)))
    drawdown = (wealth / np.maximum.accumulate(wealth) - 1).min()
    annual = wealth[-1] ** (252 / len(net)) - 1
    below = np.sqrt((np.minimum(net, 0) ** 2).mean())
    expected = {
        "n_dates": 39,
        "total_return": run.equity["account"].iloc[-1] / 1e8 - 1,
        "annual_return": annual,
        "annual_volatility": net.std(ddof=1) * np.sqrt(252),
        "annual_sharpe": net.mean() / net.std(ddof=1) * np.sqrt(252),
        "annual_sortino": net.mean() / below * np.sqrt(252),
        "max_drawdown": drawdown,
        "calmar": annual / -drawdown,
        "turnover": run.equity["turnover"].mean(),
        "cost": run.equity["cost"].mean(),
        "benchmark_total_return": np.prod(1 + net - excess) - 1,
        "annual_excess_return": excess.mean() * 252,
        "annual_information_ratio": excess.mean() / excess.std(ddof=1) * np.sqrt(252),
        "index_total_return": index[-1] / index[1] - 1,
    }
    assert values == pytest.approx(expected)
    without = figures(topk_dropout(signal, market.dates, market, SMALL).equity)
    assert np.isnan(without["index_total_return"])


@pytest.mark.filterwarnings("error")
def test_figures_of_a_day_or_of_nothing_earned_have_no_ratio():
    market = market_of(np.full((4, 3), 10.0))
    free = replace(SMALL, top_k=1, n_drop=1, buy_cost=0.0, sell_cost=0.0)
    for days in (1, 3):
        run = topk_dropout(np.tile([3.0, 2.0, 1.0], (days, 1)), market.dates[:days], market, free)
        values = figures(run.equity)
        assert values["total_return"] == 0.0
        assert np.isnan(values["annual_sharpe"])
        assert np.isnan(values["annual_information_ratio"])


def test_sector_exposure_and_cash_make_the_account(random_market):
    market, signal = random_market()
    run = topk_dropout(signal, market.dates, market, SMALL)
    sectors = {ticker: f"sector {ticker[-1]}" for ticker in market.tickers}
    exposure = sector_exposure(run, sectors)
    cash = run.equity["cash"] / run.equity["account"]
    np.testing.assert_allclose(exposure.sum(axis=1) + cash, 1.0)
    row = run.positions.iloc[0]
    mine = run.positions[
        (run.positions["date"] == row["date"])
        & (run.positions["ticker"].map(sectors) == sectors[row["ticker"]])
    ]
    assert exposure.loc[row["date"], sectors[row["ticker"]]] == pytest.approx(
        mine["value"].sum() / run.equity["account"].iloc[0]
    )
    with pytest.raises(ValueError, match="no sector for"):
        sector_exposure(run, {})


def test_capacity_is_where_the_tightest_trade_fills_its_share():
    close = np.full((3, 3), 10.0)
    volume = np.full((3, 3), 1000.0)
    volume[1, 0] = 500.0
    market = market_of(close, volume=volume)
    settings = backtest_settings(top_k=2, n_drop=1, capital=1000.0, risk_degree=0.9)
    run = topk_dropout(np.array([[3.0, 2.0, 1.0]]), market.dates[:1], market, settings)
    # 45 shares of each; a tenth of 500 shares allows 50 / 45 of the capital, of 1000 twice that.
    sizes = capacity(run, market, participation_rate=0.1)
    assert sizes["all_trades"] == pytest.approx(1000 * 50 / 45)
    assert sizes["most_trades"] == pytest.approx(1000 * 50 / 45 * 1.05)
    with pytest.raises(ValueError, match="no volumes"):
        capacity(run, market_of(close), participation_rate=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 0}, "top_k = 0 is out of range"),
        ({"delay": -1}, "delay = -1"),
        ({"risk_degree": 1.0}, "risk_degree = 1.0"),
        ({"slippage_basis_points": -5.0}, "slippage_basis_points = -5.0"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        backtest_settings(**change)


def test_misfits_are_refused(random_market):
    market, signal = random_market()
    with pytest.raises(ValueError, match=r"signal has shape \(39, 30\), expected \(40, 30\)"):
        topk_dropout(signal[1:], market.dates, market, SMALL)
    with pytest.raises(ValueError, match="at most the 30 stocks"):
        topk_dropout(signal, market.dates, market, backtest_settings(top_k=28))
    with pytest.raises(ValueError, match="2025-01-01 is not in the market"):
        topk_dropout(signal, market.dates + 366, market, SMALL)
    with pytest.raises(ValueError, match="not strictly increasing"):
        topk_dropout(signal, market.dates[::-1], market, SMALL)
    with pytest.raises(ValueError, match="signals can be traded at offset 39"):
        topk_dropout(signal, market.dates, market, SMALL, offset=39)
    with pytest.raises(ValueError, match="no price to fill at"):
        replace(market, tradable=np.ones_like(market.tradable))
    with pytest.raises(ValueError, match="volume has shape"):
        replace(market, volume=signal[1:])


def test_nothing_is_held_over_a_gap_in_the_signals(random_market):
    """As two backtests, the second begun with what the first left after selling all."""
    market, signal = random_market()
    market = replace(market, index=np.linspace(100.0, 140.0, 40))
    settings = replace(SMALL, slippage_basis_points=5.0)
    known = np.r_[0:12, 20:39]
    whole = topk_dropout(signal[known], market.dates[known], market, settings)
    days = whole.equity.index.to_numpy().astype("datetime64[D]")
    np.testing.assert_array_equal(days, market.dates[known + 1])
    assert largest_imbalance(whole) < 1e-9
    last = pd.Timestamp(market.dates[12])
    assert whole.equity.loc[last, "n_held"] == whole.equity.loc[last, "value"] == 0
    before = topk_dropout(signal[:12], market.dates[:12], market, settings).equity
    pd.testing.assert_frame_equal(whole.equity.iloc[:11], before.iloc[:11])
    sold = whole.trades[whole.trades["date"] == last]
    assert set(sold["side"]) == {"sell"}
    assert len(sold) == before["n_held"].iloc[10]
    again = replace(settings, capital=whole.equity.loc[last, "cash"])
    after = topk_dropout(signal[20:39], market.dates[20:39], market, again).equity
    pd.testing.assert_frame_equal(whole.equity.iloc[12:], after)
    assert after["index"].iloc[0] == 0


def test_what_is_locked_before_a_gap_is_sold_at_its_last_close():
    close = np.full((8, 3), 10.0)
    close[2, 0] = np.nan
    market = market_of(close)
    signal = np.tile([2.0, 1.0, 0.0], (4, 1))
    run = topk_dropout(
        signal, market.dates[[0, 1, 5, 6]], market, backtest_settings(top_k=1, n_drop=1)
    )
    (sale,) = run.trades[run.trades["side"] == "sell"].to_dict("records")
    assert (sale["ticker"], sale["price"]) == ("S000", 10.0)
    assert largest_imbalance(run) < 1e-9
