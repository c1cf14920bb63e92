"""Ridge regression on the factors (Hoerl and Kennard, Technometrics 12, 1970).

H horizon, F factors; C columns of the table.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stockformer.models.regression import ridge_weights
from stockformer.models.tabular import Table, Tabular


class Ridge(Tabular):
    """penalties: of the squared weights of columns of unit deviation, relative to the number of
    rows; the validation days choose one."""

    weights: Tensor
    intercept: Tensor

    def __init__(self, *, days: int, penalties: list[float], horizon: int, factors: int) -> None:
        super().__init__(days=days, horizon=horizon)
        self.penalties = penalties
        self.register_buffer("weights", torch.zeros(days * factors, horizon))
        self.register_buffer("intercept", torch.zeros(horizon))

    def predict(self, rows: Tensor) -> Tensor:
        return rows @ self.weights + self.intercept

    def candidates(self, table: Table, seed: int) -> Iterator[str]:
        by_step = [self.path(table.inputs[v], y[v]) for y, v in zip(table.target.T, table.valid.T)]
        for number, penalty in enumerate(self.penalties):
            for step, path in enumerate(by_step):
                weights, intercept = path[number]
                self.weights[:, step] = torch.from_numpy(weights)
                self.intercept[step] = float(intercept)
            yield f"penalty {penalty:g}"

    def path(self, inputs: np.ndarray, target: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Weights (C,) of the columns as they are, and the intercept, for each penalty."""
        mean, deviation = inputs.mean(axis=0), inputs.std(axis=0)
        scaled = (inputs - mean) / np.where(deviation > 0, deviation, 1.0)
        centre = target.mean()
        penalties = [len(target) * penalty for penalty in self.penalties]
        found = []
        for weights in ridge_weights(scaled, target - centre, penalties):
            of_columns = weights / np.where(deviation > 0, deviation, 1.0)
            found.append((of_columns, centre - mean @ of_columns))
        return found
