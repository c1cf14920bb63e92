"""The mean of several runs' forecasts.

M runs, N stocks. The forecasts of the seeds of a configuration are alike, and are averaged as they
are. Those of different models may differ in their spread across stocks: the larger one would decide
the order of the mean alone. So each configuration's are first brought to the same spread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

FLAT = 1e-6
"""Spread across stocks, relative to the largest forecast, up to which forecasts are all equal but
for rounding in float32."""


def mean_forecast(forecasts: np.ndarray, configurations: Sequence[Hashable]) -> np.ndarray:
    """(..., N) of forecasts (M, ..., N); configurations (M,): equal for runs that differ in seed.

    Every configuration counts the same, by date and step: its spread across stocks becomes the mean
    of all configurations' spreads, its mean across stocks stays. One that forecasts the same for
    all stocks adds its mean alone.
    """
    if len(set(configurations)) == 1:
        mean: np.ndarray = forecasts.mean(axis=0)
        return mean
    level = forecasts.mean(axis=-1, keepdims=True)
    share = np.reshape(equal_shares(configurations), (-1, *[1] * (forecasts.ndim - 1)))
    weights = run_weights(forecasts, configurations)
    total: np.ndarray = (weights * (forecasts - level) + share * level).sum(axis=0)
    return total


def run_weights(forecasts: np.ndarray, configurations: Sequence[Hashable]) -> np.ndarray:
    """(M, ..., 1): what multiplies a run's deviations from its mean across stocks in the mean."""
    spreads, ordered = {}, {}
    for each in dict.fromkeys(configurations):
        mean = forecasts[[one == each for one in configurations]].mean(axis=0)
        spreads[each] = mean.std(axis=-1, keepdims=True)
        ordered[each] = spreads[each] > FLAT * np.abs(mean).max(axis=-1, keepdims=True)
    target = np.mean(list(spreads.values()), axis=0)
    return np.stack(
        [
            share * np.divide(target, spreads[each], out=np.zeros_like(target), where=ordered[each])
            for share, each in zip(equal_shares(configurations), configurations)
        ]
    )


def equal_shares(configurations: Sequence[Hashable]) -> list[float]:
    """(M,): the same for each configuration, divided among its runs."""
    runs = Counter(configurations)
    return [1 / (len(runs) * runs[each]) for each in configurations]
