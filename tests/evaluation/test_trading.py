"""The backtest of an evaluation: markets, the traded signal, variants, start dates, JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_data import backtest_settings

from stockformer.evaluation.backtest import (
    capacity,
    figures,
    largest_imbalance,
    topk_dropout,
)
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.record import plain
from stockformer.evaluation.statistics import estimate
from stockformer.evaluation.trading import (
    BacktestSpec,
    daily_returns,
    doubled_costs,
    excess_verdict,
    gap_notes,
    gaps_of_index,
    market_of_prices,
    market_of_returns,
    signal_of,
    sizes,
    trade,
)

SETTINGS = backtest_settings(top_k=5, n_drop=2, slippage_basis_points=3.0)


@pytest.fixture
def trading(random_predictions):
    """A market of prices around the predictions' dates, and how it is traded."""
    predictions = random_predictions(dates=12, steps=1, stocks=30)
    random = np.random.default_rng(3)
    dates = predictions.signal_dates[0] - 5 + np.arange(25)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.02, (25, 30)), axis=0))
    prices = {
        "open": close * np.exp(random.normal(0, 0.003, close.shape)),
        "high": close * 1.02,
        "low": close * 0.98,
        "close": close,
        "volume": random.integers(1_000, 9_000, close.shape).astype(float),
    }
    sectors = np.array(["bank", "oil", ""] * 10)
    market = market_of_prices(
        dates, predictions.tickers, prices, fill="close", tradable=np.isfinite(close)
    )
    return predictions, BacktestSpec(
        market, SETTINGS, start_offsets=4, participation_rate=0.05, sectors=sectors
    )


def test_every_figure_also_a_day_later_and_at_twice_the_cost(trading):
    predictions, where = trading
    traded = trade(predictions, where)
    signal = predictions.prediction[:, 0]
    expected = {
        "base": SETTINGS,
        "one_day_later": replace(SETTINGS, delay=2),
        "doubled_costs": replace(
            SETTINGS, buy_cost=0.00238, sell_cost=0.00208, slippage_basis_points=6.0
        ),
    }
    assert doubled_costs(SETTINGS) == expected["doubled_costs"]
    assert list(traded.figures.index) == list(expected)
    for name, settings in expected.items():
        run = topk_dropout(signal, predictions.signal_dates, where.market, settings)
        assert traded.figures.loc[name].to_dict() == pytest.approx(
            figures(run.equity), nan_ok=True
        ), name
    assert traded.figures.loc["doubled_costs", "cost"] > 1.9 * traded.figures.loc["base", "cost"]
    assert largest_imbalance(traded.ledger) < 1e-9
    assert traded.capacity == capacity(traded.ledger, where.market, 0.05)
    assert set(traded.sectors) == {"bank", "oil", "unknown"}
    cash = (traded.ledger.equity["cash"] / traded.ledger.equity["account"]).mean()
    assert sum(traded.sectors.values()) + cash == pytest.approx(1)


def test_start_dates_are_those_of_a_rebalancing_period(trading):
    predictions, where = trading
    assert (
        trade(predictions, where).start_offsets is None
    )  # each day is a start: nothing to compare
    slow = replace(where, settings=replace(SETTINGS, rebalance_days=3), start_offsets=20)
    offsets = trade(predictions, slow).start_offsets
    assert offsets.index.tolist() == [0, 1, 2]
    for offset in (0, 2):
        run = topk_dropout(
            predictions.prediction[:, 0],
            predictions.signal_dates,
            where.market,
            slow.settings,
            offset=offset,
        )
        assert offsets.loc[offset].to_dict() == pytest.approx(figures(run.equity), nan_ok=True)
    assert len(trade(predictions, replace(slow, start_offsets=2)).start_offsets) == 2
    assert "started on 3 days of a rebalancing period" in "".join(trade(predictions, slow).lines())


def test_the_excess_over_the_universe_is_tested_by_date(trading):
    predictions, where = trading
    traded = trade(predictions, where)
    equity = traded.ledger.equity
    assert traded.excess["base"] == estimate(equity["net_return"] - equity["benchmark"])
    assert traded.excess["doubled_costs"].mean < traded.excess["base"].mean
    assert daily_returns(predictions, where)["net_return"].equals(equity["net_return"])


