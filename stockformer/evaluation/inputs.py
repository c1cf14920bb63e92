"""What an evaluation needs of a dataset: inputs of the baselines, a market, suspect factors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stockformer.data.dataset import Dataset
from stockformer.data.reading.index import index_closes
from stockformer.evaluation.backtest import Settings
from stockformer.evaluation.baselines import BaselineInputs
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.screening import likely_leaks, screen
from stockformer.evaluation.trading import (
    WITHOUT_PRICES,
    BacktestSpec,
    market_of_prices,
    market_of_returns,
)


def baseline_inputs(data: Dataset) -> BaselineInputs:
    """What the baselines may look at; they learn from every day before the test."""
    return BaselineInputs(
        dates=data.panel.dates,
        tickers=data.panel.tickers,
        returns=data.panel.returns,
        factors=data.unprocessed.factors,
        label=np.where(data.targets.valid, data.targets.returns, np.nan),
        up=data.targets.up,
        valid=data.targets.valid,
        training_days=np.concatenate([data.split.train, data.split.validation]),
    )


def backtest_spec(
    data: Dataset,
    settings: Settings,
    *,
    fill: str,
    limit_threshold: float,
    index_file: str,
    start_offsets: int,
    participation_rate: float,
) -> BacktestSpec:
    """Where the backtest trades, and how. Raises ValueError where a setting does not fit."""
    panel = data.panel
    index = index_closes(Path(index_file), panel.dates) if index_file else None
    labels, priced = (panel.dates, panel.tickers), "close" in panel.prices
    if priced:
        market = market_of_prices(
            *labels,
            panel.prices,
            tradable=panel.tradable(limit_threshold),
            fill=fill,
            index=index,
            member=panel.member,
        )
    else:
        market = market_of_returns(
            *labels, panel.returns, fill=fill, index=index, member=panel.member
        )
    return BacktestSpec(
        market,
        settings,
        start_offsets=start_offsets,
        participation_rate=participation_rate,
        sectors=panel.sectors,
        notes=() if priced else (WITHOUT_PRICES,),
    )


def oracle_of(data: Dataset, predictions: Predictions) -> np.ndarray | None:
    """(S, N) the expected next-day returns of the signal dates, of a simulated market."""
    if data.panel.oracle is None:
        return None
    rows: np.ndarray = data.panel.oracle[
        np.searchsorted(data.panel.dates, predictions.signal_dates)
    ]
    return rows


def suspect_factors(data: Dataset, waived: Sequence[str]) -> list[str]:
    """Prepared factors that go with later returns as no honest one does; sentences.

    Those computed here are audited instead; waived ones are trusted.
    """
    given = data.unprocessed
    if not data.prepared_factors:
        return []
    found = likely_leaks(screen(given.factors, given.factor_names, given.returns, given.member))
    return [
        f"Likely leak in the data: factor {leak.name}, {leak.reason}."
        for leak in found
        if leak.name not in waived
    ]
