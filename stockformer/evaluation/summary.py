"""What a run says of itself at its end: the model beside the baselines, statistics, backtest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from stockformer.evaluation import comparison, statistics, trading
from stockformer.evaluation.baselines import lightgbm_missing
from stockformer.evaluation.comparison import BETTER, NAMES, Comparison, compare
from stockformer.evaluation.metrics import Predictions, daily, score
from stockformer.evaluation.screening import TOO_GOOD
from stockformer.evaluation.trading import (
    BacktestResult,
    BacktestSpec,
    daily_returns,
    excess_verdict,
    gaps_of_index,
    holes,
    trade,
)

VERSION = 3
"""Of evaluation.json, docs/evaluation.md; a reader refuses one it does not know."""

DAILY = ("rank_ic", "ic", "mae", "accuracy")
"""Series of the model in evaluation.json: what two runs are compared by, day by day."""


@dataclass(frozen=True)
class Summary:
    """scores: of `metrics.score`; verdict: the headline; sentences: what else is concluded, of
    level forecasts, of trading, and which baselines that was with; oracle_rank_ic: None unless the
    market is simulated, first_step_rank_ic: the model's where the oracle, of the next day, has one;
    daily: of `metrics.daily`; statistics: of `statistics.summary` of it; traded: None where there
    are too few dates; validation: by date net_return and benchmark of the validation forecasts,
    traded likewise, because picks are made there; targets: project targets by metric."""

    scores: dict[str, float]
    comparison: Comparison
    verdict: str
    sentences: Sequence[str]
    oracle_rank_ic: float | None
    notes: Sequence[str]
    first_step_rank_ic: float
    daily: pd.DataFrame
    statistics: pd.DataFrame
    traded: BacktestResult | None
    validation: pd.DataFrame | None
    targets: Mapping[str, float]

    def targets_met(self) -> list[dict[str, Any]]:
        """Each project target with the model's figure and whether that meets it."""
        return [
            {
                "name": f"test {NAMES[metric]} {'>' if BETTER[metric] > 0 else '<'} {target:g}",
                "value": self.scores[metric],
                "met": BETTER[metric] * (self.scores[metric] - target) > 0,
            }
            for metric, target in self.targets.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """What evaluation.json holds; not-a-number is None."""
        rows = self.comparison.table().rename_axis("name").reset_index().to_dict("records")
        return plain(
            {
                "version": VERSION,
                "model": self.scores,
                "table": rows,
                "verdict": self.verdict,
                "sentences": list(self.sentences),
                "targets": self.targets_met(),
                "oracle_rank_ic": self.oracle_rank_ic,
                "first_step_rank_ic": self.first_step_rank_ic,
                "notes": list(self.notes),
                "statistics": self.statistics.to_dict("index"),
                "daily": _by_date(self.daily[list(DAILY)], "signal_date"),
                "backtest": None if self.traded is None else trading.as_json(self.traded),
                "validation": None
                if self.validation is None
                else {"daily": _by_date(self.validation, "date")},
            }
        )

    def lines(self) -> list[str]:
        """The closing table, for a terminal or a log."""
        table = self.comparison.table()
        lines = [
            f"{int(self.scores['n_dates'])} test dates:",
            "",
            *closing_table(table, self.oracle_rank_ic, self.first_step_rank_ic),
            "",
            self.verdict,
            *self.sentences,
        ]
        lines += [
            f"project target, {target['name']}: {'met' if target['met'] else 'not met'} "
            f"({target['value']:.4f})"
            for target in self.targets_met()
        ]
        if self.traded is not None:
            figures = pd.DataFrame(self.traded.figures).T
            lines += trading.lines(self.traded.ledger.settings, figures, self.traded.offsets)
        return [*lines, *(f"note: {note}" for note in self.notes)]


def closing_table(
    table: pd.DataFrame, oracle_rank_ic: float | None, first_step_rank_ic: float
) -> list[str]:
    """The model beside the baselines and the oracle, if there is one: lines of 79 characters."""
    lines = [
        f"{'':31}{'lead of the model in rank IC':^31}",
        f"{'':22}{'rank IC':>9}{'lead':>9}{'95 % interval':>17}{'p':>7}{'MAE':>8}{'acc.':>7}",
    ]
    for name, row in table.iterrows():
        cells = {key: _cell(row.get(key)) for key in ("rank_ic", "rank_ic_lead")}
        interval = "-"
        if math.isfinite(row.get("rank_ic_lower", math.nan)):
            interval = f"{row['rank_ic_lower']:+.3f} to {row['rank_ic_upper']:+.3f}"
        p = row.get("rank_ic_p", math.nan)
        told = "-" if not math.isfinite(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
        lines.append(
            f"{_short_label(str(name)):22}{cells['rank_ic']:>9}{cells['rank_ic_lead']:>9}"
            f"{interval:>17}{told:>7}{row['mae']:8.5f}{row['accuracy']:7.3f}"
        )
    if oracle_rank_ic:
        share = first_step_rank_ic / oracle_rank_ic
        reached = f"{share:.0%}" if share > 0 else "none of it"
        lines.append(f"{'oracle':22}{oracle_rank_ic:+9.4f}   the model reaches {reached}")
    how = "lead: above zero is better for the model; its own row: its rank IC against zero"
    return [*lines, how]


def summarise(
    predictions: Predictions,
    baselines: Mapping[str, Predictions],
    *,
    trading: BacktestSpec,
    notes: Sequence[str],
    oracle: np.ndarray | None = None,
    validation: Predictions | None = None,
    targets: Mapping[str, float] | None = None,
    suspects: Sequence[str] = (),
) -> Summary:
    """Judge a model's predictions beside baselines on the same dates and cells.

    oracle (S, N): the expected next-day return of each signal date, if the market is simulated.
    validation: the model's predictions of the validation days, if it was chosen by them. targets:
    project targets by metric. suspects: what is already known of leaks in the data, sentences.
    Raises ValueError where baselines or market do not fit the predictions.
    """
    compared, days = compare(predictions, baselines), daily(predictions)
    scores, first = score(predictions), predictions.step(1)
    oracle_rank_ic = None if oracle is None else _oracle_rank_ic(first, oracle)
    missing = lightgbm_missing()
    said = [*notes, *trading.notes, *holes(predictions, trading.market.dates)]
    if scores["n_dates"] < statistics.FEW_DATES:
        said.append(
            f"under {statistics.FEW_DATES} test dates intervals and p-values are too narrow"
        )
    if 0 < scores["n_ranked_dates"] < scores["n_dates"]:
        silent = scores["n_dates"] - scores["n_ranked_dates"]
        said.append(
            f"on {silent:.0f} of {scores['n_dates']:.0f} test dates the model gives all stocks the "
            "same forecast; its rank IC is that of the others"
        )
    # Trading what ranks nothing would trade the order of the tickers.
    traded = trade(predictions, trading) if scores["n_ranked_dates"] else None
    sentences = [comparison.levels(compared)]
    if traded is None:
        why = "too few test dates" if scores["n_ranked_dates"] else "the forecasts rank nothing"
        said.append(f"no backtest: {why}")
    else:
        said += gaps_of_index(traded, trading)
        sentences.append(excess_verdict(traded.excess["base"]))
    sentences.append(comparison.tested(compared))
    limit = max(TOO_GOOD, oracle_rank_ic or 0.0)  # of a simulated market the limit is known
    warnings = comparison.leak_warnings(compared, limit, suspects)
    return Summary(
        scores=scores,
        comparison=compared,
        verdict=" ".join([*warnings, comparison.verdict(compared, missing)]),
        sentences=[sentence for sentence in sentences if sentence],
        oracle_rank_ic=oracle_rank_ic,
        notes=said,
        first_step_rank_ic=score(first)["rank_ic"],
        daily=days,
        statistics=statistics.summary(days.drop(columns="n_valid"), predictions.horizon),
        traded=traded,
        validation=None if validation is None else daily_returns(validation, trading),
        targets=targets or {},
    )


def _oracle_rank_ic(first: Predictions, oracle: np.ndarray) -> float:
    """What the best forecaster reaches where its forecast is known."""
    expected = oracle[:, None]
    return score(replace(first, prediction=expected, valid=first.valid & np.isfinite(expected)))[
        "rank_ic"
    ]


def _by_date(frame: pd.DataFrame, dates: str) -> dict[str, list[Any]]:
    """The columns of a frame by date as lists, the dates first, as ISO text."""
    columns = {str(name): frame[name].tolist() for name in frame}
    return {dates: [f"{date:%Y-%m-%d}" for date in frame.index], **columns}


def _cell(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:+.4f}"


def _short_label(name: str) -> str:
    return "best constant (after)" if name == comparison.HINDSIGHT else comparison.label(name)


def plain(value: Any) -> Any:
    """As JSON knows it: NumPy's numbers as Python's, what is no number as None."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
