"""Estimates the memory a run needs, before the work, and names the settings to lower.

The activations of a step are counted by running the model on torch's fake tensors, which have
shapes but no content. The factors below were measured on simulated markets on a CPU (158 factors of
300 stocks; steps of 1 to 3 GiB); each part is accurate to about a third.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from stockformer.interface import Batch
from stockformer.training.losses import Loss

log = logging.getLogger(__name__)

GIB = 2**30
LIBRARIES = 0.5 * GIB  # torch, pandas and others, before any data
# The ranks that the baselines are fitted on and LightGBM's own copy, relative to all factors.
BASELINES = 1.1
COLUMNS = 30  # of 8 bytes for each stock and day: prices, returns, targets, predictions
COPIES_OF_WEIGHTS = 4  # weights, gradients, two moments of Adam
STEP = 1.65  # memory of a step, relative to the activations kept for its backward pass
ROUGHLY = 8  # numbers kept for a position of the input, per root of the number of weights
UNLIMITED = 1 << 60  # cgroups v1 report a number above this if there is no limit


@dataclass(frozen=True)
class Estimate:
    """Peak memory in bytes, by purpose. samples: number of samples a step computes at once."""

    data: float = 0.0
    weights: float = 0.0
    step: float = 0.0
    samples: int = 0

    @property
    def total(self) -> float:
        return LIBRARIES + self.data + self.weights + self.step

    def __str__(self) -> str:
        parts = {
            "data": self.data,
            "weights and optimizer": self.weights,
            f"a step of {self.samples} samples": self.step,
        }
        text = ", ".join(f"{name} {gib(size)}" for name, size in parts.items() if size)
        return f"about {gib(self.total)} ({text})"

    def require(self, limit: float, device: str = "this machine") -> None:
        """Raises ValueError naming the settings to lower, if it is clearly above the limit."""
        if self.total <= limit:
            return
        settings = {
            self.step: "trainer.micro_batch_size (slower, the same batch), model.width or "
            "dataset.lookback",
            self.weights: "model.width or model.layers",
            self.data: "the number of dataset.factors, of stocks or of days",
        }
        raise ValueError(
            f"this run needs {self} of memory, {device} has {gib(limit)}: lower "
            f"{settings[max(settings)]}"
        )


def data_bytes(shape: tuple[int, ...], in_memory: int) -> float:
    """Bytes of a panel with factors of this shape (T, N, F), and of the baselines.

    in_memory: how many float32 arrays of all factors are held in memory; the others are mapped.
    """
    days, stocks, factors = shape
    return days * stocks * ((in_memory + BASELINES) * 4 * factors + 8 * COLUMNS)


def in_memory(arrays: Iterable[np.ndarray]) -> int:
    """How many different arrays are no maps of a file."""
    return len({id(array) for array in arrays if not isinstance(array, np.memmap)})


def training_bytes(
    make_model: Callable[[], nn.Module], loss: Loss, sample: Batch, samples: int, enough: float
) -> tuple[float, float]:
    """Bytes of the weights with the optimizer's state, and of a step with `samples` samples.

    make_model: called where tensors have no content. sample: a batch of one. A step is counted only
    if the two may exceed `enough`, because the torch modules it needs take seconds to import.
    Zeros (unknown) if the model cannot be run without content.
    """
    try:
        with torch.device("meta"):  # shapes without content, only to build the model
            numbers = sum(p.numel() for p in make_model().parameters())
        weights = COPIES_OF_WEIGHTS * 4.0 * numbers
        step = 4.0 * sample.returns.numel() * samples * ROUGHLY * math.sqrt(numbers)
        if weights + step > enough:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                batch = Batch(*(mode.from_tensor(getattr(sample, f.name)) for f in fields(sample)))
                step = STEP * samples * kept_bytes(make_model(), loss, batch)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        log.debug("memory not estimated: %s", error)
        return 0.0, 0.0
    return weights, step


def kept_bytes(model: nn.Module, loss: Loss, batch: Batch) -> int:
    """Bytes that a forward pass keeps for its backward pass, without the weights."""
    weights = {storage_of(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    kept: dict[int, Tensor] = {}  # keeps the tensors, so that no other gets the same id

    def keep(tensor: Tensor) -> Tensor:
        if storage_of(tensor) not in weights:
            kept[storage_of(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = loss.sums(model(batch), batch)
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def storage_of(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def machine_memory(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> float:
    """Bytes this process may use: the machine's memory, or the limit of a container or job."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, file = (
            (cgroups / "memory", "memory.limit_in_bytes")
            if controllers
            else (cgroups, "memory.max")
        )
        folder = root / name.lstrip("/")
        for each in (folder, *folder.parents):  # parent groups also set limits
            if not each.is_relative_to(root):
                break
            limits += read_limit(each / file)
    return min(limits)


def read_limit(file: Path) -> list[float]:
    """The limit in a file; empty if there is no such file, or no limit."""
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    return [float(text)] if text.isdecimal() and 0 < int(text) < UNLIMITED else []


def gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
