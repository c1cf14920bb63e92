"""Windows as views of the panel: a batch is one indexing operation, the only copy.

B batch, L lookback, H horizon, N stocks, F factors, T dates.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stockformer.data.panel import Panel
from stockformer.data.targets import Targets
from stockformer.interface import Batch


class Windows(Dataset[Batch]):
    """The windows that end on `signals`, rows of the panel; index it with a list of positions.

    calendar (T + targets.span, 2): of the panel's dates and of those of the last targets.
    The panel is stored once, whatever the lookback; `part` shares it.
    """

    def __init__(self, panel: Panel, targets: Targets, calendar: np.ndarray, lookback: int) -> None:
        returns = np.nan_to_num(panel.returns.astype(np.float32), copy=False, nan=0.0)
        self.returns = sliding(torch.from_numpy(returns), lookback)
        self.known = sliding(torch.from_numpy(np.isfinite(panel.returns)), lookback)
        self.factors = sliding(torch.from_numpy(panel.factors), lookback)
        self.calendar = torch.from_numpy(calendar)
        self.target = torch.from_numpy(targets.values)
        self.up = torch.from_numpy(targets.up)
        self.valid = torch.from_numpy(targets.valid)
        self.past = torch.arange(1 - lookback, 1)
        self.span = torch.cat([self.past, torch.from_numpy(targets.end)])
        self.signals = torch.arange(0)

    def part(self, signals: np.ndarray) -> Windows:
        """The windows that end on these rows."""
        windows = copy.copy(self)
        windows.signals = torch.from_numpy(signals).to(self.past.device)
        return windows

    def without_factors(self) -> Windows:
        """The same windows with no factor, for checks of all else: their batches are small."""
        windows = copy.copy(self)
        windows.factors = self.factors[..., :0]
        return windows

    def to(self, device: torch.device, workers: int) -> Windows:
        """The same windows on a CUDA device, if the panel fits into a quarter of its memory.

        Loader processes cannot read that memory, so with workers the panel stays where it is.
        """
        if device.type != "cuda" or workers:
            return self
        size = 4 * len(self.returns) * self.factors[0, 0].numel()
        if size > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        windows = copy.copy(self)
        for name, value in vars(self).items():
            if name in ("returns", "factors", "known"):  # copy the days, not their windows
                days = torch.cat([value[:, 0], value[-1, 1:]])
                setattr(windows, name, sliding(days.to(device), value.shape[1]))
            else:
                setattr(windows, name, value.to(device))
        return windows

    def __len__(self) -> int:
        return len(self.signals)

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        signal = self.signals[positions]
        first = signal + self.past[0]
        returns = self.returns.index_select(0, first)
        return Batch(
            returns=returns,
            trend=torch.gt(returns, 0, out=torch.empty_like(returns)),
            factors=self.factors.index_select(0, first),
            calendar=self.calendar[signal[:, None] + self.span],
            target=self.target.index_select(0, signal).float(),
            up=self.up.index_select(0, signal).long(),
            valid=self.valid.index_select(0, signal),
            signal=signal,
            known=self.known.index_select(0, first),
        )


def sliding(values: Tensor, days: int) -> Tensor:
    """Every window of `days` rows of values (T, ...) as a view (T - days + 1, days, ...)."""
    shape = (len(values) - days + 1, days, *values.shape[1:])
    return values.as_strided(shape, (values.stride(0), *values.stride()))
