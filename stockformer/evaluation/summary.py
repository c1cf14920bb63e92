"""The evaluation of a model: comparison with baselines, statistics and backtest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from stockformer.evaluation import comparison, statistics, verdict
from stockformer.evaluation import oracle as attainable
from stockformer.evaluation.baselines import CONSTANTS, lightgbm_missing
from stockformer.evaluation.comparison import compare
from stockformer.evaluation.metrics import METRICS
from stockformer.evaluation.predictions import Predictions, daily, score
from stockformer.evaluation.record import EvaluationRecord, ProjectTarget
from stockformer.evaluation.screening import TOO_GOOD
from stockformer.evaluation.signal_detail import signal_detail
from stockformer.evaluation.trading import (
    BacktestSpec,
    daily_returns,
    excess_verdict,
    gap_notes,
    gaps_of_index,
    trade,
)


def summarise(
    predictions: Predictions,
    baselines: Mapping[str, Predictions],
    *,
    trading: BacktestSpec,
    notes: Sequence[str],
    epoch: int | None = None,
    oracle: np.ndarray | None = None,
    validation: Predictions | None = None,
    targets: Mapping[str, float] | None = None,
    suspects: Sequence[str] = (),
) -> EvaluationRecord:
    """Evaluate a model's predictions against baselines on the same dates and cells.

    oracle (S, N, K): at each signal date the expected returns of the next K days, if the market is
    simulated.
    validation: the model's predictions of the validation days, if it was selected by them. targets:
    project targets by metric. suspects: sentences on likely leaks in the data.
    Raises ValueError where baselines or market do not fit the predictions.
    """
    compared, days = compare(predictions, baselines), daily(predictions)
    scores, first = score(predictions), predictions.step(1)
    oracle_rank_ic = None if oracle is None else attainable.oracle_rank_ic(first, oracle)
    oracle_excess = None
    caveats = [*notes, *trading.notes, *gap_notes(predictions, trading.market.dates)]
    caveats += _caveats(scores)
    # A backtest of equal forecasts would trade the order of the tickers.
    ranked = scores["n_ranked_dates"] > 0
    traded = trade(predictions, trading) if ranked else None
    sentences = [comparison.levels(compared)]
    if traded is None:
        why = "too few test dates" if ranked else "the forecasts rank nothing"
        caveats.append(f"no backtest: {why}")
    else:
        caveats += gaps_of_index(traded.returns.index, trading)
        excess = traded.excess["base"]
        sentences.append(excess_verdict(excess))
        if oracle is not None:
            oracle_excess = attainable.oracle_excess(predictions.signal_dates, oracle, trading)
            sentences.append(attainable.excess_sentence(oracle_excess, excess.mean))
    sentences.append(comparison.tested(compared))
    limit = max(TOO_GOOD, oracle_rank_ic or 0.0)  # a simulated market's limit is known
    warnings = comparison.leak_warnings(compared, limit, suspects)
    table = compared.table()
    tests = statistics.summary(days.drop(columns="n_valid"), predictions.horizon)
    return EvaluationRecord(
        epoch=epoch,
        scores=scores,
        table=table,
        verdict=" ".join([*warnings, comparison.verdict(compared, lightgbm_missing())]),
        answers=verdict.conclude(
            table,
            tests.to_dict("index"),
            traded,
            caveats,
            leak_warning=warnings[0] if warnings else None,
            few_rankings=compared.n_rankings < comparison.MIN_RANKINGS,
        ),
        sentences=tuple(sentence for sentence in sentences if sentence),
        targets=project_targets(targets or {}, scores, table),
        oracle_rank_ic=oracle_rank_ic,
        oracle_excess=oracle_excess,
        notes=tuple(caveats),
        first_step_rank_ic=score(first)["rank_ic"],
        statistics=tests,
        daily=days,
        backtest=traded,
        validation=None if validation is None else daily_returns(validation, trading),
        signal=signal_detail(predictions, trading.market, trading.sectors) if ranked else None,
    )


def project_targets(
    targets: Mapping[str, float], scores: Mapping[str, float], table: pd.DataFrame
) -> tuple[ProjectTarget, ...]:
    """Each target with the model's value and whether it is met, by a trivial baseline too.

    table: `Comparison.table`.
    """
    return tuple(
        ProjectTarget(
            name=f"test {METRICS[name].title} {'>' if METRICS[name].higher_is_better else '<'} "
            f"{target:g}",
            value=scores[name],
            met=_meets(name, scores[name], target),
            met_by=_trivial(name, target, table),
        )
        for name, target in targets.items()
    )


def _meets(metric: str, value: float, target: float) -> bool:
    return METRICS[metric].direction * (value - target) > 0


def _trivial(metric: str, target: float, table: pd.DataFrame) -> str:
    """The best constant that meets the target, with its value; empty if none does."""
    if metric not in table:
        return ""
    values = table[metric].reindex(CONSTANTS).dropna()
    met = values[[_meets(metric, value, target) for value in values]]
    if met.empty:
        return ""
    best = str((METRICS[metric].direction * met).idxmax())
    return f"{comparison.label(best)} ({met[best]:.4g})"


def _caveats(scores: Mapping[str, float]) -> list[str]:
    """Caveats that follow from the number of dates."""
    found = []
    if scores["n_dates"] < statistics.FEW_DATES:
        found.append(
            f"under {statistics.FEW_DATES} test dates intervals and p-values are too narrow"
        )
    if 0 < scores["n_ranked_dates"] < scores["n_dates"]:
        unranked = scores["n_dates"] - scores["n_ranked_dates"]
        found.append(
            f"on {unranked:.0f} of {scores['n_dates']:.0f} test dates the model gives all stocks "
            "the same forecast; its rank IC is that of the others"
        )
    return found
