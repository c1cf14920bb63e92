"""What tabular models share: the rows of a table, and a fit at once instead of by a gradient.

B batch, L lookback, H horizon, N stocks, F factors; R rows of a table, C columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stockformer.interface import Batch, Forecast


@dataclass(frozen=True)
class Table:
    """What a tabular model learns from, a row a stock and signal day.

    inputs (R, C) float32. target (R, H) float32, in the target's scale; up, valid (R, H) bool.
    """

    inputs: np.ndarray
    target: np.ndarray
    up: np.ndarray
    valid: np.ndarray


class Tabular(nn.Module, ABC):
    """Each stock alone, by its factors of the last `days` days of the window, the oldest first.

    The probability of "up" follows from the forecast as that of the baselines does: for a forecast
    r it is Phi(Phi^-1(s) + r / sd), s the share of "up" and sd the standard deviation of the target
    in training. Untrained it forecasts zero.
    """

    share: Tensor
    deviation: Tensor

    def __init__(self, *, days: int, horizon: int) -> None:
        super().__init__()
        self.days = days
        self.register_buffer("share", torch.full((horizon,), 0.5))
        self.register_buffer("deviation", torch.ones(horizon))

    @abstractmethod
    def candidates(self, table: Table, seed: int) -> Iterator[str]:
        """Fit, and yield the description of each setting to choose from while the model has it."""

    @abstractmethod
    def predict(self, rows: Tensor) -> Tensor:
        """rows (..., C) -> (..., H) in the target's scale."""

    def forward(self, batch: Batch) -> Forecast:
        with torch.autocast(batch.factors.device.type, enabled=False):
            returns = self.predict(self.rows(batch))  # (B,N,H)
            score = torch.special.ndtri(self.share) + returns / self.deviation
            up = torch.special.log_ndtr(score) - torch.special.log_ndtr(-score)
            logits = torch.stack([torch.zeros_like(up), up], dim=-1)  # (B,N,H,2)
        return Forecast(returns=returns.transpose(1, 2), logits=logits.transpose(1, 2))

    def rows(self, batch: Batch) -> Tensor:
        """(B, N, C)."""
        return batch.factors[:, -self.days :].transpose(1, 2).flatten(2)

    def table(self, batches: Iterable[Batch]) -> Table:
        """The rows of the batches that have a target, and what was realised."""
        parts = []
        for batch in batches:
            realised = (batch.target, batch.up.bool(), batch.valid)  # each (B,H,N)
            columns = [self.rows(batch), *(each.transpose(1, 2) for each in realised)]
            some = batch.valid.any(dim=1)  # (B,N)
            parts.append([each[some].cpu().numpy() for each in columns])
        return Table(*(np.concatenate(column) for column in zip(*parts)))

    def learn_distribution(self, table: Table) -> None:
        """The share of "up", kept off 0 and 1, and the deviation of the target."""
        for step, valid in enumerate(table.valid.T):
            ups = table.up[valid, step].sum()
            self.share[step] = float((ups + 1) / (valid.sum() + 2))
            self.deviation[step] = float(table.target[valid, step].std()) or 1.0
