"""When to keep an epoch and when to stop."""

from __future__ import annotations

import math

from stockformer.training.early_stopping import EarlyStopping


def test_stopping_counts_epochs_without_a_better_value() -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.1, higher_is_better=False)
    assert [stopping.better(v) for v in (1.0, 0.95, 0.8)] == [True, False, True]
    assert not stopping.exhausted
    assert [stopping.better(v) for v in (0.8, math.nan)] == [False, False]
    assert stopping.exhausted


def test_higher_can_be_better_and_nan_never_is() -> None:
    stopping = EarlyStopping(patience=3, min_delta=0.0, higher_is_better=True)
    assert [stopping.better(v) for v in (math.nan, -0.2, -0.1, -0.1)] == [False, True, True, False]
