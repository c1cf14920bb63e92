"""How long a signal lasts, on signals whose decay is known, and the intervals of shared days."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stockformer.evaluation.signal_decay import decay
from stockformer.evaluation.statistics import (
    critical_value,
    newey_west,
    no_skill_band,
    overlapping_interval,
)
from stockformer.evaluation.trading import market_of_returns

DATES = np.datetime64("2024-01-01") + np.arange(30)
TICKERS = np.array([f"S{i}" for i in range(12)])


def market(seed: int = 0):
    returns = np.random.default_rng(seed).normal(0, 0.02, (30, 12))
    return returns, market_of_returns(DATES, TICKERS, returns, fill="close")


def test_each_day_after_the_signal_is_told_apart() -> None:
    returns, where = market()
    signal = returns[8:28]  # knows the return of the third day after dates 5 to 24
    table = decay(signal, DATES[5:25], where, days=6)
    assert table.loc[3, "rank_ic"] == pytest.approx(1)
    assert (table["rank_ic"].drop(3).abs() < 0.3).all()
    assert table.loc[2, "cumulated_rank_ic"] < 0.3 < table.loc[3, "cumulated_rank_ic"] < 1
    assert table.loc[1, "rank_ic"] == table.loc[1, "cumulated_rank_ic"]
    assert (table["lower"] <= table["rank_ic"]).all()
    assert (table["rank_ic"] <= table["upper"]).all()


def test_days_after_the_end_are_missing_from_the_count() -> None:
    returns, where = market()
    table = decay(returns[25:], DATES[25:], where, days=20)
    assert table.index.tolist() == [1, 2, 3, 4]
    assert table["n_dates"].tolist() == [4, 3, 2, 1]


@pytest.mark.parametrize("why", ["not traded", "no member"])
def test_a_stock_that_could_not_be_bought_on_the_signal_date_is_left_out(why: str) -> None:
    returns, _ = market()
    member = np.ones(returns.shape, bool)
    if why == "not traded":
        returns[10, 0] = np.nan
    else:
        member[10, 0] = False
    where = market_of_returns(DATES, TICKERS, returns, fill="close", member=member)
    signal = returns[12:13].copy()
    signal[0, 0] = -signal[0, 0] * 100  # would spoil the ranking
    assert decay(signal, DATES[10:11], where, days=2).loc[2, "rank_ic"] == pytest.approx(1)


def test_an_interval_over_shared_days_covers_what_the_usual_one_does_not() -> None:
    random = np.random.default_rng(0)
    overlap, wide, narrow, trials = 10, 0, 0, 400
    for _ in range(trials):
        daily = random.normal(size=120 + overlap - 1)
        sums = np.convolve(daily, np.ones(overlap), "valid")
        lower, upper = overlapping_interval(sums, overlap)
        wide += lower <= 0 <= upper
        narrow += newey_west(sums, 1).p >= 0.05
    assert wide / trials >= 0.9, wide / trials
    assert narrow / trials < 0.8
    assert np.isnan(overlapping_interval(np.array([1.0]), 1)).all()
    assert critical_value(0.0) == 1.96 < critical_value(0.1) < critical_value(1.0)


def test_the_band_of_the_running_sum_is_the_test_of_the_mean() -> None:
    random = np.random.default_rng(2)
    for shift in (0.0, 0.25):
        series = pd.Series(random.normal(shift, 1, 80)).mask(lambda s: s.index % 9 == 0)
        band = no_skill_band(series, 2)
        test = newey_west(series, 2)
        last = band.iloc[-1]
        assert last["cumulated"] == pytest.approx(test.mean * test.n)
        outside = not last["lower"] <= last["cumulated"] <= last["upper"]
        assert outside == (test.p < 0.05)
    assert band["upper"].iloc[20] == pytest.approx(
        band["upper"].iloc[-1] * np.sqrt(series.iloc[:21].count() / test.n)
    )
    assert no_skill_band(pd.Series([np.nan, np.nan]), 1)["upper"].isna().all()


def test_a_stock_without_an_outcome_is_left_out_of_the_ranking() -> None:
    random = np.random.default_rng(4)
    returns = random.normal(0, 0.02, (30, 12))
    returns[random.random(returns.shape) < 0.15] = np.nan
    where = market_of_returns(DATES, TICKERS, returns, fill="close")
    signal = random.normal(size=(10, 12))
    table = decay(signal, DATES[5:15], where, days=3)
    close = pd.DataFrame(where.close)
    for day in (1, 2, 3):
        outcome = close.to_numpy()[5 + day : 15 + day] / close.to_numpy()[5:15] - 1
        known = [pd.DataFrame({"a": a, "b": b}).dropna() for a, b in zip(signal, outcome)]
        expected = np.mean([each["a"].corr(each["b"], method="spearman") for each in known])
        assert table.loc[day, "cumulated_rank_ic"] == pytest.approx(expected)