@pytest.mark.parametrize(
    ("mean", "days", "words"),
    [
        (0.004, 100, ": more than the universe."),
        (-0.004, 100, ": less than the universe."),
        (0.0001, 100, ": not significantly different from the universe; detectable from "),
        (0.004, 19, " over 19 days, too few to conclude."),
    ],
)
def test_what_the_excess_came_to_in_a_sentence(mean, days, words):
    noise = np.random.default_rng(0).normal(0, 0.005, days)
    test = estimate(mean + noise - noise.mean())
    sentence = excess_verdict(test)
    start = f"{mean * 1e4:+.1f} basis points a day"
    assert sentence.startswith(f"Traded, after costs, minus the equal-weight universe: {start}")
    assert words in sentence


def test_a_gap_in_the_dates_is_named(trading):
    predictions, where = trading
    dates = where.market.dates
    assert gap_notes(predictions, dates) == []
    known = np.r_[0:4, 7:12]
    kept = {
        name: getattr(predictions, name)[known]
        for name in Predictions.__dataclass_fields__
        if name != "tickers"
    }
    (said,) = gap_notes(replace(predictions, **kept), dates)
    assert said.startswith("gap in the test dates: no forecast on 3 market days between 2024-01-04")
    days = trade(replace(predictions, **kept), where).ledger.equity.index
    assert len(days) == 9


def test_the_signal_is_of_the_steps_that_can_still_be_earned(random_predictions, trading):
    _, where = trading
    two = random_predictions(dates=12, steps=3, stocks=30)
    np.testing.assert_array_equal(signal_of(two, where), two.prediction[:, 1:].mean(axis=1))
    now = replace(where, settings=replace(SETTINGS, delay=0))
    np.testing.assert_array_equal(signal_of(two, now), two.prediction.mean(axis=1))
    late = replace(where, settings=replace(SETTINGS, delay=9))
    np.testing.assert_array_equal(signal_of(two, late), two.prediction[:, 2])
    # Whether a target became known later has no say in what is bought.
    hidden = replace(two, valid=np.zeros_like(two.valid), label=np.full(two.label.shape, np.nan))
    np.testing.assert_array_equal(signal_of(hidden, where), signal_of(two, where))


def test_who_is_no_member_on_the_signal_date_is_not_bought(trading):
    predictions, where = trading
    member = np.ones(where.market.close.shape, dtype=bool)
    member[5:11, :20] = False
    market = replace(where.market, member=member)
    traded = trade(predictions, replace(where, market=market))
    bought = traded.ledger.trades[traded.ledger.trades["side"] == "buy"]
    early = bought[bought["date"] <= pd.Timestamp(predictions.signal_dates[6])]
    assert len(early)
    assert set(early["ticker"]) <= set(predictions.tickers[20:])
    later = bought[bought["date"] > pd.Timestamp(predictions.signal_dates[6])]
    assert set(later["ticker"]) & set(predictions.tickers[:20])
    close, day = market.close, 8
    members = close[day, 20:] / close[day - 1, 20:] - 1
    benchmark = traded.ledger.equity["benchmark"]
    assert benchmark[pd.Timestamp(market.dates[day])] == pytest.approx(members.mean())


def test_a_market_of_returns_earns_them(trading):
    predictions, where = trading
    close = where.market.close
    returns = np.vstack([np.full((1, 30), np.nan), close[1:] / close[:-1] - 1])
    market = market_of_returns(where.market.dates, predictions.tickers, returns, fill="close")
    ours = trade(predictions, replace(where, market=market))
    theirs = trade(predictions, where)
    assert ours.figures.loc["base"].to_dict() == pytest.approx(
        theirs.figures.loc["base"].to_dict(), nan_ok=True
    )
    assert ours.capacity is None
    returns[9, 4] = np.nan
    gap = market_of_returns(where.market.dates, predictions.tickers, returns, fill="close")
    assert not gap.tradable[9, 4]
    assert gap.close[10, 4] / gap.close[8, 4] == pytest.approx(1 + returns[10, 4])
    with pytest.raises(ValueError, match=r"backtest\.fill=open: the data set has returns only"):
        market_of_returns(where.market.dates, predictions.tickers, returns, fill="open")


