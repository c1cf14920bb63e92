"""Peak memory of a training, and out-of-memory errors."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def is_out_of_memory(error: RuntimeError) -> bool:
    """On CUDA the error has its own class; on the CPU only its message identifies it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def advice(where: str) -> str:
    """One line that names the settings to lower when memory is too small."""
    return (
        f"out of memory {where}; lower trainer.micro_batch_size (slower, the same batch; "
        "trainer.oom=split does it by itself), or model.width or dataset.lookback (another model)"
    )


@contextmanager
def oom_advice(where: str) -> Iterator[None]:
    """Within this context an out-of-memory error becomes a MemoryError with advice."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(advice(where)) from error


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory so far, in MiB: of the device on CUDA, otherwise of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
