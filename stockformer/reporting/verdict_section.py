"""The head of a run's page: the verdict card, what it rests on, and the lead over each baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from stockformer.evaluation.backtest import BASIS_POINT
from stockformer.evaluation.comparison import HINDSIGHT, label
from stockformer.evaluation.metrics import COMPARED, METRICS
from stockformer.evaluation.quantities import format_count
from stockformer.evaluation.record import EvaluationRecord
from stockformer.evaluation.statistics import FEW_DATES, Estimate
from stockformer.evaluation.verdict import (
    NO,
    QUESTIONS,
    UNKNOWN,
    WAIVED,
    YES,
    Verdict,
    contaminated,
    lead_sign,
    survivorship,
    word,
)
from stockformer.reporting import figures, tables
from stockformer.reporting.page import Mark, Plot, Section
from stockformer.runs.console import program
from stockformer.runs.folder import SWEEP_FILE
from stockformer.runs.recorded_run import RecordedRun, folders_under

PANELS = ("rank_ic", "brier", "mae")
"""The metrics whose leads are drawn, beside the return after costs."""
TITLE = "Lead over each baseline"
AUDITED = {"passed": "good", "FAILED": "bad"}
"""The answers to outcomes of an audit, named as `runs.audited` records them."""


def card(answers: Verdict) -> list[Mark]:
    """The three answers, each with its question and reason.

    No answer is green if the result cannot be trusted.
    """
    found = []
    for name, question in QUESTIONS.items():
        answer = getattr(answers, name)
        colour = {YES: "good", UNKNOWN: "unsure"}.get(answer.answer, "bad")
        said = word(name, answer)
        if colour == "good" and answers.trust.answer == NO:
            colour, said = "unsure", "apparently"
        found.append(Mark(question, colour, said, answer.sentence))
    return found


def strip(run: RecordedRun, evaluation: EvaluationRecord) -> list[Mark]:
    """What the answers rest on, each with what it means where it is not as it should be."""
    notes = [*evaluation.notes, *(run.manifest.warnings if run.manifest is not None else ())]
    return [
        _audit(run, notes),
        _noted("Contamination", contaminated(notes), "bad"),
        _noted("Survivorship", survivorship(notes), "unsure"),
        _dates(run, evaluation),
        _trials(run),
        _seeds(run, evaluation),
    ]


def lead(run: RecordedRun) -> Section:
    """The lead over each baseline as intervals; tables of all tests, targets and notes folded."""
    table, evaluation = run.comparison, run.evaluation
    if table is None:
        return Section(TITLE, "The run has not been tested.", anchor="lead")
    if evaluation is None:
        return Section(
            TITLE, "The run has no evaluation.json.", tables.comparison(table), anchor="lead"
        )
    targets = [tables.targets(evaluation)] if evaluation.targets else []
    return Section(
        TITLE,
        "Right of the line the model is better. A bar is the 95 % interval of the daily lead, "
        "paired by date. Filled circle: significantly better; cross: significantly worse; open "
        "circle: neither. Rank IC decides the first answer: good is a filled circle on each of its "
        "lines. Return: over the equal-weight universe.",
        plots=_panels(evaluation),
        anchor="lead",
        panels=True,
        folded=Section(
            "All values, tests and p-values, project targets, and notes",
            tables=[*tables.comparison(table), *targets],
            remarks=[
                evaluation.verdict,
                *evaluation.sentences,
                *tables.remarks(evaluation),
                tables.HOW_TO_READ_COMPARISON,
            ],
        ),
    )


def _panels(evaluation: EvaluationRecord) -> list[Plot]:
    leads = {name: _leads(evaluation, name) for name in PANELS}
    money = evaluation.backtest
    excess = pd.DataFrame() if money is None else _excess(money.excess)
    height = figures.forest_height(max(map(len, [*leads.values(), excess])))
    plots = []
    for name, frame in leads.items():
        metric = replace(METRICS[name], around_zero=True)
        figure = figures.forest(frame, f"lead ({metric.unit})", metric.spec, height)
        plots.append(Plot(f"{metric.title[0].upper()}{metric.title[1:]}", figure))
    title = "Return after costs"
    plots.append(Plot(title, figures.forest(excess, "lead (basis points a day)", "+.1f", height)))
    return plots


def _leads(evaluation: EvaluationRecord, metric: str) -> pd.DataFrame:
    """lead, lower, upper (in the metric's unit), significant by baseline, the best value first.

    Level forecasts: the constants that the metric is compared with.
    """
    table, n = evaluation.table, evaluation.statistics["n"][metric]
    known = (*(COMPARED[metric].compared_with or ()), HINDSIGHT)
    rows = table.drop(index="model")
    if COMPARED[metric].compared_with:
        rows = rows[rows.index.isin(known)]
    if f"{metric}_lead" not in rows:
        return pd.DataFrame()
    rows = rows[rows[f"{metric}_lead"].notna()]
    rows = rows.sort_values(metric, ascending=not COMPARED[metric].higher_is_better)
    scale = METRICS[metric].scale
    columns = ("lead", "lower", "upper")
    frame = pd.DataFrame({name: scale * rows[f"{metric}_{name}"] for name in columns})
    frame["significant"] = [lead_sign(row, metric, n) != 0 for row in rows.to_dict("records")]
    return frame.rename(index=lambda name: label(str(name)).removeprefix("best "))


def _excess(excess: Mapping[str, Estimate]) -> pd.DataFrame:
    """The same of the daily excess over the universe, by variant of the backtest, basis points."""
    names = {
        "base": "as configured",
        "one_day_later": "a day later",
        "doubled_costs": "costs doubled",
    }
    rows: dict[str, dict[str, Any]] = {
        names[name]: {
            "lead": each.mean / BASIS_POINT,
            "lower": each.lower / BASIS_POINT,
            "upper": each.upper / BASIS_POINT,
            "significant": each.sign != 0,
        }
        for name, each in excess.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _audit(run: RecordedRun, notes: list[str]) -> Mark:
    """As recorded at the run's start; runs of earlier versions recorded nothing."""
    waived = [note for note in notes if WAIVED.search(note)]
    if waived:
        return Mark("Look-ahead audit", "unsure", "waived", waived[0])
    outcome, when = run.audit
    if outcome in AUDITED:
        text = f"{when[:1].upper()}{when[1:]}, on the same data, settings and code."
        return Mark("Look-ahead audit", AUDITED[outcome], outcome, text)
    text = f"Run {program('validate')} with this run's settings, then train again."
    return Mark("Look-ahead audit", "unsure", "not run", text)


def _noted(title: str, notes: list[str], otherwise: str) -> Mark:
    if notes:
        return Mark(title, otherwise, "yes", f"{notes[0][:1].upper()}{notes[0][1:]}.")
    return Mark(title, "plain", "none noted", "By the data set's own caveats.")


def _dates(run: RecordedRun, evaluation: EvaluationRecord) -> Mark:
    row = evaluation.statistics.to_dict("index")["rank_ic"]
    own = Estimate(**{str(name): value for name, value in row.items()})
    stocks = 2 if run.predictions is None else len(run.predictions.tickers)
    effect = own.detectable(1 / (max(stocks, 2) - 1) ** 0.5)
    can = f"can show a rank IC from {effect:.3f}" if effect < 1 else "can show no rank IC"
    few = own.n < FEW_DATES
    narrow = f"; under {FEW_DATES}, so intervals are too narrow" if few else ""
    return Mark("Test dates", "unsure" if few else "plain", str(own.n), f"They {can}{narrow}.")


def _trials(run: RecordedRun) -> Mark:
    folder = run.path.parent
    if not (folder / SWEEP_FILE).exists():
        text = "Not of a sweep; other runs on these dates count too."
        return Mark("Trials", "plain", "1 known", text)
    count = len(folders_under(folder))
    text = "In its sweep: the best of many looks better than it is; see the leaderboard."
    return Mark("Trials", "unsure" if count > 1 else "plain", format_count(count, "job"), text)


def _seeds(run: RecordedRun, evaluation: EvaluationRecord) -> Mark:
    if evaluation.epoch is None:
        return Mark("Seeds", "plain", "an ensemble", "Of several runs; see its manifest.")
    own = "" if run.manifest is None else f"Seed {run.manifest.facts.get('seed', 'unknown')}. "
    text = f"{own}The spread between seeds is unknown; train with others."
    return Mark("Seeds", "unsure", "1", text)