def test_a_market_of_prices(trading):
    _, where = trading
    dates, tickers, close = where.market.dates, where.market.tickers, where.market.close
    prices = {"close": close.copy(), "open": close * 1.01}
    prices["open"][3, 2] = np.nan
    known = np.isfinite(close)
    market = market_of_prices(dates, tickers, prices, fill="open", tradable=known)
    assert market.fill is prices["open"]
    assert not market.tradable[3, 2]
    assert market.tradable.sum() == close.size - 1
    assert market.volume is None
    with pytest.raises(ValueError, match=r"backtest\.fill=open: .* only close"):
        market_of_prices(dates, tickers, {"close": close}, fill="open", tradable=known)


@pytest.mark.parametrize(
    ("wanted", "stocks", "expected"),
    [
        ((None, None), 500, (20, 4)),
        ((None, None), 60, (20, 4)),
        ((None, None), 30, (10, 2)),
        ((None, None), 2, (1, 1)),
        ((50, None), 191, (50, 10)),
        ((None, 2), 191, (20, 2)),
    ],
)
def test_sizes_scale_with_the_stocks(wanted, stocks, expected):
    assert sizes(*wanted, stocks) == expected


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"backtest\.top_k=20, .*n_drop=4: .* the 23 stocks"):
        sizes(20, None, 23)


def test_an_index_is_compared_with_where_it_is_known(trading):
    predictions, where = trading
    index = 100 * 1.01 ** np.arange(25)
    where = replace(where, market=replace(where.market, index=index))
    known = trade(predictions, where)
    assert known.benchmarks.loc["index", "total_return"] == pytest.approx(1.01**11 - 1)
    assert (
        gaps_of_index(
            known.returns.index, replace(where, market=replace(where.market, index=index))
        )
        == []
    )
    index[:9] = np.nan
    unknown = trade(predictions, where)
    assert list(unknown.benchmarks.index) == ["universe"]
    said = gaps_of_index(
        unknown.returns.index, replace(where, market=replace(where.market, index=index))
    )
    assert said == [
        "backtest: not compared with the index, its file lacks 3 of 12 days, first 2024-01-02"
    ]
    assert np.isnan(unknown.figures.loc["base", "index_total_return"])


def test_what_json_holds_is_what_was_traded(trading):
    predictions, where = trading
    traded = trade(predictions, where)
    read = json.loads(json.dumps(plain(traded.to_json()), allow_nan=False))
    assert list(read) == [
        *("settings", "figures", "excess", "benchmarks", "start_offsets", "sectors", "capacity"),
        *("daily", "waterfall"),
    ]
    assert read["settings"]["top_k"] == 5
    assert read["figures"]["base"]["index_total_return"] is None
    assert read["figures"]["base"]["annual_return"] == traded.figures.loc["base", "annual_return"]
    assert read["daily"]["net_return"] == traded.ledger.equity["net_return"].tolist()
    assert read["daily"]["date"][0] == str(predictions.signal_dates[0] + 1)
    assert read["start_offsets"] is None
    assert read["excess"]["base"]["mean"] == traded.excess["base"].mean
    said = traded.lines()
    assert f"{traded.figures.loc['base', 'total_return']:+.1%}; equal-weight universe" in said[0]
    assert all(len(line) <= 80 for line in said)


def test_few_dates_are_not_traded(trading):
    predictions, where = trading
    few = {
        name: getattr(predictions, name)[:3]
        for name in Predictions.__dataclass_fields__
        if name != "tickers"
    }
    assert trade(replace(predictions, **few), where) is None


def test_signals_that_no_market_day_is_left_for_are_not_traded(trading):
    """Found after hours of training, that must not cost the run its evaluation."""
    predictions, where = trading
    first = np.searchsorted(where.market.dates, predictions.signal_dates[0])
    days_left = len(where.market.dates) - int(first)
    late = replace(where, settings=replace(where.settings, delay=days_left))
    assert trade(predictions, late) is None
    later = replace(where, settings=replace(where.settings, delay=days_left - 7), start_offsets=20)
    assert len(trade(predictions, later).ledger.equity) == 7
