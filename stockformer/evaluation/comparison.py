"""The comparison of the model with its baselines, and the conclusions in words.

Ranking (rank IC) is compared with baselines that rank, level forecasts (MAE, accuracy, Brier score)
with constants: a drift that all stocks share is no ranking skill. A lead is positive where the
model is better, whatever the metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from stockformer.evaluation.baselines import CONSTANTS, STRONGEST
from stockformer.evaluation.metrics import COMPARED
from stockformer.evaluation.predictions import Predictions, daily, rank_stability
from stockformer.evaluation.quantities import format_interval
from stockformer.evaluation.statistics import MIN_DATES, Estimate, estimate, p_value

HINDSIGHT = "best_constant"
LABELS = {
    "reversal_1_day": "1-day reversal",
    "reversal_5_day": "5-day reversal",
    "momentum_20_day": "20-day momentum",
    "lightgbm": "LightGBM",
    HINDSIGHT: "best constant in hindsight",
}

FEW_TOO_GOOD = 0.5
"""`TOO_GOOD` for few dates, whose mean rank IC can exceed the usual limit by chance."""

MIN_RANKINGS = 3
"""With fewer separate rankings nothing is concluded: dates that repeat one are no evidence."""


@dataclass(frozen=True)
class Comparison:
    """A model and its baselines on the same dates and cells.

    values: mean over dates of each of `COMPARED`, a row a forecaster: "model", the baselines, and
    `HINDSIGHT`; NaN where a forecaster ranks nothing. own: the model's rank IC against zero.
    leads: by metric and baseline, the paired daily lead of the model; in rank IC, only over
    baselines that rank. n_dates: number of test dates; n_stocks: mean number of valid stocks a
    date. stability: mean of `predictions.rank_stability` of the model, NaN if undefined.
    """

    values: pd.DataFrame
    own: Estimate
    leads: Mapping[str, Mapping[str, Estimate]]
    n_dates: int
    n_stocks: float
    stability: float

    @property
    def n_rankings(self) -> float:
        return effective_rankings(self.own.n, self.stability)

    def table(self) -> pd.DataFrame:
        """`values` with the leads.

        For each metric its mean, and `_lead`, `_lower`, `_upper`, `_t`, `_p` of the model's lead
        over the row; in the model's own row, except the lead, they test its rank IC against zero.
        """
        columns: dict[str, pd.Series] = {}
        tests = {"lower": "lower", "upper": "upper", "t": "t", "p": "p"}
        for metric, leads in self.leads.items():
            columns[metric] = self.values[metric]
            rows = {"lead": {name: lead.mean for name, lead in leads.items()}}
            for column, field in tests.items():
                rows[column] = {name: getattr(lead, field) for name, lead in leads.items()}
                if metric == "rank_ic":
                    rows[column]["model"] = getattr(self.own, field)
            for column, cells in rows.items():
                columns[f"{metric}_{column}"] = pd.Series(cells, dtype=float)
        return pd.DataFrame(columns, index=self.values.index)


def effective_rankings(n: int, stability: float) -> float:
    """Effective number of separate rankings of n dates: n (1 - r) / (1 + r).

    The formula of a first-order autoregression of correlation r, the stability (NaN: 0). Scores
    that never change are one ranking, whatever the number of dates.
    """
    r = min(max(float(np.nan_to_num(stability)), 0.0), 1.0)
    return n * (1 - r) / (1 + r)


def compare(model: Predictions, baselines: Mapping[str, Predictions]) -> Comparison:
    """The mean metrics of every forecaster, and tests of the model's daily lead over each."""
    others = {**baselines, HINDSIGHT: best_constant(model)}
    days = {name: daily(predictions) for name, predictions in others.items()}
    return compare_days(daily(model), days, model.horizon, rank_stability(model).mean())


def compare_days(
    own: pd.DataFrame, baselines: Mapping[str, pd.DataFrame], horizon: int, stability: float
) -> Comparison:
    """`compare`, from `predictions.daily` of the model and of its baselines on the same dates."""
    days = {"model": own, **baselines}
    leads = {
        metric: {
            name: estimate(quantity.direction * (own[metric] - frame[metric]), horizon)
            for name, frame in days.items()
            if name != "model" and frame[metric].notna().any()
        }
        for metric, quantity in COMPARED.items()
    }
    return Comparison(
        values=pd.DataFrame({name: frame[list(COMPARED)].mean() for name, frame in days.items()}).T,
        own=estimate(own["rank_ic"], horizon),
        leads=leads,
        n_dates=int((own["n_valid"] > 0).sum()),
        n_stocks=float(own["n_valid"].mean()),
        stability=stability,
    )


