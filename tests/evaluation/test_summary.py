"""Whole evaluations: noise has no skill, a leak is too good, and JSON holds what was found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from small_data import backtest_settings

from stockformer.evaluation.baselines import BaselineInputs, all_baselines
from stockformer.evaluation.metrics import METRICS
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.record import EvaluationRecord
from stockformer.evaluation.statistics import bootstrap_interval, newey_west
from stockformer.evaluation.summary import project_targets, summarise
from stockformer.evaluation.trading import BacktestSpec, market_of_returns

TRAIN, TEST, STOCKS = 60, 60, 30


@pytest.fixture(scope="module")
def market() -> BaselineInputs:
    random = np.random.default_rng(4)
    returns = random.normal(0, 0.02, (TRAIN + TEST + 2, STOCKS))
    label = np.full((len(returns), 1, STOCKS), np.nan)
    label[:-1, 0] = returns[1:]
    valid = np.isfinite(label)
    return BaselineInputs(
        dates=np.datetime64("2024-01-01") + np.arange(len(returns)),
        tickers=np.array([f"S{i:02d}" for i in range(STOCKS)]),
        returns=returns,
        factors=random.normal(size=(*returns.shape, 3)).astype(np.float32),
        label=label,
        up=np.nan_to_num(label) > 0,
        valid=valid,
        training_days=np.arange(20, TRAIN - 1),
    )


def evaluated(
    market: BaselineInputs, forecast: np.ndarray, oracle: np.ndarray | None = None
) -> EvaluationRecord:
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
        trading=BacktestSpec(
            where,
            backtest_settings(top_k=5, n_drop=1),
            start_offsets=20,
            participation_rate=0.05,
        ),
        notes=["as told"],
        oracle=oracle,
    )


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.001, (TEST, STOCKS))


def test_a_model_of_shuffled_targets_is_said_to_show_no_skill(market):
    label = market.label[TRAIN : TRAIN + TEST, 0]
    shuffled = np.random.default_rng(0).permuted(label, axis=1)
    found = evaluated(market, shuffled)
    assert found.verdict.startswith("The model shows no skill in ranking (rank IC ")
    assert not any(" beats " in sentence for sentence in found.sentences)


def test_a_leaked_label_is_said_to_be_too_good_to_be_true(market):
    label = market.label[TRAIN : TRAIN + TEST, 0]
    found = evaluated(market, 0.05 * label + noise(1))
    assert 0.4 < found.scores["rank_ic"] < 0.95
    assert found.verdict.startswith("Too good to be true: a rank IC of 0.")
    assert "suggests a leak of the label; find the cause before" in found.verdict
    assert "The model ranks stocks better than chance" in found.verdict
    honest = evaluated(market, 0.005 * label + noise(6))
    assert 0.05 < honest.scores["rank_ic"] < 0.1
    assert honest.verdict.startswith("The model ranks stocks better than chance (rank IC ")


def test_the_oracle_of_a_simulated_market_is_the_limit(market):
    label = market.label[TRAIN : TRAIN + TEST, 0]
    strong = 0.015 * label + noise(1)
    assert evaluated(market, strong).verdict.startswith("Too good to be true")
    known = evaluated(market, strong, oracle=(0.5 * label + noise(3))[..., None])
    assert known.verdict.startswith("The model ranks stocks better than chance")


def test_what_ranks_nothing_is_not_traded(market):
    found = evaluated(market, np.full((TEST, STOCKS), 0.0005))
    assert found.verdict.startswith("The model ranks nothing")
    assert found.backtest is None
    assert "no backtest: the forecasts rank nothing" in found.notes


def test_dates_on_which_it_ranks_nothing_are_counted(market):
    forecast = noise(2)
    forecast[:7] = 0.001
    said = "on 7 of 60 test dates the model gives all stocks the same forecast; its rank IC is that"
    assert any(note.startswith(said) for note in evaluated(market, forecast).notes)


def test_project_targets_are_told_where_there_are_some(market):
    found = evaluated(market, noise(2))
    assert found.targets == ()
    assert not any("project target" in line for line in found.lines())
    limits = {"mae": 1.0, "accuracy": 0.99, "rank_ic": -1.0}
    met = project_targets(limits, found.scores, found.table)
    assert [(t.name, t.met) for t in met] == [
        ("test MAE < 1", True),
        ("test accuracy > 0.99", False),
        ("test rank IC > -1", True),
    ]


def test_a_target_that_a_constant_meets_is_no_achievement(market):
    found = evaluated(market, noise(2))
    limit = found.table["accuracy"][["zero_return", "always_up"]].max() - 0.001
    (target,) = project_targets({"accuracy": limit}, {"accuracy": 0.9}, found.table)
    assert target.met
    assert target.outcome.startswith("met, but so does ")
    (alone,) = project_targets({"accuracy": 0.89}, {"accuracy": 0.9}, found.table)
    assert alone.outcome == "met"
    (missed,) = project_targets({"accuracy": limit}, {"accuracy": 0.1}, found.table)
    assert missed.outcome == "not met"


def test_the_closing_lines_fit_a_terminal_and_name_the_baselines(market):
    said = evaluated(market, noise(2)).lines()
    table = said[2 : said.index("", 2)]
    assert max(map(len, table)) <= 80
    assert sum(line.startswith("Baselines that rank: 1-day reversal, ") for line in said) == 1
    assert sum(line.startswith("Traded, after costs, minus the equal-weight") for line in said) == 1


def test_json_holds_the_tests_next_to_the_means_and_the_days(market):
    found = evaluated(market, noise(2))
    read = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(read) == [
        *("version", "epoch", "model", "table", "verdict", "answers", "sentences", "targets"),
        *("oracle_rank_ic", "oracle_excess", "first_step_rank_ic", "notes", "statistics", "daily"),
        *("backtest", "validation", "signal"),
    ]
    assert read["version"] == 4
    days = found.daily
    for name in METRICS:
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
    read = evaluated(market, np.zeros((3, STOCKS))).to_json()
    assert read["model"]["rank_ic"] is None
    assert read["statistics"]["rank_ic"]["t"] is None
    assert read["daily"]["rank_ic"] == [None, None, None]
    few = evaluated(market, noise(1)[:3]).to_json()
    assert few["backtest"] is None
    assert "no backtest: too few test dates" in few["notes"]
    assert few["verdict"].startswith("Too few dates to conclude: rank IC ")


def test_the_oracle_is_judged_on_the_first_step(market):
    label = market.label[TRAIN : TRAIN + TEST, 0]
    expected = 0.3 * label + noise(3)
    expected[:, 0] = np.nan  # not known of a stock that was not traded
    judged = evaluated(market, noise(2), oracle=expected[..., None])
    by_hand = [
        stats.spearmanr(known[1:], real[1:]).statistic for known, real in zip(expected, label)
    ]
    assert judged.oracle_rank_ic == pytest.approx(np.mean(by_hand))
    assert judged.first_step_rank_ic == judged.scores["rank_ic"]
    assert any(line.startswith("oracle ") for line in judged.lines())
