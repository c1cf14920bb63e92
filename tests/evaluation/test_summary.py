"""Whole evaluations: noise has no skill, a leak is too good, and JSON holds what was found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from stockformer.evaluation.backtest import Settings
from stockformer.evaluation.baselines import History, all_baselines
from stockformer.evaluation.metrics import Predictions
from stockformer.evaluation.statistics import bootstrap_interval, newey_west
from stockformer.evaluation.summary import Summary, summarise
from stockformer.evaluation.trading import Trading, market_of_returns

TRAIN, TEST, STOCKS = 60, 60, 30


@pytest.fixture(scope="module")
def market() -> History:
    random = np.random.default_rng(4)
    returns = random.normal(0, 0.02, (TRAIN + TEST + 2, STOCKS))
    label = np.full((len(returns), 1, STOCKS), np.nan)
    label[:-1, 0] = returns[1:]
    valid = np.isfinite(label)
    return History(
        dates=np.datetime64("2024-01-01") + np.arange(len(returns)),
        tickers=np.array([f"S{i:02d}" for i in range(STOCKS)]),
        returns=returns,
        factors=random.normal(size=(*returns.shape, 3)).astype(np.float32),
        label=label,
        up=np.nan_to_num(label) > 0,
        valid=valid,
        training_days=np.arange(20, TRAIN - 1),
    )


def evaluated(market: History, forecast: np.ndarray, oracle: np.ndarray | None = None) -> Summary:
    """A whole evaluation of forecasts (S, N), on the days after the training."""
    rows = TRAIN + np.arange(len(forecast))
    predictions = Predictions(
        signal_dates=market.dates[rows],
        target_start=market.dates[rows][:, None],
        target_end=market.dates[rows + 1][:, None],
        tickers=market.tickers,
        prediction=forecast[:, None],
        probability=1 / (1 + np.exp(-50 * forecast[:, None])),
        label=market.label[rows],
        up=market.up[rows],
        valid=market.valid[rows],
    )
    where = market_of_returns(market.dates, market.tickers, market.returns, fill="close")
    return summarise(
        predictions,
        all_baselines(predictions, market, with_lightgbm=False),
        trading=Trading(where, Settings(k=5, n_drop=1)),
        notes=["as told"],
        oracle=oracle,
    )


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.001, (TEST, STOCKS))


def test_a_model_of_shuffled_targets_is_said_to_show_no_skill(market):
    label = market.label[TRAIN : TRAIN + TEST, 0]
    shuffled = np.random.default_rng(0).permuted(label, axis=1)
    assert evaluated(market, shuffled).verdict.startswith(
        "The model shows no skill and does not beat the baselines: rank IC "
    )
    # The test is at 5 %: noise is called skill as seldom as that.
    called = [
        not evaluated(market, noise(seed)).verdict.startswith("The model shows no skill")
        for seed in range(20)
    ]
    assert sum(called) <= 3


def test_a_leaked_label_is_said_to_be_too_good_to_be_true(market):
    label = market.label[TRAIN : TRAIN + TEST, 0]
    found = evaluated(market, 0.05 * label + noise(1))
    assert 0.4 < found.scores["rank_ic"] < 0.95
    assert found.verdict.startswith("Too good to be true: a rank IC of 0.")
    assert "is a leaked label until shown otherwise. The model beats every" in found.verdict
    honest = evaluated(market, 0.005 * label + noise(1))
    assert 0.05 < honest.scores["rank_ic"] < 0.3
    assert honest.verdict.startswith("The model beats every baseline on rank IC")


def test_json_holds_the_tests_beside_the_means_and_the_days(market):
    found = evaluated(market, noise(2))
    read = json.loads(json.dumps({"epoch": 1} | found.as_json(), allow_nan=False))
    assert list(read) == [
        *("epoch", "version", "model", "table", "verdict", "targets", "oracle_rank_ic"),
        *("first_step_rank_ic", "notes", "statistics", "daily", "backtest"),
    ]
    assert read["version"] == 2
    days = found.daily
    for name in ("rank_ic", "ic", "mae", "accuracy"):
        assert read["daily"][name] == days[name].tolist()
        test, expected = read["statistics"][name], newey_west(days[name], 1)
        assert test["mean"] == pytest.approx(read["model"][name])
        assert (test["n"], test["t"], test["p"]) == (60, expected.t, expected.p)
        assert (test["lower"], test["upper"]) == bootstrap_interval(days[name])
    assert "n_valid" not in read["statistics"]
    assert read["daily"]["signal_date"][0] == str(market.dates[TRAIN])
    assert len(read["daily"]["signal_date"]) == 60
    assert read["table"][0]["name"] == "model"
    assert read["notes"][0] == "as told"
    assert any("under 120 test dates" in note for note in read["notes"])
    assert len(json.dumps(read, indent=2)) < 60_000


def test_without_a_number_there_is_null_and_few_dates_are_not_traded(market):
    found = evaluated(market, np.zeros((3, STOCKS)))
    read = found.as_json()
    assert read["model"]["rank_ic"] is None
    assert read["statistics"]["rank_ic"]["t"] is None
    assert read["daily"]["rank_ic"] == [None, None, None]
    assert read["backtest"] is None
    assert "no backtest: too few test dates" in read["notes"]
    assert found.verdict.startswith("The model shows no skill")


def test_the_oracle_is_judged_on_the_first_step(market):
    label = market.label[TRAIN : TRAIN + TEST, 0]
    expected = 0.3 * label + noise(3)
    expected[:, 0] = np.nan  # not known of a stock that was not traded
    judged = evaluated(market, noise(2), oracle=expected)
    by_hand = [
        stats.spearmanr(known[1:], real[1:]).statistic for known, real in zip(expected, label)
    ]
    assert judged.oracle_rank_ic == pytest.approx(np.mean(by_hand))
    assert judged.first_step_rank_ic == judged.scores["rank_ic"]
    assert any(line.startswith("oracle ") for line in judged.lines())
