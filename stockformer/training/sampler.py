"""Which samples make up each training step."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from stockformer.training.processes import Processes


class EpochSampler(Sampler[list[int]]):
    """An epoch's batches, as positions: shuffled only by seed and epoch, sharded over processes.

    So a run resumed in the middle of an epoch gets the remaining batches, independent of other
    random numbers. An iteration begins at the position given to `set_position`.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, processes: Processes) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.processes = processes
        self.set_position(epoch=1, step=0)

    def set_position(self, *, epoch: int, step: int) -> None:
        """Begin the next iteration in `epoch` after `step` steps."""
        self.epoch, self.step = epoch, step

    def __len__(self) -> int:
        """Number of steps of a whole epoch."""
        return math.ceil(self.samples / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.samples)
        for first in range(self.step * self.batch_size, self.samples, self.batch_size):
            yield self.processes.shard(order[first : first + self.batch_size]).tolist()