def best_constant(model: Predictions) -> Predictions:
    """The one return and the one probability of "up" that fit these very test dates best.

    The median return and the share of "up", each date weighing the same: no other constant has a
    lower MAE or Brier score or a higher accuracy. It uses the outcomes, so no constant or drift
    beats it by chance; a model that beats it has skill.
    """
    cells = model.valid.sum(axis=2, keepdims=True)
    steps = np.maximum((cells > 0).sum(axis=1, keepdims=True), 1)
    weights = np.where(model.valid, 1 / np.maximum(cells * steps, 1), 0.0)[model.valid]
    label, up = model.label[model.valid], model.up[model.valid]
    if not len(label):
        return replace(model, prediction=np.zeros_like(model.prediction))
    order = np.argsort(label)
    half = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    median = label[order][min(int(half), len(label) - 1)]
    return replace(
        model,
        prediction=np.full_like(model.prediction, median),
        probability=np.full_like(model.probability, np.average(up, weights=weights)),
    )


def verdict(comparison: Comparison, lightgbm_missing: str | None = None) -> str:
    """The headline: does the model rank stocks better than chance and than every baseline.

    A claim needs a rank IC above zero (p under 0.05) and a paired lead with p under 0.05 over each
    baseline that ranks. lightgbm_missing: why LightGBM was not run, if it was not.
    """
    own, leads = comparison.own, comparison.leads["rank_ic"]
    if own.n == 0:
        return "The model ranks nothing: on each test date all its forecasts are the same."
    value = COMPARED["rank_ic"].format(own.mean)
    without = ""
    if STRONGEST not in leads and lightgbm_missing:
        without = f" LightGBM, usually the strongest baseline, was not run ({lightgbm_missing})."
    if own.few:
        few = f"rank IC {value} over {_dates(own.n)}; {_detectable(comparison)}"
        return f"Too few dates to conclude: {few}."
    tested_rank_ic = f"rank IC {value}, {p_value(own.p)}"
    if own.sign == 1 and comparison.n_rankings < MIN_RANKINGS:
        return (
            f"Too few separate rankings to conclude ({tested_rank_ic}): the order of the stocks "
            f"hardly changes from date to date (rank correlation {comparison.stability:.2f}), so "
            f"{_dates(own.n)} count as about {max(comparison.n_rankings, 1):.0f}."
        )
    skill = {
        1: f"The model ranks stocks better than chance ({tested_rank_ic})",
        0: f"The model shows no skill in ranking ({tested_rank_ic})",
        -1: f"The model ranks stocks worse than chance ({tested_rank_ic})",
    }[own.sign]
    if not leads:
        return f"{skill}. No baseline that ranks was run.{without}"
    values = {name: float(comparison.values["rank_ic"][name]) for name in leads}
    unbeaten = [name for name, lead in leads.items() if lead.sign < 1]
    if own.sign == 1 and not unbeaten:
        best = max(values, key=values.__getitem__)
        return (
            f"{skill} and than every baseline tested ({len(leads)}): "
            f"{_lead(comparison, best)}.{without}"
        )
    best = max(unbeaten or values, key=values.__getitem__)
    relation = {
        1: "though better than",
        0: "and not significantly better than"
        if own.sign < 1
        else "but not significantly better than",
        -1: "and is significantly worse than" if own.sign < 1 else "but significantly worse than",
    }[leads[best].sign]
    sentence = f"{skill} {relation} {_lead(comparison, best)}"
    if own.sign == 0:
        sentence += f"; {_detectable(comparison)}"
    return f"{sentence}.{without}"


def levels(comparison: Comparison) -> str:
    """The sentence on level forecasts: each metric compared with its own constants.

    "Beats" means a paired lead with p under 0.05 over each of them and over the best constant in
    hindsight; "worse" means a paired deficit with p under 0.05 to the best constant known before
    the test. Empty if the dates are too few to conclude.
    """
    if comparison.n_dates < MIN_DATES:
        return ""
    parts = [_level(comparison, name) for name, metric in COMPARED.items() if metric.compared_with]
    return f"As level forecasts: {'; '.join(parts)}."


