"""A device that runs asynchronously is never waited for within a step.

The step runs on tensors without values (`meta`): reading one on the host fails there, and so does
an operation on tensors of two devices.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models.test_zoo import TRAINED
from small_data import composed
from torch import nn
from torch.optim import SGD

from benchmarks.speed import Size, masked_loss, random_batch
from stockformer.config.build import build
from stockformer.interface import Batch, Forecast
from stockformer.training.processes import Processes
from stockformer.training.trainer import UNCHECKED, Trainer

SIZE = Size(batch=4, lookback=6, horizon=2, stocks=7, factors=4)
META = torch.device("meta")


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which torch does not have for `meta`."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)


class Fused(SGD):
    """As the fused optimizers, which read on the device whether a step is to be left out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.1)
        self.defaults["fused"] = True

    def step(self, closure: Any = None) -> Any:
        assert self.found_inf.device == META
        self.found_inf: Any = None
        return super().step(closure)


def model_of(name: str) -> nn.Module:
    lines = [f"dataset.lookback={SIZE.lookback}", f"target.horizon={SIZE.horizon}"]
    config = composed(f"model={name}", "dataset=features", "target=next_day", *lines).model
    graph = torch.zeros(SIZE.stocks, config.width)
    facts = {"factors": SIZE.factors, "stocks": SIZE.stocks, "graph": graph, "learn_graph": False}
    model: nn.Module = build(config, **facts)
    return model


def take_steps(model: nn.Module, steps: int) -> Trainer:
    model = model.to(META)
    batch = random_batch(SIZE).to(META)
    facts: dict[str, Any] = {
        "model": model,
        "loss": masked_loss(SIZE).to(META),
        "optimizer": Fused(model),
        "evaluator": SimpleNamespace(device=META),
        "processes": Processes(),
        **dict.fromkeys(("scheduler", "stopping", "checkpoints", "tensorboard")),
        **{"max_epoch": 1, "micro_batch_size": 2, "gradient_clip_norm": 0.5},
        **{"monitor": "mae", "on_nonfinite": "stop", "skip_limit": 0, "oom": "stop"},
    }
    trainer = Trainer(**facts)
    model.train()
    for _ in range(steps):
        trainer.take_step(batch)
    return trainer


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_reads_no_value_and_stays_on_its_device(name: str) -> None:
    trainer = take_steps(model_of(name), UNCHECKED - 1)
    assert len(trainer.unchecked) == UNCHECKED - 1
    assert {p.grad.device for p in trainer.model.parameters() if p.grad is not None} == {META}


@pytest.mark.parametrize(
    ("waits", "message"),
    [
        (lambda forecast: forecast.returns * forecast.returns.max().item(), "item"),
        (lambda forecast: forecast.returns + torch.zeros(forecast.returns.shape), "device"),
    ],
    ids=["reads a value", "has a tensor on the CPU"],
)
def test_a_model_that_waits_or_leaves_its_device_is_found(
    waits: Callable[..., Any], message: str
) -> None:
    model = model_of("mlp")
    forward = model.forward

    def spoilt(batch: Batch) -> Forecast:
        forecast: Forecast = forward(batch)
        return Forecast(waits(forecast), forecast.logits)

    model.forward = spoilt  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=message):
        take_steps(model, 1)
