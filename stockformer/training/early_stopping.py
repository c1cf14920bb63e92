"""Early stopping: which epoch is the best, and when to stop."""

from __future__ import annotations

import math


class EarlyStopping:
    """Follows one metric; an epoch is better if it beats the best so far by over `min_delta`.

    A metric that is not a number is never better.
    """

    def __init__(self, *, patience: int, min_delta: float, higher_is_better: bool) -> None:
        self.patience, self.min_delta = patience, min_delta
        self.sign = 1 if higher_is_better else -1
        self.best = -math.inf
        self.epochs_without = 0

    def better(self, value: float) -> bool:
        """Record the epoch's value; returns whether it is the best so far."""
        if self.sign * value > self.best + self.min_delta:
            self.best, self.epochs_without = self.sign * value, 0
            return True
        self.epochs_without += 1
        return False

    @property
    def exhausted(self) -> bool:
        return self.epochs_without >= self.patience
