"""Predictions to measure and the market they come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stockformer.evaluation.predictions import Predictions


@pytest.fixture
def predictions() -> Callable[..., Predictions]:
    """Makes Predictions of consecutive days from arrays (S, H, N)."""

    def make(
        prediction: np.ndarray,
        label: np.ndarray,
        probability: np.ndarray | None = None,
        valid: np.ndarray | None = None,
    ) -> Predictions:
        prediction, label = np.asarray(prediction, float), np.asarray(label, float)
        dates, steps, stocks = prediction.shape
        signal_dates = np.datetime64("2024-01-01") + np.arange(dates)
        start = signal_dates[:, None] + np.arange(steps)
        return Predictions(
            signal_dates=signal_dates,
            target_start=start,
            target_end=start + 1,
            tickers=np.array([f"S{stock:03d}" for stock in range(stocks)]),
            prediction=prediction,
            probability=np.full(prediction.shape, 0.5) if probability is None else probability,
            label=label,
            up=label > 0,
            valid=np.isfinite(label) if valid is None else valid,
        )

    return make


@pytest.fixture
def random_predictions(predictions) -> Callable[..., Predictions]:
    """Makes Predictions with some skill, ties, and a tenth of the cells masked."""

    def make(dates: int = 12, steps: int = 2, stocks: int = 40, seed: int = 0) -> Predictions:
        rng = np.random.default_rng(seed)
        label = rng.normal(0, 0.02, (dates, steps, stocks))
        prediction = (0.1 * label + rng.normal(0, 0.02, label.shape)).round(3)
        probability = 1 / (1 + np.exp(-50 * prediction))
        valid = rng.random(label.shape) > 0.1
        return predictions(prediction, np.where(valid, label, np.nan), probability, valid)

    return make


@pytest.fixture(scope="session")
def nifty(shared: Path) -> dict[str, pd.DataFrame]:
    """NIFTY-200 prices by field, dates by tickers; NaN before a stock was listed."""
    files = sorted((shared / "data/nifty200/raw").glob("*.csv"))
    frames = {
        file.stem: pd.read_csv(file, index_col="Date", parse_dates=["Date"]) for file in files
    }
    fields = ("Open", "High", "Low", "Close", "Volume")
    return {
        field.lower(): pd.DataFrame({t: frame[field] for t, frame in frames.items()}).sort_index()
        for field in fields
    }
