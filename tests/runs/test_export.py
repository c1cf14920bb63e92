"""An exported model gives the run's numbers without the project."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from runs.small_run import SmallRuns

from stockformer.runs import export


@pytest.fixture(scope="module")
def run(small: SmallRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    small.run(folder, "trainer.max_epoch=1")
    return folder


def test_the_torch_file_gives_the_recorded_forecasts(run: Path, small: SmallRuns) -> None:
    said = list(export.export({"run": str(run)}, []))
    assert "exported: " in said[-1]
    module = torch.export.load(run / "export" / "model.pt2").module()
    inputs = json.loads((run / "export" / "inputs.json").read_text())
    data = small.experiment().data
    row = int(data.split.test[0])
    batch = data.windows.part(np.array([row]))[[0]]
    with torch.no_grad():
        forecast, probability = module(batch.returns, batch.factors, batch.calendar, batch.known)
    recorded = pd.read_parquet(run / "predictions.parquet")
    recorded = recorded[recorded["signal_date"] == data.panel.dates[row]]
    for step in range(2):
        ours = recorded[recorded["step"] == step + 1].set_index("ticker").loc[inputs["tickers"]]
        np.testing.assert_allclose(forecast[0, step].numpy(), ours["prediction"], rtol=1e-5)
        np.testing.assert_allclose(probability[0, step].numpy(), ours["probability"], rtol=1e-5)
    assert inputs["inputs"]["factors"]["shape"] == list(batch.factors.shape)


def test_what_the_file_lacks_is_said(small: SmallRuns, tmp_path: Path) -> None:
    neutral = ("neutralise.components=1", "neutralise.days=20")
    small.run(tmp_path / "run", "trainer.max_epoch=1", *neutral)
    said = list(export.export({"run": str(tmp_path / "run")}, []))
    assert any("before `neutralise`, the run's are forecasts without exposure" in s for s in said)
    inputs = json.loads((tmp_path / "run/export/inputs.json").read_text())
    assert inputs["neutralise"] == {"components": 1, "volatility": False, "days": 20}


@pytest.mark.full
def test_onnx(run: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    list(export.export({"run": str(run), "format": "onnx"}, []))
    session = onnxruntime.InferenceSession(run / "export" / "model.onnx")
    assert [each.name for each in session.get_inputs()] == [
        *("returns", "factors", "calendar", "known")
    ]
    assert [each.name for each in session.get_outputs()] == ["forecast", "probability"]


@pytest.mark.full
def test_a_file_that_gives_other_numbers_is_not_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong(exported: bytes) -> object:
        module = torch.export.load(io.BytesIO(exported)).module()

        def run(inputs: export.Arrays) -> export.Arrays:
            with torch.no_grad():
                returns, probability = module(*map(torch.from_numpy, inputs))
            return [returns.numpy() * 1.001, probability.numpy()]

        return run

    monkeypatch.setitem(export.RUNNERS, "torch", wrong)
    with pytest.raises(ValueError, match="differs from the run's"):
        list(export.export({"run": str(run), "into": str(tmp_path / "out")}, []))
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_named(run: Path) -> None:
    with pytest.raises(ValueError, match="format=tf: must be one of torch, onnx"):
        list(export.export({"run": str(run), "format": "tf"}, []))
