"""Data loaders: a part of the split as batches for one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from stockformer.data.windows import Windows
from stockformer.interface import Batch
from stockformer.training.processes import Processes
from stockformer.training.sampler import EpochSampler

EVALUATED_AT_ONCE = 4  # micro-batches; an evaluation keeps no activations


def make_loader(
    windows: Windows,
    signals: np.ndarray,
    *,
    part: str,
    batch_size: int,
    micro_batch_size: int,
    num_workers: int,
    seed: int,
    device: torch.device,
    processes: Processes,
) -> DataLoader[Batch]:
    """This process's share of the windows that end on `signals`, rows of the panel.

    part: `train` has batches of `batch_size`, in an order given by the seed; the others are sorted
    by date. Raises ValueError for more processes than samples.
    """
    if processes.size > len(signals):
        raise ValueError(
            f"{processes.size} processes for {len(signals)} {part} samples: start fewer"
        )
    chosen = windows.part(signals).to(device, num_workers)
    if part == "train":
        sampler: Any = EpochSampler(len(signals), batch_size, seed, processes)
    else:
        mine = processes.shard(range(len(signals)))
        at_once = EVALUATED_AT_ONCE * micro_batch_size
        sampler = [mine[first : first + at_once] for first in range(0, len(mine), at_once)]
    return DataLoader(
        chosen,
        sampler=sampler,
        batch_size=None,  # the sampler's list of positions is one indexing operation
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=device.type == "cuda" and chosen.signals.device.type == "cpu",
        generator=torch.Generator(),  # the workers' seeds must not advance the model's generator
    )