def tested(comparison: Comparison) -> str:
    """The sentence that names the baselines of the comparison."""
    rankers = [label(name) for name in comparison.leads["rank_ic"]]
    constants = [label(n) for n in (*CONSTANTS, HINDSIGHT) if n in comparison.values.index]
    return (
        f"Baselines that rank: {', '.join(rankers) or 'none'}. Constants: {', '.join(constants)}."
    )


def leak_warnings(comparison: Comparison, limit: float, suspects: Sequence[str]) -> list[str]:
    """Warnings on figures above what leak-free daily forecasts reach.

    limit: of the rank IC. The limit of the lead in accuracy over the best constant is half of it:
    normal variables of correlation r agree in sign 1/2 + asin(r) / pi of the time. suspects:
    sentences on single factors, found before.
    """
    found = []
    own, leads = comparison.own, comparison.leads
    if own.mean > (FEW_TOO_GOOD if own.few else limit) and (own.few or own.sign == 1):
        found.append(
            f"Too good to be true: a rank IC of {own.mean:.3f}, over {limit:.2g}, suggests a leak "
            "of the label; find the cause before you trust any figure."
        )
    accuracy = leads["accuracy"].get(HINDSIGHT)
    if accuracy is not None and accuracy.mean > limit / 2 and accuracy.sign == 1:
        found.append(
            f"Too good to be true: an accuracy {accuracy.mean:.3f} above the best constant's "
            "suggests a leak of the label; find the cause before you trust any figure."
        )
    for name, value in comparison.values["rank_ic"].drop("model").items():
        if value > limit and comparison.n_dates >= MIN_DATES:
            found.append(
                f"Likely leak in the data: {label(str(name))} alone has a rank IC of {value:.3f}, "
                f"over {limit:.2g}."
            )
    return [*found, *suspects]


def label(name: str) -> str:
    """A forecaster's name in a sentence."""
    return LABELS.get(name, name.replace("_", " "))


def _level(comparison: Comparison, metric: str) -> str:
    quantity = COMPARED[metric]
    leads, values = comparison.leads[metric], comparison.values[metric]
    before = [name for name in quantity.compared_with or () if name in leads]
    if all(leads[name].sign == 1 for name in (*before, HINDSIGHT)):
        best, relation = HINDSIGHT, "beats"
    else:
        # A significant deficit to any of them is said, before a draw with a better one.
        worse = [name for name in before if leads[name].sign < 0]
        unbeaten = worse or [name for name in before if leads[name].sign < 1] or [HINDSIGHT]
        best = max(unbeaten, key=lambda name: quantity.direction * values[name])
        relation = "does not significantly beat"
        if worse:
            relation = "is significantly worse than"
        elif leads[best].mean < 0:
            relation = "is worse, not significantly, than"
    return (
        f"{quantity.title} {quantity.in_words(values['model'])} {relation} "
        f"{quantity.format(values[best])} of {_article(best)}{label(best)} "
        f"({p_value(leads[best].p)})"
    )


def _article(name: str) -> str:
    return "the " if name in ("training_mean", "majority_class", HINDSIGHT) else ""


def _lead(comparison: Comparison, name: str) -> str:
    """A baseline with its rank IC, and the model's lead over it."""
    lead, quantity = comparison.leads["rank_ic"][name], COMPARED["rank_ic"]
    value = quantity.format(comparison.values["rank_ic"][name])
    return (
        f"{label(name)} with {value} (lead {quantity.format(lead.mean)}, 95 % interval "
        f"{format_interval(quantity, lead.lower, lead.upper)}, {p_value(lead.p)})"
    )


def _detectable(comparison: Comparison) -> str:
    """The smallest detectable rank IC; that of N unrelated stocks varies by 1 / sqrt(N - 1)."""
    own = comparison.own
    effect = own.detectable(1 / math.sqrt(max(comparison.n_stocks - 1, 1)))
    if not effect < 1:
        return f"{_dates(own.n)} can detect no rank IC, however large"
    return f"{_dates(own.n)} can detect a rank IC of {effect:.3f} or more"


def _dates(n: int) -> str:
    return f"{n} date{'' if n == 1 else 's'}"
