"""What a comparison claims: skill where there is some, and never for drift, luck or few dates."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from stockformer.evaluation import baselines, comparison
from stockformer.evaluation.comparison import (
    best_constant,
    compare,
    compare_days,
    leak_warnings,
    levels,
    verdict,
)
from stockformer.evaluation.predictions import Predictions, daily, score
from stockformer.evaluation.statistics import bootstrap_interval, newey_west

DATES, STOCKS = 60, 40
DRIFT = 0.002  # of the universe: it rises


@pytest.fixture
def market(predictions) -> Callable[..., Predictions]:
    """A rising universe of noise, forecast as zero."""

    def make(dates: int = DATES, seed: int = 0) -> Predictions:
        label = np.random.default_rng(seed).normal(DRIFT, 0.02, (dates, 1, STOCKS))
        return predictions(np.zeros_like(label), label)

    return make


def forecast(market: Predictions, returns: np.ndarray) -> Predictions:
    return replace(market, prediction=returns, probability=norm.cdf(returns / 0.02))


def noise(market: Predictions, seed: int) -> np.ndarray:
    return np.random.default_rng(2000 + seed).normal(0, 0.005, market.prediction.shape)


def forecasters(market: Predictions, seed: int = 0) -> dict[str, Predictions]:
    """Constants as a rising training period gives them, and two rankers that know nothing."""
    zeros = np.zeros_like(market.prediction)
    named = {name: forecast(market, zeros) for name in baselines.CONSTANTS}
    named["training_mean"] = forecast(market, zeros + DRIFT)
    for name in ("always_up", "majority_class"):
        named[name] = replace(named[name], probability=zeros + 1)
    return named | {
        "ridge": forecast(market, noise(market, 10_000 + seed)),
        "lightgbm": forecast(market, noise(market, 20_000 + seed)),
    }


CLAIMS = ("better than chance", " beats ", "every baseline")


def test_neither_drift_nor_luck_is_called_skill(market):
    """Of at most 5 % of forecasts that know nothing; benchmarks/noise.py is the long form."""
    dates = market()
    days = {name: daily(baseline) for name, baseline in forecasters(dates).items()}
    days[comparison.HINDSIGHT] = daily(best_constant(dates))
    claimed = 0
    for seed in range(60):
        drift = np.random.default_rng(seed).normal(DRIFT, DRIFT)
        model = forecast(dates, noise(dates, seed) + drift)
        if seed % 2:
            model = replace(model, probability=np.full_like(model.probability, 0.992))
        compared = compare_days(daily(model), days, model.horizon, 0.0)
        said = f"{verdict(compared)} {levels(compared)}"
        claimed += any(words in said for words in CLAIMS)
    assert claimed <= 3


@pytest.mark.parametrize("constant", [-0.001, 0.0, 0.0005, DRIFT, 0.01])
def test_no_constant_is_called_skill(market, constant):
    dates = market()
    model = forecast(dates, np.full_like(dates.prediction, constant))
    compared = compare(model, forecasters(dates))
    assert not any(words in f"{verdict(compared)} {levels(compared)}" for words in CLAIMS)


def test_a_forecast_that_tells_no_stocks_apart_ranks_nothing(market):
    constant = forecast(market(), np.full((DATES, 1, STOCKS), 0.0005))
    sentence = verdict(compare(constant, forecasters(market())))
    assert sentence == "The model ranks nothing: on each test date all its forecasts are the same."


def test_skill_is_claimed_against_the_best_ranker_with_interval_and_p(market):
    dates = market()
    model = forecast(dates, 0.1 * dates.label + noise(dates, 1))
    compared = compare(model, forecasters(dates))
    sentence = verdict(compared)
    assert sentence.startswith("The model ranks stocks better than chance (rank IC +0.")
    assert " and than every baseline tested (2): " in sentence
    lead = daily(model)["rank_ic"] - daily(forecasters(dates)["ridge"])["rank_ic"]
    table = compared.table()
    lower, upper = bootstrap_interval(lead)
    expected = [lead.mean(), lower, upper, newey_west(lead, 1).t, newey_west(lead, 1).p]
    columns = [f"rank_ic_{name}" for name in ("lead", "lower", "upper", "t", "p")]
    assert table.loc["ridge", columns].tolist() == pytest.approx(expected)
    assert table.loc["ridge", "rank_ic"] == pytest.approx(
        score(forecasters(dates)["ridge"])["rank_ic"]
    )


def test_a_lead_is_positive_where_the_model_is_better(market):
    dates = market()
    better = forecast(dates, 0.3 * dates.label)
    table = compare(better, forecasters(dates)).table()
    for metric in comparison.COMPARED:
        leads = table[f"{metric}_lead"].drop("model").dropna()
        assert (leads > 0).all(), metric
    assert table["rank_ic_lead"].dropna().index.tolist() == ["ridge", "lightgbm"]
    assert table.loc["model", "rank_ic_p"] < 0.001


@pytest.mark.parametrize(
    ("weight", "baseline", "words"),
    [
        (0.1, 0.3, "better than chance (rank IC"),
        (0.1, 0.3, "but significantly worse than ridge with"),
        (0.1, 0.1, "but not significantly better than ridge with"),
        (0.0, 0.3, "shows no skill in ranking (rank IC"),
        (0.0, 0.3, "and is significantly worse than ridge"),
        (0.0, 0.0, "and not significantly better than"),
        (0.0, 0.0, "60 dates can detect a rank IC of 0.0"),
        (-0.1, 0.0, "worse than chance"),
    ],
)
def test_not_better_and_worse_are_different_sentences(market, weight, baseline, words):
    dates = market()
    model = forecast(dates, weight * dates.label + noise(dates, 1))
    others = forecasters(dates) | {
        "ridge": forecast(dates, baseline * dates.label + noise(dates, 2))
    }
    assert words in verdict(compare(model, others))


def test_dates_that_repeat_one_ranking_are_no_evidence(market):
    """Scores that stocks keep: a stock's own drift over the sample would pass for skill."""
    dates = market()
    kept = np.broadcast_to(dates.label.mean(axis=0), dates.label.shape)
    sentence = verdict(compare(forecast(dates, kept), forecasters(dates)))
    assert sentence.startswith("Too few separate rankings to conclude (rank IC +0.")
    assert "(rank correlation 1.00), so 60 dates count as about 1." in sentence
    changing = forecast(dates, kept + noise(dates, 1))
    assert verdict(compare(changing, forecasters(dates))).startswith(
        "The model ranks stocks better"
    )


