"""What a run says of itself at its end: the model beside the baselines, statistics, backtest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from stockformer.evaluation import statistics, trading
from stockformer.evaluation.baselines import comparison_table, verdict
from stockformer.evaluation.metrics import Predictions, daily, score
from stockformer.evaluation.trading import Traded, Trading, gaps_of_index, trade

VERSION = 2
"""Of evaluation.json, docs/evaluation.md; a reader refuses one it does not know."""

DAILY = ("rank_ic", "ic", "mae", "accuracy")
"""Series of the model in evaluation.json: what two runs are compared by, day by day."""

FIRST_TARGETS = {"mae": ("test MAE < 0.015", 0.015), "accuracy": ("test accuracy > 0.52", 0.52)}


@dataclass(frozen=True)
class Summary:
    """scores: of `metrics.score`; table: of `baselines.comparison_table`; oracle_rank_ic: None
    unless the market is simulated, first_step_rank_ic: the model's where the oracle, of the next
    day, has one; daily: of `metrics.daily`; statistics: of `statistics.summary` of it; traded: None
    where there are too few dates."""

    scores: dict[str, float]
    table: pd.DataFrame
    verdict: str
    oracle_rank_ic: float | None
    notes: Sequence[str]
    first_step_rank_ic: float
    daily: pd.DataFrame
    statistics: pd.DataFrame
    traded: Traded | None

    def targets(self) -> list[dict[str, Any]]:
        """The first plan's targets for the prepared NIFTY-200 inputs, and whether they are met."""
        return [
            {
                "name": name,
                "value": self.scores[metric],
                "met": self.scores[metric] < limit
                if metric == "mae"
                else self.scores[metric] > limit,
            }
            for metric, (name, limit) in FIRST_TARGETS.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """What evaluation.json holds; not-a-number is None."""
        rows = self.table.rename_axis("name").reset_index().to_dict("records")
        days = self.daily.reset_index()
        return plain(
            {
                "version": VERSION,
                "model": self.scores,
                "table": rows,
                "verdict": self.verdict,
                "targets": self.targets(),
                "oracle_rank_ic": self.oracle_rank_ic,
                "first_step_rank_ic": self.first_step_rank_ic,
                "notes": list(self.notes),
                "statistics": self.statistics.to_dict("index"),
                "daily": {
                    "signal_date": days["signal_date"].dt.strftime("%Y-%m-%d").tolist(),
                    **{name: days[name].tolist() for name in DAILY},
                },
                "backtest": None if self.traded is None else trading.as_json(self.traded),
            }
        )

    def lines(self) -> list[str]:
        """The closing table, for a terminal or a log."""
        lines = [
            f"{int(self.scores['n_dates'])} test dates:",
            "",
            *closing_table(self.table, self.oracle_rank_ic, self.first_step_rank_ic),
            "",
            *self.verdict.replace("; ", ";\n").splitlines(),
        ]
        for (metric, _), target in zip(FIRST_TARGETS.items(), self.targets()):
            met = "met" if target["met"] else "not met"
            zero = float(self.table[metric]["zero_return"])
            lines.append(
                f"first target for NIFTY-200, {target['name']}: {met} ({target['value']:.4f}; "
                f"always forecasting zero: {zero:.4f})"
            )
        if self.traded is not None:
            figures = pd.DataFrame(self.traded.figures).T
            lines += trading.lines(
                self.traded.ledger.settings, figures, self.traded.offsets["base"]
            )
        return [*lines, *(f"note: {note}" for note in self.notes)]


def closing_table(
    table: pd.DataFrame, oracle_rank_ic: float | None, first_step_rank_ic: float
) -> list[str]:
    """The model beside the baselines and the oracle, if there is one: lines of 69 characters."""
    lines = [f"{'':18}{'rank IC':>9}{'t':>8}{'p':>8}{'MAE':>11}{'accuracy':>11}"]
    formats = {"rank_ic": "+.4f", "rank_ic_t": "+.2f", "rank_ic_p": ".3f"}
    for name, row in table.iterrows():
        ranked = math.isfinite(row["rank_ic"])
        ic, t, p = (
            format(row[key], form) if ranked and math.isfinite(row.get(key, math.nan)) else "-"
            for key, form in formats.items()
        )
        p = "<0.001" if p == "0.000" else p
        lines.append(
            f"{str(name).replace('_', ' '):18}{ic:>9}{t:>8}{p:>8}{row['mae']:11.5f}"
            f"{row['accuracy']:11.3f}"
        )
    if oracle_rank_ic:
        share = first_step_rank_ic / oracle_rank_ic
        reached = f"{share:.0%}" if share > 0 else "none of it"
        lines.append(f"{'oracle':18}{oracle_rank_ic:+9.4f}   the model reaches {reached}")
    how = "t, p: rank IC of the model against zero; of a baseline, the model's lead over it"
    return [*lines, how]


def summarise(
    predictions: Predictions,
    baselines: Mapping[str, Predictions],
    *,
    trading: Trading,
    notes: Sequence[str],
    oracle: np.ndarray | None = None,
) -> Summary:
    """Judge a model's predictions beside baselines on the same dates and cells.

    oracle (S, N): the expected next-day return of each signal date, if the market is simulated.
    Raises ValueError where baselines or market do not fit the predictions.
    """
    table, days = comparison_table(predictions, baselines), daily(predictions)
    scores, first = score(predictions), predictions.step(1)
    said = [*notes, *trading.notes]
    if scores["n_dates"] < statistics.FEW_DATES:
        said.append(
            f"under {statistics.FEW_DATES} test dates intervals and p-values are too narrow"
        )
    traded = trade(predictions, trading)
    if traded is None:
        said.append("no backtest: too few test dates")
    else:
        said += gaps_of_index(traded, trading)
    return Summary(
        scores=scores,
        table=table,
        verdict=verdict(table),
        oracle_rank_ic=None if oracle is None else _oracle_rank_ic(first, oracle),
        notes=said,
        first_step_rank_ic=score(first)["rank_ic"],
        daily=days,
        statistics=statistics.summary(days.drop(columns="n_valid"), predictions.horizon),
        traded=traded,
    )


def _oracle_rank_ic(first: Predictions, oracle: np.ndarray) -> float:
    """What the best forecaster reaches where its forecast is known."""
    expected = oracle[:, None]
    return score(replace(first, prediction=expected, valid=first.valid & np.isfinite(expected)))[
        "rank_ic"
    ]


def plain(value: Any) -> Any:
    """As JSON knows it: NumPy's numbers as Python's, what is no number as None."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
