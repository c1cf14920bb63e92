"""On what a model is computed, in which numbers, and whether this machine can."""

from __future__ import annotations

import logging
import os
import shutil

import torch
from torch import nn

log = logging.getLogger(__name__)


def choose(name: str) -> torch.device:
    """`auto` is cuda, then mps, then cpu; under torchrun each process has a cuda device of its own.

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
    """Tell torch how to compute. Raises ValueError for a precision the device lacks."""
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
    torch.use_deterministic_algorithms(deterministic)


def speed_up(model: nn.Module, device: torch.device, precision: str, compiled: bool) -> None:
    """Make the model's forward run in bfloat16, and compiled, if asked for; weights are untouched.

    Raises ValueError where there is no compiler.
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
        # On cuda its graphs also save the launches that small panels wait for.
        model.compile(mode="reduce-overhead" if device.type == "cuda" else None)


def _cpu_has_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)
