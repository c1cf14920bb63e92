"""The three answers that a reader needs first: ranking, money, and whether to trust the rest.

All are derived from what evaluation.json holds, so that an earlier record has them too.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import pandas as pd

from stockformer.evaluation.backtest import BASIS_POINT
from stockformer.evaluation.baselines import STRONGEST
from stockformer.evaluation.comparison import HINDSIGHT, label
from stockformer.evaluation.metrics import COMPARED
from stockformer.evaluation.quantities import format_interval
from stockformer.evaluation.statistics import FEW_DATES, MIN_DATES, significant_sign

Row = Mapping[Hashable, Any]
"""A row of a frame, by column."""

if TYPE_CHECKING:
    from stockformer.evaluation.record import BacktestResult

YES, NO, WORSE, UNKNOWN = ANSWERS = ("yes", "no", "worse", "unknown")
NOT_RUN = "LightGBM, usually the strongest baseline, was not run."

CONTAMINATED = re.compile(
    r"contaminat|selected .*(on|over|by) .*test (period|dates)", re.IGNORECASE
)
SURVIVORSHIP = re.compile(r"survivor|stocks that left", re.IGNORECASE)
SIMULATED = "The market is simulated"
WAIVED = re.compile(r"trusted not to look ahead", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """answer: one of ANSWERS; "worse" is a significant no. sentence: the figures behind it."""

    answer: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """ranking: does it rank better than the best baseline? money: is anything left after costs?

    trust: can the two be trusted?
    """

    ranking: Answer
    money: Answer
    trust: Answer

    @property
    def headline(self) -> str:
        """Whether to use the model, in one line."""
        if self.trust.answer == NO:
            return "Do not use this model: its test result cannot be trusted."
        if self.ranking.answer == WORSE:
            return "Do not use this model: it ranks worse than chance or a simple baseline."
        if self.ranking.answer == NO:
            return "Do not use this model: it ranks no better than a simple baseline."
        if self.ranking.answer == UNKNOWN:
            return "Do not use this model yet: the evidence on its ranking is incomplete."
        earned = {
            YES: "Usable, as far as tested: it ranks better than every baseline and earns more "
            "than the universe after costs.",
            NO: "Not worth trading: it ranks better than every baseline, but nothing is left after "
            "costs.",
            WORSE: "Not worth trading: it ranks better than every baseline, but loses to the "
            "universe after costs.",
            UNKNOWN: "Promising: it ranks better than every baseline; whether anything is left "
            "after costs is not shown.",
        }[self.money.answer]
        doubt = " The evidence is limited." if self.trust.answer == UNKNOWN else ""
        market = f" {SIMULATED}." if SIMULATED in self.trust.sentence else ""
        return f"{earned}{doubt}{market}"

    def audited(self, outcome: str) -> Verdict:
        """The answers in view of the look-ahead audit: "passed ...", "FAILED ..." or not run."""
        if outcome.startswith("passed") or self.trust.answer == NO:
            return self
        if outcome.startswith("FAILED"):
            failed = Answer(NO, "The look-ahead audit failed: an input knows the future.")
            return replace(self, trust=failed)
        sentence = f"{self.trust.sentence} The look-ahead audit was not run."
        return replace(self, trust=Answer(UNKNOWN, sentence))

    def to_json(self) -> dict[str, dict[str, str]]:
        return {name: vars(getattr(self, name)) for name in QUESTIONS}

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, str]]) -> Verdict:
        """Raises ValueError for an unknown answer."""
        for name in QUESTIONS:
            if data[name]["answer"] not in ANSWERS:
                raise ValueError(f"answers.{name}: {data[name]['answer']!r} is none of {ANSWERS}")
        return cls(**{name: Answer(**data[name]) for name in QUESTIONS})

    def lines(self) -> list[str]:
        """Question and answer, then the sentence, indented: for a terminal of 80 columns."""
        lines = []
        for name, question in QUESTIONS.items():
            answer = getattr(self, name)
            lines.append(f"{question}  {word(name, answer).upper()}")
            lines += wrap(answer.sentence, 78, initial_indent="  ", subsequent_indent="  ")
        return lines


QUESTIONS = {
    "ranking": "Does it rank better than the best baseline?",
    "money": "Is anything left after costs?",
    "trust": "Can this result be trusted?",
}


def word(question: str, answer: Answer) -> str:
    """The answer as a reader expects it after that question."""
    if answer.answer == UNKNOWN:
        return "only in part" if question == "trust" else "not shown"
    return "no, worse" if answer.answer == WORSE else answer.answer


def conclude(
    table: pd.DataFrame,
    tests: Mapping[Hashable, Row],
    traded: BacktestResult | None,
    notes: Sequence[str],
    *,
    leak_warning: str | None,
    few_rankings: bool,
) -> Verdict:
    """The answers of an evaluation.

    table: `Comparison.table`. tests: of the model's metrics, the rows of `statistics.summary`.
    notes: the caveats. leak_warning: on a figure that is too good to be true. few_rankings: whether
    the dates repeat nearly the same ranking.
    """
    return Verdict(
        ranking=_ranking(table, tests, few_rankings),
        money=_money(traded),
        trust=_trust(float(tests["rank_ic"]["n"]), notes, leak_warning, few_rankings),
    )


def contaminated(notes: Sequence[str]) -> list[str]:
    """The notes by which something fitted or selected has seen the test period."""
    return [note for note in notes if CONTAMINATED.search(note)]


def survivorship(notes: Sequence[str]) -> list[str]:
    """The notes by which stocks that left the universe are missing."""
    return [note for note in notes if SURVIVORSHIP.search(note)]


def worse_levels(table: pd.DataFrame, tests: Mapping[Hashable, Row]) -> dict[str, str]:
    """By metric, the best constant known before the test that is significantly better.

    table, tests: as in `conclude`.
    """
    found, rows = {}, table.to_dict("index")
    for name, metric in COMPARED.items():
        known = [row for row in metric.compared_with or () if row in table.index]
        better = [row for row in known if lead_sign(rows[row], name, tests[name]["n"]) < 0]
        if better:
            found[name] = max(better, key=lambda row: metric.direction * table[name][row])
    return found


def _ranking(table: pd.DataFrame, tests: Mapping[Hashable, Row], few_rankings: bool) -> Answer:
    quantity, own = COMPARED["rank_ic"], tests["rank_ic"]
    value, n = quantity.format(own["mean"]), int(own["n"])
    missing = "" if STRONGEST in table.index else f" {NOT_RUN}"
    sign = significant_sign(own["mean"], own["p"], own["lower"], own["upper"], n)
    rankers = table.drop(index=["model", HINDSIGHT], errors="ignore")
    rankers = rankers[rankers["rank_ic_lead"].notna()]
    if n == 0:
        answer, sentence = NO, "On each test date all its forecasts are the same."
    elif n < MIN_DATES:
        answer, sentence = UNKNOWN, f"Rank IC {value} on {n} dates, too few to conclude."
    elif few_rankings and sign > 0:
        answer, sentence = UNKNOWN, f"Rank IC {value}, but the dates repeat nearly one ranking."
    elif rankers.empty:
        answer = {1: UNKNOWN, 0: NO, -1: WORSE}[sign]
        sentence = f"Rank IC {value}; no baseline that ranks was run."
    else:
        answer, relation, lead = _against(rankers, sign, n)
        if answer == YES and missing:
            answer, relation = UNKNOWN, "better than those run"
        sentence = f"Rank IC {value}, {relation}; {lead}."
    return Answer(answer, f"{sentence}{missing}{_levels(table, tests)}")


def _against(rankers: pd.DataFrame, sign: int, n: int) -> tuple[str, str, str]:
    """The answer, its words, and the lead over the baseline that decides.

    That is the best of those significantly better, else of those not beaten, else of all. sign: of
    the model's rank IC.
    """
    rows = rankers.to_dict("index")
    signs = {str(name): lead_sign(row, "rank_ic", n) for name, row in rows.items()}
    unbeaten = [name for name, each in signs.items() if each < 1]
    better = [name for name in unbeaten if signs[name] < 0]
    best = max(better or unbeaten or list(signs), key=lambda name: rankers["rank_ic"][name])
    row = rows[best]
    quantity = COMPARED["rank_ic"]
    lead = (
        f"{label(best)} has {quantity.format(row['rank_ic'])} (lead "
        f"{quantity.format(row['rank_ic_lead'])}, 95 % interval "
        f"{format_interval(quantity, row['rank_ic_lower'], row['rank_ic_upper'])})"
    )
    if better:
        return WORSE, f"significantly worse than {label(best)}", lead
    if sign < 0:
        return WORSE, "significantly worse than chance", lead
    if sign == 0:
        return NO, "not significantly better than chance", lead
    if unbeaten:
        return NO, f"not significantly better than {label(best)}", lead
    return YES, f"significantly better than all {len(signs)} baselines", lead


def _levels(table: pd.DataFrame, tests: Mapping[Hashable, Row]) -> str:
    worse = [
        f"{COMPARED[metric].title} {COMPARED[metric].in_words(values['model'])} is significantly "
        f"worse than {COMPARED[metric].format(values[name])} of {label(name)}"
        for metric, name in worse_levels(table, tests).items()
        for values in [table[metric]]
    ]
    return f" {'; '.join(worse)}." if worse else ""


def _money(traded: BacktestResult | None) -> Answer:
    if traded is None:
        return Answer(UNKNOWN, "There was no backtest: too few test dates, or nothing was ranked.")
    excess, base = traded.excess["base"], traded.figures.loc["base"]
    mean, lower, upper = (x / BASIS_POINT for x in (excess.mean, excess.lower, excess.upper))
    sentence = (
        f"{base['total_return']:+z.1%} after costs, {base['benchmark_total_return']:+z.1%} for the "
        f"equal-weight universe, over {excess.n} days: {mean:+z.1f} basis points a day (95 % "
        f"interval {lower:+z.1f} to {upper:+z.1f})."
    )
    if excess.few:
        return Answer(UNKNOWN, f"{sentence} Too few days to conclude.")
    if excess.sign:
        return Answer(YES if excess.sign > 0 else WORSE, sentence)
    if mean > 0:
        return Answer(UNKNOWN, f"{sentence} That may be chance.")
    return Answer(NO, sentence)


def _trust(n: float, notes: Sequence[str], leak_warning: str | None, few_rankings: bool) -> Answer:
    simulated = any("simulated market" in note for note in notes)
    about = f" {SIMULATED}: this says nothing about real stocks." if simulated else ""
    if leak_warning is not None:
        return Answer(NO, f"{leak_warning}{about}")
    if found := contaminated(notes):
        return Answer(NO, f"Contaminated: {found[0]}.{about}")
    doubts = []
    if n < FEW_DATES:
        doubts.append(f"{n:.0f} test dates are few, so intervals are too narrow")
    if few_rankings:
        doubts.append("the dates repeat nearly one ranking")
    doubts += survivorship(notes)[:1]
    doubts += [note for note in notes if WAIVED.search(note)]
    if doubts:
        sentence = "; ".join(doubts)
        return Answer(UNKNOWN, f"{sentence[0].upper()}{sentence[1:]}.{about}")
    return Answer(YES, f"{n:.0f} test dates, no sign of a leak, no known contamination.{about}")


def lead_sign(row: Row, metric: str, n: float) -> int:
    """Of the model's lead over a row of `Comparison.table` on n dates, as `Estimate.sign`."""
    lead, p, lower, upper = (
        row.get(f"{metric}_{name}", float("nan")) for name in ("lead", "p", "lower", "upper")
    )
    return significant_sign(lead, p, lower, upper, n)