@pytest.mark.parametrize("dates", [1, 2, 19])
def test_few_dates_are_too_few_to_tell(market, dates):
    few = market(dates)
    model = forecast(few, 0.5 * few.label + noise(few, 1))
    compared = compare(model, forecasters(few))
    sentence = verdict(compared)
    assert sentence.startswith("Too few dates to conclude: rank IC +0.")
    smallest = f"{dates} date{'s' * (dates > 1)} can detect "
    assert smallest in sentence
    assert ("no rank IC, however large" in sentence) == (dates < 3)
    assert levels(compared) == ""


def test_no_constant_fits_better_than_the_best_in_hindsight(random_predictions):
    model = random_predictions(dates=15)
    best = score(best_constant(model))
    grid = np.linspace(-0.02, 0.02, 41)
    for value, share in zip(grid, np.linspace(0.01, 0.99, 41)):
        constant = replace(
            model,
            prediction=np.full_like(model.prediction, value),
            probability=np.full_like(model.prediction, share),
        )
        other = score(constant)
        assert other["mae"] >= best["mae"] - 1e-12
        assert other["brier"] >= best["brier"] - 1e-12
        assert other["accuracy"] <= best["accuracy"] + 1e-12


def test_level_forecasts_are_compared_with_their_own_constants(market):
    dates = market()
    sentence = levels(compare(forecast(dates, 0.3 * dates.label), forecasters(dates)))
    assert re.search(r"MAE 112\.64 basis points beats 160\.63 of the best constant", sentence)
    assert " beats 0." in sentence
    assert "of the best constant in hindsight (p < 0.001)" in sentence
    worse = levels(compare(forecast(dates, 10 * noise(dates, 1)), forecasters(dates)))
    assert "is significantly worse than" in worse
    assert "of the training mean" in worse
    slightly = levels(
        compare(forecast(dates, dates.label * 0.0 + 0.002 * noise(dates, 3)), forecasters(dates))
    )
    assert "does not beat" not in slightly
    # A stock's own drift known beforehand is worth something, the universe's is not.
    drift = levels(
        compare(forecast(dates, np.full_like(dates.label, DRIFT / 2)), forecasters(dates))
    )
    assert " beats " not in drift


def test_the_strongest_baseline_that_was_not_run_is_named_in_the_headline(market):
    dates = market()
    others = forecasters(dates)
    del others["lightgbm"]
    model = forecast(dates, 0.1 * dates.label + noise(dates, 1))
    compared = compare(model, others)
    sentence = verdict(compared, lightgbm_missing="No module named 'lightgbm'")
    assert sentence.endswith(
        "LightGBM, usually the strongest baseline, was not run (No module named 'lightgbm')."
    )
    assert "every baseline tested (1)" in sentence
    assert comparison.tested(compared).startswith("Baselines that rank: ridge. Constants: zero")


def test_what_cannot_be_loaded_is_not_run_and_named(monkeypatch, market):
    """Also where the package is there and the system lacks its library."""

    def broken(name: str, *arguments: object, **keywords: object) -> object:
        if name == "lightgbm":
            raise OSError("libgomp.so.1: cannot open shared object file")
        return real(name, *arguments, **keywords)

    real = __import__
    monkeypatch.setattr("builtins.__import__", broken)
    assert baselines.lightgbm_missing() == "libgomp.so.1: cannot open shared object file"


def test_figures_no_honest_forecast_reaches_are_called_leaks(market):
    dates = market()
    others = forecasters(dates) | {"ridge": forecast(dates, 0.1 * dates.label + noise(dates, 2))}
    leaking = compare(forecast(dates, 0.1 * dates.label + noise(dates, 1)), others)
    found = leak_warnings(leaking, 0.1, ["Factor X is a likely leak."])
    assert found[0].startswith("Too good to be true: a rank IC of 0.3")
    assert "an accuracy 0." in found[1]
    assert found[2].startswith("Likely leak in the data: ridge alone has a rank IC of 0.")
    assert found[3] == "Factor X is a likely leak."
    honest = compare(forecast(dates, noise(dates, 1)), forecasters(dates))
    assert leak_warnings(honest, 0.1, []) == []
    few = market(5)
    lucky = forecast(few, 0.08 * few.label + noise(few, 1))
    assert 0.1 < score(lucky)["rank_ic"] < 0.5
    assert leak_warnings(compare(lucky, forecasters(few)), 0.1, []) == []
