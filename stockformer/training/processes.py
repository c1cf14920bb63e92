"""Data-parallel training: communication between the processes that torchrun starts.

Every process holds the whole model and computes its shard of each batch. The gradients are summed
over all processes before the optimizer's step, which gives the gradient of the whole batch. So a
process may have fewer samples than another, none, or split its shard when memory is short.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

from stockformer.runs.folder import ProcessLost

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others before it takes them for dead."""

log = logging.getLogger(__name__)

Items = TypeVar("Items", bound=Sequence[Any] | np.ndarray)


@dataclass(frozen=True)
class Processes:
    """This process, `rank` of `size`; only rank 0 writes files and logs."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Self:
        """Join the process group if torchrun started this process."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not distributed.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            distributed.init_process_group(backend, timeout=TIMEOUT)
        return cls(distributed.get_rank(), size)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, items: Items) -> Items:
        return items[self.rank :: self.size]  # type: ignore[return-value]

    def all_gather(self, mine: np.ndarray, device: torch.device) -> np.ndarray:
        """The inverse of `shard` over all processes, as float64: adding zeros is exact.

        Raises ProcessLost, as `all_reduce`.
        """
        if self.size == 1:
            return mine
        total = torch.tensor(len(mine), device=device)
        _all_reduce(total)
        whole = torch.zeros(int(total), *mine.shape[1:], dtype=torch.double, device=device)
        whole[self.rank :: self.size] = torch.from_numpy(mine).to(whole)
        _all_reduce(whole)
        return whole.cpu().numpy()

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange.

        Raises ProcessLost if another process has ended or does not answer.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        _all_reduce(flat)
        pieces = flat.split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces):
            tensor.copy_(piece.view_as(tensor))


def _all_reduce(tensor: Tensor) -> None:
    try:
        distributed.all_reduce(tensor)
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        log.debug("all_reduce", exc_info=error)
        raise ProcessLost(
            f"another process of this run has ended, or took longer than {TIMEOUT}; its own output "
            "says why"
        ) from error
