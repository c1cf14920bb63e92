"""What a run says of itself at its end: the model beside the baselines, verdict, first targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from stockformer.evaluation.baselines import (
    History,
    all_baselines,
    comparison_table,
    verdict,
)
from stockformer.evaluation.metrics import Predictions, score
from stockformer.evaluation.statistics import FEW_DATES

VERSION = 1
"""Of evaluation.json; a reader refuses one it does not know."""

FIRST_TARGETS = {"mae": ("test MAE < 0.015", 0.015), "accuracy": ("test accuracy > 0.52", 0.52)}


@dataclass(frozen=True)
class Summary:
    """scores: of `metrics.score`; table: of `baselines.comparison_table`; oracle_rank_ic: None
    unless the market is simulated."""

    scores: dict[str, float]
    table: pd.DataFrame
    verdict: str
    oracle_rank_ic: float | None
    notes: Sequence[str]
    first_step_rank_ic: float  # what the oracle, of the next day, compares with

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
        rows = [
            {"name": str(name), **dict(zip(self.table.columns, row.tolist()))}
            for name, row in self.table.iterrows()
        ]
        return {
            "version": VERSION,
            "model": _plain(self.scores),
            "table": [_plain(row) for row in rows],
            "verdict": self.verdict,
            "targets": self.targets(),
            "oracle_rank_ic": self.oracle_rank_ic,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """The closing table, for a terminal or a log."""
        lines = [f"{int(self.scores['n_dates'])} test dates:"]
        lines += ["", f"{'':18}{'rank IC':>9}{'t':>7}{'p':>8}{'MAE':>10}{'accuracy':>10}"]
        for name, row in self.table.iterrows():
            ranked = math.isfinite(row["rank_ic"])
            cells = ("rank_ic", "+.4f"), ("rank_ic_t", "+.2f"), ("rank_ic_p", ".3f")
            ic, t, p = (format(row[key], form) if ranked else "-" for key, form in cells)
            p = "<0.001" if p == "0.000" else p
            lines.append(
                f"{str(name).replace('_', ' '):18}{ic:>9}{t:>7}{p:>8}{row['mae']:10.5f}"
                f"{row['accuracy']:10.3f}"
            )
        if self.oracle_rank_ic:
            share = self.first_step_rank_ic / self.oracle_rank_ic
            reached = f"{share:.0%}" if share > 0 else "none of it"
            lines.append(f"{'oracle':18}{self.oracle_rank_ic:+9.4f}   the model reaches {reached}")
        lines += [
            "t, p: rank IC of the model against zero; of a baseline, the model's lead over it",
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
        return [*lines, *(f"note: {note}" for note in self.notes)]


def summarise(
    predictions: Predictions, history: History, oracle: np.ndarray | None, notes: Sequence[str]
) -> Summary:
    """Judge a model's predictions. oracle (T, N): the expected next-day return, if simulated."""
    table = comparison_table(predictions, all_baselines(predictions, history))
    scores = score(predictions)
    said = list(notes)
    if scores["n_dates"] < FEW_DATES:
        said.append(f"under {FEW_DATES} test dates intervals and p-values are too narrow")
    best = None
    if oracle is not None:
        rows = np.searchsorted(history.dates, predictions.signal_dates)
        known = replace(
            predictions.step(1),
            prediction=oracle[rows][:, None],
            valid=predictions.step(1).valid & np.isfinite(oracle[rows][:, None]),
        )
        best = score(known)["rank_ic"]
    first = score(predictions.step(1))["rank_ic"]
    return Summary(scores, table, verdict(table), best, said, first)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
