"""The interface of data, model and loss. B batch, L lookback, H horizon, N stocks, F factors."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of windows. `signal` is the row of the signal date, the last day of a window.

    returns, trend (B, L, N): 0 where unknown. factors (B, L, N, F).
    calendar (B, L+H, 2): integers of the lookback's and of the target days.
    target (B, H, N): 0 where not valid. up (B, H, N): class 0/1. valid (B, H, N): bool.
    signal (B,): integers. known (B, L, N): bool, whether the stock's return of that day is known.
    """

    returns: Tensor
    trend: Tensor
    factors: Tensor
    calendar: Tensor
    target: Tensor
    up: Tensor
    valid: Tensor
    signal: Tensor
    known: Tensor

    def to(self, device: torch.device) -> Batch:
        # Not waiting is safe only from pinned memory, which is used only with CUDA.
        overlap = device.type == "cuda"
        return Batch(
            *(getattr(self, f.name).to(device, non_blocking=overlap) for f in fields(self))
        )

    def rows(self, rows: slice) -> Batch:
        """Some of its samples, as views."""
        return Batch(*(getattr(self, f.name)[rows] for f in fields(self)))

    def pin_memory(self) -> Batch:
        return Batch(*(getattr(self, f.name).pin_memory() for f in fields(self)))


@dataclass(frozen=True)
class Forecast:
    """A model's forecast of the H days after each signal date.

    returns (B, H, N): in the target's scale. logits (B, H, N, 2): class 1 is "up".
    returns_low, logits_low: the same from only the low band, if the model has one; they are used
    in training, never reported.
    """

    returns: Tensor
    logits: Tensor
    returns_low: Tensor | None = None
    logits_low: Tensor | None = None
