"""What memory a training has taken, and how running out of it looks."""

from __future__ import annotations

import resource
import sys

import torch


def is_out_of_memory(error: RuntimeError) -> bool:
    """On cuda it has a class of its own; on the CPU only its words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def peak_memory_mib(device: torch.device) -> float:
    """The most memory held so far, in MiB: of the device on cuda, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
