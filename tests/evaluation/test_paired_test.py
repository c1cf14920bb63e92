"""A challenger is better where it has a lead, and never for noise, absence or one lucky ranking."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from stockformer.evaluation.paired_test import Level, PairedTest, paired_test
from stockformer.evaluation.predictions import Predictions, daily

DATES, STOCKS = 60, 30
Make = Callable[..., Predictions]


@pytest.fixture
def market(predictions) -> Make:
    """Noise that nobody forecasts."""

    def make(seed: int = 0, dates: int = DATES) -> Predictions:
        label = np.random.default_rng(seed).normal(0, 0.02, (dates, 1, STOCKS))
        return predictions(np.zeros_like(label), label)

    return make


def forecast(market: Predictions, skill: float, seed: int) -> Predictions:
    """Forecasts whose correlation with the outcomes is `skill`."""
    noise = np.random.default_rng(1000 + seed).normal(0, 0.02, market.label.shape)
    return replace(market, prediction=skill * market.label + math.sqrt(1 - skill**2) * noise)


def kept_scores(market: Predictions, sign: int = 1) -> Predictions:
    """One ranking for good: the stocks' own drift over these very days."""
    drift = sign * market.label.mean(axis=0)
    return replace(market, prediction=np.broadcast_to(drift, market.label.shape).copy())


def decide(challenger: Predictions, champion: Predictions, **level: float) -> PairedTest:
    return paired_test(challenger, champion, Level(**level))


def test_a_lead_promotes_and_a_deficit_does_not(market: Make) -> None:
    skilled, noise = forecast(market(), 0.4, 1), forecast(market(), 0.0, 2)
    better, worse = decide(skilled, noise), decide(noise, skilled)
    assert better.better
    assert better.p < 0.001
    assert better.lower > 0
    assert not worse.better
    assert worse.p > 0.999
    assert worse.lead.mean == pytest.approx(-better.lead.mean)


def test_the_figures_are_those_of_a_paired_t_test(market: Make) -> None:
    """Of the daily differences, without autocorrelation close to the textbook's."""
    ours, theirs = forecast(market(), 0.15, 1), forecast(market(), 0.0, 2)
    test = decide(ours, theirs)
    rank_ics = [daily(each)["rank_ic"] for each in (ours, theirs)]
    textbook = stats.ttest_rel(*rank_ics, alternative="greater")
    assert test.challenger == pytest.approx(rank_ics[0].mean())
    assert test.champion == pytest.approx(rank_ics[1].mean())
    assert test.lead.n == DATES
    assert test.p == pytest.approx(textbook.pvalue, abs=0.05)
    assert str(DATES) in test.sentence()


def test_two_models_of_equal_skill_are_rarely_told_apart(market: Make) -> None:
    """At a level of 5 % in 15 of 300 pairs, 24 with 2.4 standard errors more."""
    found = 0
    for seed in range(300):
        days = market(seed, dates=40)
        pair = forecast(days, 0.1, 2 * seed), forecast(days, 0.1, 2 * seed + 1)
        found += decide(*pair, alpha=0.05).better
    assert 3 <= found <= 24


def test_few_days_decide_nothing(market: Make) -> None:
    skilled, noise = (forecast(market(dates=19), skill, 1) for skill in (0.9, 0.0))
    test = decide(skilled, noise)
    assert not test.better
    assert "19 days, at least 20" in test.obstacle


def test_equal_forecasts_decide_nothing(market: Make) -> None:
    one = forecast(market(), 0.4, 1)
    test = decide(one, one)
    assert not test.better
    assert "alike" in test.obstacle
    assert test.figures()["p"] is None


def test_a_champion_that_ranks_nothing_can_be_replaced(market: Make) -> None:
    """Its rank IC does not exist: days without one must not be dropped."""
    test = decide(forecast(market(), 0.4, 1), market())
    assert test.better
    assert test.champion == 0.0
    assert test.lead.n == DATES


def test_a_challenger_does_not_gain_by_ranking_nothing_on_bad_days(market: Make) -> None:
    ours, theirs = forecast(market(), 0.0, 1), forecast(market(), 0.0, 2)
    bad = (daily(ours)["rank_ic"] < daily(theirs)["rank_ic"]).to_numpy()
    silent = replace(ours, prediction=np.where(bad[:, None, None], 0.0, ours.prediction))
    dropped = (daily(ours)["rank_ic"] - daily(theirs)["rank_ic"])[~bad]
    test = decide(silent, theirs)
    assert test.lead.n == DATES
    assert test.lead.mean < dropped.mean() / 2


def test_one_lucky_ranking_is_no_evidence(market: Make) -> None:
    lucky = kept_scores(market())
    test = decide(lucky, forecast(market(), 0.0, 1))
    assert test.challenger > 0.05
    assert not test.better
    assert "hardly changes" in test.obstacle


def test_a_champion_of_one_ranking_counts_as_zero(market: Make) -> None:
    """Its luck, good or bad, is no skill; it neither protects nor exposes it."""
    skilled, noise = forecast(market(), 0.4, 1), forecast(market(), 0.0, 2)
    for sign in (1, -1):
        champion = kept_scores(market(), sign)
        assert decide(skilled, champion).better
        assert not decide(noise, champion).better
        assert "taken for 0" in decide(noise, champion).sentence()


def test_only_common_days_stocks_and_cells_count(market: Make) -> None:
    whole = forecast(market(), 0.4, 1)
    names = ("prediction", "probability", "label", "up", "valid")
    fewer = replace(
        forecast(market(), 0.0, 2),
        signal_dates=whole.signal_dates[10:],
        target_start=whole.target_start[10:],
        target_end=whole.target_end[10:],
        tickers=whole.tickers[:0:-1],  # in another order, one less
        **{n: getattr(forecast(market(), 0.0, 2), n)[10:][..., :0:-1] for n in names},
    )
    fewer.valid[0, 0, :] = False
    test = decide(whole, fewer)
    assert test.first_day == str(whole.signal_dates[10])
    assert test.lead.n == DATES - 11
    common = replace(
        whole,
        prediction=np.where(np.arange(STOCKS) > 0, whole.prediction, np.nan),
        valid=whole.valid & (np.arange(STOCKS) > 0),
    )
    assert test.challenger == pytest.approx(daily(common)["rank_ic"][11:].mean())


def test_other_outcomes_and_nothing_in_common_are_refused(market: Make) -> None:
    ours = forecast(market(), 0.1, 1)
    with pytest.raises(ValueError, match="different outcomes"):
        decide(ours, forecast(market(seed=1), 0.1, 1))
    with pytest.raises(ValueError, match="no day in common"):
        decide(ours, replace(ours, signal_dates=ours.signal_dates + 1000))
    with pytest.raises(ValueError, match="no stock in common"):
        decide(ours, replace(ours, tickers=np.array([f"X{n}" for n in range(STOCKS)])))
    with pytest.raises(ValueError, match="different targets"):
        decide(ours, replace(ours, target_end=ours.target_end + 1))


def test_a_few_corrected_outcomes_are_accepted(market: Make) -> None:
    ours = forecast(market(), 0.4, 1)
    label = ours.label.copy()
    label[0] += 0.05
    test = decide(ours, replace(forecast(market(), 0.0, 2), label=label))
    assert test.better


@pytest.mark.parametrize("values", [{"alpha": 0.2}, {"alpha": math.nan}, {"min_days": 19}])
def test_levels_that_mean_nothing_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))}="):
        Level(**values)
