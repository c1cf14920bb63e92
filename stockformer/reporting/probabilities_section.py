"""The report's section on the probabilities of "up": calibration and Brier score."""

from __future__ import annotations

import math

from stockformer.evaluation import forecasts
from stockformer.evaluation.comparison import best_constant
from stockformer.evaluation.predictions import calibration, daily
from stockformer.evaluation.quantities import Quantity, format_interval, format_p
from stockformer.evaluation.statistics import Estimate
from stockformer.reporting import signal_figures
from stockformer.reporting.page import Plot, Section
from stockformer.reporting.signal_section import nothing_to_score
from stockformer.reporting.tables import Table
from stockformer.runs.recorded_run import RecordedRun

TITLE, ANCHOR = "Probabilities", "probabilities"
BINS = 20
KNOWN = "training_mean"
"""The constant that is known before the test: the share of "up" in training."""
CONSTANT = {
    "known": 'the share of "up" in training',
    "hindsight": 'the share of "up" on the test dates themselves',
}
SKILL = Quantity("Brier skill score", "%", 2, around_zero=True, percent=True)
SCORE = Quantity("Brier score", "probability\u00b2", 4)


def section(run: RecordedRun) -> Section:
    """How often what was forecast with a probability came true, and the skill over constants."""
    predictions = run.predictions
    if predictions is None or not predictions.valid.any():
        return Section(TITLE, nothing_to_score(run), anchor=ANCHOR)
    brier = daily(predictions)["brier"]
    reference = daily(best_constant(predictions))["brier"]
    hindsight = forecasts.brier_skill(brier, reference, predictions.horizon)
    known = against_training(run)
    rows = [("base rate of these test dates, in hindsight", float(reference.mean()), hindsight)]
    if known is not None:
        rows.insert(0, ("share of up in training, known before", *known))
    intervals = forecasts.calibration_intervals(predictions, BINS)
    calibrated = Plot(
        "Calibration",
        signal_figures.calibration(intervals),
        "Good: on the dashed line, what was forecast with 60 % comes true 60 % of the time. Lines: "
        f"95 % intervals, by date. Bins of under {forecasts.LEAST_FORECASTS} forecasts are not "
        "shown.",
    )
    counts = Plot(
        "Forecasts by probability",
        signal_figures.counts(calibration(predictions, BINS)),
        "Good: spread out, as far as they stay calibrated. Forecasts close together can be "
        "calibrated and still say little.",
    )
    constant, against = ("known", known[1]) if known is not None else ("hindsight", hindsight)
    return Section(
        TITLE,
        verdict(float(brier.mean()), against, CONSTANT[constant]),
        [skill(float(brier.mean()), rows)],
        plots=[calibrated, counts] if len(intervals) else [counts],
        anchor=ANCHOR,
    )


def against_training(run: RecordedRun) -> tuple[float, Estimate] | None:
    """The Brier score of the share of "up" in training, and the skill over it, as recorded."""
    if run.evaluation is None or KNOWN not in run.evaluation.table.index:
        return None
    row = run.evaluation.table.astype(float).loc[KNOWN].to_dict()
    lead, score = row.get("brier_lead", math.nan), row.get("brier", math.nan)
    if not math.isfinite(lead) or not score > 0:
        return None
    days, t = int(run.evaluation.daily["brier"].notna().sum()), row["brier_t"]
    skill = Estimate(  # over the recorded score, whose own error is small beside the lead's
        mean=lead / score,
        n=days,
        lag=0,
        standard_error=lead / t / score if t else math.nan,
        t=t,
        p=row["brier_p"],
        lower=row["brier_lower"] / score,
        upper=row["brier_upper"] / score,
    )
    return score, skill


def verdict(brier: float, skill: Estimate, constant: str) -> str:
    """Whether the probabilities are better than always forecasting this constant."""
    value = f"Brier score {SCORE.format(brier)}"
    said = f"skill score {SKILL.format(skill.mean)}, p {format_p(skill.p)}"
    if skill.few:
        return f"{value}: too few dates to compare it with always forecasting {constant} ({said})."
    better = "better" if skill.mean > 0 else "worse"
    surely = "significantly " if skill.sign else ""
    doubt = "" if skill.sign else ", but not significantly"
    return (
        f"{value}: the probabilities are {surely}{better} than always forecasting {constant}"
        f"{doubt} ({said}). The skill score is 1 less the Brier score over that of the constant."
    )


def skill(brier: float, rows: list[tuple[str, float, Estimate]]) -> Table:
    cells = [("model", SCORE.format(brier), "", "", "")]
    cells += [
        (
            name,
            SCORE.format(score),
            SKILL.format(test.mean),
            format_interval(SKILL, test.lower, test.upper),
            format_p(test.p),
        )
        for name, score, test in rows
    ]
    header = ("constant probability", "Brier score", "model's skill over it", "95 % interval", "p")
    return Table(header, cells, marked="model")
