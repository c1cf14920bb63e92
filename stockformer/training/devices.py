"""The device and precision of a model, and whether this machine supports them."""

from __future__ import annotations

import logging
import os
import shutil

import torch
from torch import nn

log = logging.getLogger(__name__)


def choose(name: str) -> torch.device:
    """`auto` is cuda, then mps, then cpu; under torchrun each process has its own cuda device.

    Raises ValueError for a device this machine lacks.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, there in available.items() if there), "cpu")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    device = torch.device(name)
    missing = device.type in available and not available[device.type]
    if missing or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"trainer.device={name}: not available on this machine; use auto or cpu")
    return device


def set_up(device: torch.device, precision: str, deterministic: bool) -> None:
    """Set torch's precision and determinism. Raises ValueError for an unsupported precision."""
    cuda = device.type == "cuda"
    if precision == "tf32" and not (cuda and torch.cuda.get_device_capability(device) >= (8, 0)):
        raise ValueError(
            f"trainer.precision=tf32: {device} has no TF32 (cuda from compute capability 8.0 has); "
            "use float32"
        )
    if precision == "bf16":
        if cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ValueError(f"trainer.precision=bf16: {device} has no bfloat16; use float32")
        if device.type == "cpu" and not _cpu_has_bfloat16():
            log.warning("trainer.precision=bf16: this CPU emulates bfloat16; float32 is faster")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():  # setting it takes a second
        torch.use_deterministic_algorithms(deterministic)


def speed_up(model: nn.Module, device: torch.device, precision: str, compiled: bool) -> None:
    """Run the model's forward in bfloat16, or compiled, as configured; weights are unchanged.

    Raises ValueError if there is no compiler.
    """
    if precision == "bf16":
        autocast = torch.autocast(device.type, torch.bfloat16)
        model.forward = autocast(model.forward)
    if compiled:
        compilers = (os.environ.get("CXX", "g++"), "clang++")
        if device.type == "cpu" and not any(map(shutil.which, compilers)):
            raise ValueError(
                "trainer.compile=true: no C++ compiler found; install g++, or leave it false"
            )
        # On CUDA its graphs also save kernel launches, which dominate on small panels.
        model.compile(mode="reduce-overhead" if device.type == "cuda" else None)


def _cpu_has_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)
