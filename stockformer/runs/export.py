"""A trained model as one portable file, checked on the run's test days."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from stockformer.config.quoting import as_path
from stockformer.evaluation.neutralise import neutralise_notes
from stockformer.experiment import Experiment
from stockformer.interface import Batch
from stockformer.models.tabular import Tabular
from stockformer.runs import atomic
from stockformer.runs.recorded_run import newest_run
from stockformer.runs.reopen import reopen

FILES = {"torch": "model.pt2", "onnx": "model.onnx"}
INPUTS = "inputs.json"
TOLERANCE = {"torch": 0.0, "onnx": 0.01}
"""Largest difference from the model, in standard deviations of its outputs. Rounding may let
another of two nearly equal stocks have the strongest attention."""

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Check:
    """The largest differences over the run's test days. returns: a fraction."""

    days: int
    returns: float
    probability: float


class Portable(nn.Module):
    """The model with plain tensors of one window as inputs, and forecasts in plain units.

    returns (1, L, N), factors (1, L, N, F) after the processors, calendar (1, L+H, 2) integers,
    known (1, L, N) bool; gives forecast returns (1, H, N), fractions, and probabilities of "up"
    (1, H, N).
    """

    def __init__(self, model: nn.Module, target_scale: float) -> None:
        super().__init__()
        self.model, self.target_scale = model, target_scale

    def forward(
        self, returns: Tensor, factors: Tensor, calendar: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        unused = torch.zeros(1)
        trend = (returns > 0).to(returns.dtype)
        forecast = self.model(
            Batch(returns, trend, factors, calendar, unused, unused, unused, unused, known)
        )
        probability = forecast.logits.double().softmax(-1)[..., 1]
        return forecast.returns.double() * self.target_scale, probability


def export(words: Mapping[str, str], overrides: Sequence[str]) -> Iterator[str]:
    """Yields what to print. Raises ValueError if the file does not give the model's numbers."""
    kind = words.get("format", "torch")
    if kind not in FILES:
        raise ValueError(f"format={kind}: must be one of {', '.join(FILES)}")
    path = as_path(words["run"]) if "run" in words else newest_run(Path())
    folder = as_path(words["into"]) if "into" in words else path / "export"
    trained = reopen(path, [*overrides, "trainer.device=cpu"])
    experiment = trained.experiment()
    if isinstance(experiment.model, Tabular):
        raise ValueError(
            f"{path}: its model is {type(experiment.model).__name__}; only models that torch "
            "trains are exported"
        )
    experiment.model.eval()
    portable = Portable(experiment.model, experiment.data.targets.scale).eval()
    with torch.no_grad(), quietly():
        exported = EXPORTERS[kind](portable, window(experiment, int(experiment.data.split.test[0])))
    check = compare(experiment, portable, RUNNERS[kind](exported), TOLERANCE[kind])
    inputs = description(experiment, trained.facts) | {"check": vars(check)}
    inputs |= {"file": FILES[kind], "sha256": atomic.sha256(exported), "run": str(path.resolve())}
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write(folder / FILES[kind], exported)
    atomic.write(folder / INPUTS, json.dumps(inputs, indent=1).encode())
    yield (
        f"the same as the model on {check.days} test days: returns within {check.returns:.1e}, "
        f"probabilities within {check.probability:.1e}"
    )
    for note in neutralise_notes(**experiment.config.neutralise):
        yield f"the file's forecasts are those before `neutralise`, the run's are {note}"
    yield f"exported: {folder / FILES[kind]}; what it must be given: {folder / INPUTS}"


def window(experiment: Experiment, row: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The inputs of `Portable` for a row of the panel."""
    batch = experiment.data.windows.part(np.array([row]))[[0]]
    return batch.returns, batch.factors, batch.calendar, batch.known


def compare(
    experiment: Experiment, portable: Portable, run: Callable[[Arrays], Arrays], tolerance: float
) -> Check:
    """Run both on every test day. Raises ValueError where they differ by more than `tolerance`."""
    pairs = []
    for row in experiment.data.split.test:
        inputs = window(experiment, int(row))
        with torch.no_grad():
            ours = [each.numpy() for each in portable(*inputs)]
        pairs.append((ours, run([each.numpy() for each in inputs])))
    differences = []
    for output in range(2):
        both = [np.stack([pair[side][output] for pair in pairs]) for side in range(2)]
        differences.append(float(np.abs(both[0] - both[1]).max()))
        if not differences[-1] <= tolerance * float(both[0].std()):
            raise ValueError(
                f"the exported model differs from the run's by up to {differences[-1]:.2e}; "
                "nothing was written"
            )
    return Check(len(pairs), *differences)


def description(experiment: Experiment, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the file must be given, in which order, and how it was prepared in training."""
    data, config = experiment.data, experiment.config
    lookback, stocks = config.dataset.lookback, len(data.panel.tickers)
    names = data.panel.factor_names
    return {
        "inputs": {
            "returns": {
                "shape": [1, lookback, stocks],
                "type": "float32",
                "meaning": "close-to-close returns of the last days, fractions; 0 where unknown",
            },
            "factors": {
                "shape": [1, lookback, stocks, len(names)],
                "type": "float32",
                "meaning": "factors after the processors",
            },
            "calendar": {
                "shape": [1, lookback + data.targets.horizon, 2],
                "type": "int64",
                "meaning": f"calendar {config.dataset.calendar.value} of those days and the "
                "targets' (stockformer/data/calendar.py)",
            },
            "known": {
                "shape": [1, lookback, stocks],
                "type": "bool",
                "meaning": "whether the return of that day is known; false: not traded",
            },
        },
        "outputs": {
            "forecast": "returns of each step and stock, fractions; before `neutralise`",
            "probability": 'of class "up", of each step and stock',
        },
        "tickers": data.panel.tickers.tolist(),
        "factor_names": list(names),
        "processors": facts["processors"],
        "neutralise": OmegaConf.to_container(config.neutralise),
        "target_start": data.targets.start.tolist(),
        "target_end": data.targets.end.tolist(),
    }


def _export_torch(portable: Portable, inputs: tuple[Tensor, ...]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(portable, inputs, strict=False), buffer)
    return buffer.getvalue()


def _run_torch(exported: bytes) -> Callable[[Arrays], Arrays]:
    module = torch.export.load(io.BytesIO(exported)).module()

    def run(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            return [each.numpy() for each in module(*map(torch.from_numpy, inputs))]

    return run


def _export_onnx(portable: Portable, inputs: tuple[Tensor, ...]) -> bytes:
    try:
        import onnxruntime  # noqa: F401, PLC0415 (an extra)
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise ValueError(
            "format=onnx: ONNX is not installed: pip install 'stockformer[onnx]'"
        ) from error
    program = torch.onnx.export(
        portable,
        inputs,
        input_names=["returns", "factors", "calendar", "known"],
        output_names=["forecast", "probability"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    serialized: bytes = program.model_proto.SerializeToString()
    return serialized


def _run_onnx(exported: bytes) -> Callable[[Arrays], Arrays]:
    import onnxruntime  # noqa: PLC0415 (an extra)

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(inputs: Arrays) -> Arrays:
        found: list[np.ndarray] = session.run(None, dict(zip(names, inputs)))
        return found

    return run


EXPORTERS = {"torch": _export_torch, "onnx": _export_onnx}
RUNNERS = {"torch": _run_torch, "onnx": _run_onnx}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the exporters' remarks on what is not installed and on their own code."""
    former = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)
