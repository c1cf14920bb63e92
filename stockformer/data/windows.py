"""Windows as views of the panel: a batch is one indexing operation, nothing is copied before.

B batch, L lookback, H horizon, N stocks, F factors, T dates.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from stockformer.data.panel import Panel
from stockformer.data.targets import Targets
from stockformer.interface import Batch


class Windows(Dataset[Batch]):
    """The windows that end on `signals`, rows of the panel; index it with a list of positions.

    The panel is kept once, whatever the lookback: `part` shares it.
    """

    def __init__(self, panel: Panel, targets: Targets, calendar: np.ndarray, lookback: int) -> None:
        returns = np.where(np.isfinite(panel.returns), panel.returns, 0.0)
        self.returns = torch.from_numpy(returns.astype(np.float32))
        self.trend = torch.from_numpy((returns > 0).astype(np.float32))
        self.factors = torch.from_numpy(panel.factors)
        self.calendar = torch.from_numpy(calendar)
        self.target = torch.from_numpy(targets.values.astype(np.float32))
        self.up = torch.from_numpy(targets.up.astype(np.int64))
        self.valid = torch.from_numpy(targets.valid)
        self.past = torch.arange(1 - lookback, 1)
        self.span = torch.cat([self.past, torch.from_numpy(targets.end)])
        self.signals = torch.arange(0)

    def part(self, signals: np.ndarray) -> Windows:
        """The windows that end on these rows."""
        windows = copy.copy(self)
        windows.signals = torch.from_numpy(signals)
        return windows

    def __len__(self) -> int:
        return len(self.signals)

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        signal = self.signals[positions]
        window = signal[:, None] + self.past
        return Batch(
            returns=self.returns[window],
            trend=self.trend[window],
            factors=self.factors[window],
            calendar=self.calendar[signal[:, None] + self.span],
            target=self.target[signal],
            up=self.up[signal],
            valid=self.valid[signal],
            signal=signal,
        )
