"""Three answers: ranking, money, trust; each of the cases a reader must tell apart at once."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from reporting.run_folder import some_predictions, summary

from stockformer.evaluation.metrics import METRICS
from stockformer.evaluation.record import EvaluationRecord
from stockformer.evaluation.statistics import Estimate
from stockformer.evaluation.verdict import (
    CONTAMINATED,
    Verdict,
    conclude,
    survivorship,
    word,
    worse_levels,
)

OWN = {"mean": 0.05, "p": 0.001, "lower": 0.03, "upper": 0.07, "n": 200}
TESTS = dict.fromkeys(("mae", "accuracy", "brier"), OWN)
NOISE = {"mean": 0.002, "p": 0.8, "lower": -0.02, "upper": 0.02, "n": 200}


def lead(mean: float, p: float = 0.001, half: float = 0.01) -> dict[str, float]:
    cells = {"lead": mean, "lower": mean - half, "upper": mean + half, "p": p}
    return {f"rank_ic_{name}": value for name, value in cells.items()}


def table(**rows: dict[str, float]) -> pd.DataFrame:
    """The model and the baselines, of each its lead; LightGBM is among them unless it is None."""
    model = {"rank_ic": 0.05, "mae": 0.0179, "accuracy": 0.5, "brier": 0.25}
    baselines = {"ridge": lead(0.04), "lightgbm": lead(0.03)} | rows
    values = {
        n: {"rank_ic": 0.05 - r.get("rank_ic_lead", np.nan)} | r for n, r in baselines.items()
    }
    return pd.DataFrame({"model": model, **values}).T


@dataclass
class Traded:
    """What the answer on money reads of a backtest."""

    excess: dict[str, Estimate]
    figures: pd.DataFrame


def traded(mean: float, half: float, p: float, n: int = 100) -> Traded:
    """Daily excess in basis points."""
    test = Estimate(mean / 1e4, n, 1, 1e-4, 1.0, p, (mean - half) / 1e4, (mean + half) / 1e4)
    figures = {"base": {"total_return": -0.22, "benchmark_total_return": -0.16}}
    return Traded({"base": test}, pd.DataFrame(figures).T)


EARNS = traded(5, 2, 0.01)


def answers(
    frame: pd.DataFrame | None = None,
    own: dict[str, float] = OWN,
    money: Traded | None = EARNS,
    notes: tuple[str, ...] = (),
    leak_warning: str | None = None,
    few_rankings: bool = False,
) -> Verdict:
    frame = table() if frame is None else frame
    return conclude(
        frame,
        TESTS | {"rank_ic": own},  # type: ignore[arg-type]
        money,  # type: ignore[arg-type]
        notes,
        leak_warning=leak_warning,
        few_rankings=few_rankings,
    )


def test_skill_money_and_trust_are_three_times_yes() -> None:
    found = answers()
    assert [a.answer for a in (found.ranking, found.money, found.trust)] == ["yes"] * 3
    assert (
        "significantly better than all 2 baselines; LightGBM has +0.0200" in found.ranking.sentence
    )
    assert found.headline.startswith("Usable, as far as tested: it ranks better than every")
    assert found.money.sentence.startswith("-22.0% after costs, -16.0% for the equal-weight univ")
    assert "+5.0 basis points a day (95 % interval +3.0 to +7.0)" in found.money.sentence


def test_without_the_strongest_baseline_the_best_is_better_than_those_run() -> None:
    found = answers(table().drop(index="lightgbm"))
    assert found.ranking.answer == "unknown"
    assert "better than those run; ridge" in found.ranking.sentence
    assert "LightGBM, usually the strongest baseline, was not run" in found.ranking.sentence
    assert "incomplete" in found.headline


@pytest.mark.parametrize(
    ("own", "strongest", "answer", "words"),
    [
        (OWN, lead(0.005, 0.4), "no", "not significantly better than LightGBM"),
        (OWN, lead(-0.03), "worse", "significantly worse than LightGBM"),
        (NOISE, lead(-0.03), "worse", "significantly worse than LightGBM"),
        (NOISE, lead(0.01, 0.4, 0.03), "no", "not significantly better than chance"),
        (OWN | {"mean": -0.05, "lower": -0.07, "upper": -0.03}, lead(0.01), "worse", "than chance"),
        (OWN | {"n": 10}, lead(0.03), "unknown", "on 10 dates, too few"),
        (OWN | {"n": 0, "mean": np.nan}, lead(0.03), "no", "all its forecasts are the same"),
    ],
)
def test_no_and_significantly_worse_and_too_few_differ(
    own: dict[str, float], strongest: dict[str, float], answer: str, words: str
) -> None:
    found = answers(table(lightgbm=strongest), own)
    assert found.ranking.answer == answer
    assert words in found.ranking.sentence
    assert "Do not use" in found.headline


def test_dates_that_repeat_one_ranking_are_no_evidence() -> None:
    found = answers(few_rankings=True)
    assert (found.ranking.answer, found.trust.answer) == ("unknown", "unknown")


def test_a_worse_level_is_said_also_where_nothing_was_ranked() -> None:
    worse = {"mae": 0.0157, "mae_lead": -0.002, "mae_p": 1e-4}
    frame = table(zero_return=worse | {"mae_lower": -0.003, "mae_upper": -0.001})
    sentence = answers(frame, own=NOISE | {"n": 0}).ranking.sentence
    assert sentence.startswith("On each test date all its forecasts are the same. MAE 179.00 basis")


def test_a_significantly_worse_level_is_said_with_the_ranking() -> None:
    worse = {"mae": 0.0157, "mae_lead": -0.002, "mae_p": 1e-4, "mae_lower": -0.003}
    zero = worse | {"mae_upper": -0.001}
    frame = table(zero_return=zero)
    assert worse_levels(frame, TESTS) == {"mae": "zero_return"}
    assert "MAE 179.00 basis points is significantly worse than 157.00 of zero return" in (
        answers(frame).ranking.sentence
    )
    assert worse_levels(table(zero_return=worse | {"mae_upper": 0.001}), TESTS) == {}


@pytest.mark.parametrize(
    ("money", "answer"),
    [
        (traded(5, 2, 0.01), "yes"),
        (traded(5, 9, 0.3), "unknown"),
        (traded(-5, 9, 0.3), "no"),
        (traded(-5, 2, 0.01), "worse"),
        (traded(5, 2, 0.01, n=10), "unknown"),
        (None, "unknown"),
    ],
)
def test_money_is_what_is_left_over_the_universe(money: Traded | None, answer: str) -> None:
    found = answers(money=money)
    assert found.money.answer == answer
    assert ("earns more" in found.headline) == (answer == "yes")


@pytest.mark.parametrize(
    ("notes", "own", "answer"),
    [
        (("the factors were selected on the test: contaminated",), OWN, "no"),
        (("survivorship: 5 stocks lack prices",), OWN, "unknown"),
        (("stocks that left the index before are missing",), OWN, "unknown"),
        (("factors trusted not to look ahead: A",), OWN, "unknown"),
        ((), OWN | {"n": 100}, "unknown"),
        (("a gap",), OWN, "yes"),
    ],
)
def test_what_spoils_the_test_is_no_and_what_limits_it_is_in_part(
    notes: tuple[str, ...], own: dict[str, float], answer: str
) -> None:
    found = answers(notes=notes, own=own)
    assert found.trust.answer == answer
    assert ("cannot be trusted" in found.headline) == (answer == "no")
    assert word("trust", found.trust) == {"unknown": "only in part"}.get(answer, answer)


def test_a_simulated_market_is_named_in_the_headline() -> None:
    assert "simulated" not in answers().headline
    found = answers(notes=("a simulated market: the figures show whether the model can learn",))
    assert found.headline.startswith("Usable, as far as tested")
    assert found.headline.endswith(" The market is simulated.")


def test_a_leak_overrules_everything() -> None:
    found = answers(leak_warning="Too good to be true: a rank IC of 0.300.")
    assert found.trust.answer == "no"
    assert found.trust.sentence == "Too good to be true: a rank IC of 0.300."
    assert found.headline == "Do not use this model: its test result cannot be trusted."


def test_the_data_sets_own_caveats_are_recognised() -> None:
    from small_data import composed

    notes = tuple(composed("dataset=nifty200_phase5", "paths.data_dir=x").dataset.warnings)
    assert len([note for note in notes if CONTAMINATED.search(note)]) == 1
    assert len(survivorship(notes)) == 1


def test_a_record_keeps_its_answers_and_an_old_one_gets_them() -> None:
    written = summary(some_predictions(60)).to_json()
    known = EvaluationRecord.from_json(written).answers
    assert known.to_json() == written["answers"]
    old = {key: value for key, value in written.items() if key != "answers"}
    assert EvaluationRecord.from_json(old).answers == known
    written["answers"]["money"]["answer"] = "perhaps"
    with pytest.raises(ValueError, match=r"answers\.money: 'perhaps'"):
        EvaluationRecord.from_json(written)


def test_what_rounds_to_zero_has_no_minus_sign() -> None:
    """It would read as worse than nothing; another line, rounded elsewhere, might show a plus."""
    nothing = {"mean": -1e-6, "p": 0.9, "lower": -0.02, "upper": -1e-6, "n": 200}
    frame = table(lightgbm=lead(-1e-6, p=0.9))
    frame.loc["lightgbm", "rank_ic"] = -1e-6
    found = answers(frame, nothing, money=traded(-0.01, 0.02, 0.9))
    assert found.ranking.sentence.count("+0.0000") == 3
    assert "+0.0 basis points a day" in found.money.sentence
    for answer in (found.ranking, found.money):
        assert not re.search(r"-0\.0+(?!\d)", answer.sentence)
    assert METRICS["brier"].format(-1e-9) == "0.0000"
    assert METRICS["rank_ic"].format(math.nan) == "-"
