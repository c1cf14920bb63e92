"""What an evaluation needs from a dataset: baseline inputs, a market, suspect factors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stockformer.data.dataset import Dataset
from stockformer.data.reading.index import index_closes
from stockformer.evaluation.backtest import Market
from stockformer.evaluation.baselines import BaselineInputs
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.screening import likely_leaks, screen
from stockformer.evaluation.trading import market_of_prices, market_of_returns


def baseline_inputs(data: Dataset) -> BaselineInputs:
    """The inputs of the baselines; they are trained on every day before the test."""
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


def market(data: Dataset, *, fill: str, limit_threshold: float, index_file: str) -> Market:
    """Where the backtest trades. Raises ValueError where a setting does not fit the data."""
    panel = data.panel
    index = index_closes(Path(index_file), panel.dates) if index_file else None
    labels = panel.dates, panel.tickers
    if "close" not in panel.prices:
        return market_of_returns(
            *labels, panel.returns, fill=fill, index=index, member=panel.member
        )
    return market_of_prices(
        *labels,
        panel.prices,
        tradable=panel.tradable(limit_threshold),
        fill=fill,
        index=index,
        member=panel.member,
    )


def oracle_of(data: Dataset, predictions: Predictions) -> np.ndarray | None:
    """(S, N, K) the expected returns of the K days after each signal date; None unless the market
    is simulated."""
    if data.panel.oracle is None:
        return None
    rows: np.ndarray = data.panel.oracle[
        np.searchsorted(data.panel.dates, predictions.signal_dates)
    ]
    return rows


def suspect_factors(data: Dataset, waived: Sequence[str]) -> list[str]:
    """Sentences on prepared factors that correlate with later returns more than is plausible.

    Factors computed here are audited instead; waived ones are trusted.
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
