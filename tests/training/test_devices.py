"""The precision that a model is trained in if the machine chooses it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.test_zoo import small, windows
from runs.small_run import SmallRuns
from torch import Tensor, nn

from stockformer.config.recorded import read_config
from stockformer.interface import Batch, Forecast
from stockformer.runs.folder import RunDir
from stockformer.training import devices


class Offset(nn.Module):
    """Forecasts that differ in the fourth digit alone, which bfloat16 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0]]))

    def forward(self, batch: Batch) -> Forecast:
        stocks = torch.arange(batch.target.shape[-1], dtype=torch.float32)
        returns = self.scaled((1000 + 0.01 * stocks)[:, None])[:, 0].expand(batch.target.shape)
        return Forecast(returns=returns, logits=returns[..., None].expand(*returns.shape, 2))

    def scaled(self, x: Tensor) -> Tensor:
        return (x @ self.weight).float()


def chosen(model: nn.Module, monkeypatch: pytest.MonkeyPatch, *, has_bfloat16: bool) -> str:
    monkeypatch.setattr(devices, "has_bfloat16", lambda _: has_bfloat16)
    return devices.choose_precision("auto", model, windows())


@pytest.mark.parametrize("name", ["stockformer", "cross_section", "gru"])
def test_auto_is_bfloat16_where_the_forecasts_are_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(name).train()
    assert chosen(model, monkeypatch, has_bfloat16=True) == "bf16"
    assert model.training
    assert chosen(model, monkeypatch, has_bfloat16=False) == "float32"


def test_auto_is_float32_where_bfloat16_would_tie_the_forecasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chosen(Offset(), monkeypatch, has_bfloat16=True) == "float32"


def test_auto_is_float32_for_a_model_without_forecasts_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tabular model is fitted at once, and without products."""
    model = small("ridge")
    for buffer in model.buffers():
        buffer.zero_()
    assert chosen(model, monkeypatch, has_bfloat16=True) == "float32"


def test_a_named_precision_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_bfloat16", lambda _: False)
    assert devices.choose_precision("bf16", Offset(), windows()) == "bf16"


def test_the_choice_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run is resumed in the same precision on a machine that would choose the other."""
    small_runs = SmallRuns(tmp_path)
    monkeypatch.setattr(devices, "has_bfloat16", lambda _: True)
    monkeypatch.setattr(devices, "MAX_DIFFERENCE", 1.0)  # of a model of width 4
    small_runs.run(tmp_path / "run", "trainer.precision=auto")
    config = read_config(RunDir(tmp_path / "run").read_config()[0])
    assert config.trainer.precision.value == "bf16"
