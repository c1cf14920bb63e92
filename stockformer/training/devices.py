"""The device and precision of a model, and whether this machine supports them."""

from __future__ import annotations

import logging
import math
import os
import shutil

import torch
from torch import nn

from stockformer.interface import Batch

log = logging.getLogger(__name__)

MAX_DIFFERENCE = 0.1  # of forecasts in bfloat16, in their deviation across stocks


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
        if cuda and not has_bfloat16(device):
            raise ValueError(f"trainer.precision=bf16: {device} has no bfloat16; use float32")
        if device.type == "cpu" and not has_bfloat16(device):
            log.warning("trainer.precision=bf16: this CPU emulates bfloat16; float32 is faster")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():  # setting it takes a second
        torch.use_deterministic_algorithms(deterministic)


def choose_precision(name: str, model: nn.Module, sample: Batch) -> str:
    """`auto` is bf16 where the device has it and the untrained model's forecasts of the sample
    differ from those in float32 by at most `MAX_DIFFERENCE`; else float32.

    sample: on any device; it is moved to the model's.
    """
    if name != "auto":
        return name
    device = next(model.parameters(), torch.empty(0)).device
    if not has_bfloat16(device):
        log.info("trainer.precision=auto: float32, because %s has no bfloat16", device)
        return "float32"
    difference = bfloat16_difference(model, sample.to(device))
    choice = "bf16" if difference <= MAX_DIFFERENCE else "float32"
    log.info(
        "trainer.precision=auto: %s; in bfloat16 forecasts differ by %.1f %% of their deviation "
        "(at most %.0f %%)",
        choice,
        100 * difference,
        100 * MAX_DIFFERENCE,
    )
    return choice


def bfloat16_difference(model: nn.Module, batch: Batch) -> float:
    """Root mean squared difference of the forecasts in bfloat16 and in float32, relative to their
    deviation across stocks in float32; infinite where they have none, or are not finite."""
    training = model.training
    model.eval()
    with torch.no_grad():
        exact = model(batch).returns
        with torch.autocast(exact.device.type, torch.bfloat16):
            rounded = model(batch).returns
    model.train(training)
    deviation = (exact - exact.mean(dim=-1, keepdim=True)).square().mean().sqrt()
    difference = float((rounded - exact).square().mean().sqrt() / deviation)
    return difference if math.isfinite(difference) else math.inf


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for it, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _cpu_has_bfloat16()


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
