"""Evaluation of a model, the same for validation, test and re-evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from stockformer.data.calendar import with_following_days
from stockformer.data.panel import Panel
from stockformer.data.targets import Targets
from stockformer.evaluation.predictions import Predictions, score
from stockformer.interface import Batch, Forecast
from stockformer.training.losses import Loss
from stockformer.training.memory import oom_advice
from stockformer.training.processes import Processes

Neutralise = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Rows of the signal dates (S,) and forecasts (S, H, N) -> forecasts."""


def unchanged(signals: np.ndarray, forecasts: np.ndarray) -> np.ndarray:
    return forecasts


@dataclass(frozen=True)
class Evaluation:
    """Dated predictions, their metrics, and the loss with its two tasks."""

    predictions: Predictions
    metrics: dict[str, float]


class NotFinite(FloatingPointError):
    """Predictions that are not finite. signals (S,): the rows of their signal dates."""

    def __init__(self, message: str, signals: torch.Tensor) -> None:
        super().__init__(message)
        self.signals = signals


class Evaluator:
    """Scores a model on signal dates, with the targets of the panel."""

    def __init__(
        self,
        panel: Panel,
        targets: Targets,
        device: torch.device,
        processes: Processes,
        neutralise: Neutralise | None = None,
    ) -> None:
        """neutralise: what is taken out of the forecasts; nothing by default."""
        self.panel, self.targets, self.device = panel, targets, device
        self.neutralise = neutralise or unchanged
        self.dates = with_following_days(panel.dates, targets.span)
        self.processes = processes

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, loss: Loss, batches: Iterable[Batch]) -> Evaluation:
        """`batches`: this process's shard; every process returns the evaluation of all shards.

        Raises NotFinite naming the dates on which the model's output is not finite, MemoryError
        with advice if memory is short.
        """
        model.eval()
        outputs, sums, counts = [], [], []
        for batch in batches:
            on_device = batch.to(self.device)
            counts.append(loss.counts(on_device))
            for piece, forecast, its_sums in self.forecasts(model, loss, on_device):
                # A compiled model on CUDA overwrites its outputs when it is called again.
                outputs.append((piece.signal, forecast.returns.clone(), forecast.logits.clone()))
                sums.append(its_sums)
        signals, returns, logits = (
            self.processes.all_gather(torch.cat(part).cpu().double().numpy(), self.device)
            for part in zip(*outputs)
        )
        totals = [torch.stack(values).sum(0) for values in (sums, counts)]
        self.processes.all_reduce(totals)
        probability = softmax(logits, axis=-1)[..., 1]
        predictions = self.predictions(signals.astype(int), returns, probability)
        return Evaluation(predictions, loss.parts(*totals).named() | score(predictions))

    @torch.inference_mode()
    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """The forecasts of a batch, also of signal dates that have no target yet."""
        model.eval()
        with oom_advice(f"forecasting {len(batch.signal)} days"):
            forecast = model(batch.to(self.device))
        returns, logits = (
            each.cpu().double().numpy() for each in (forecast.returns, forecast.logits)
        )
        signals = batch.signal.cpu().numpy()
        return self.predictions(signals, returns, softmax(logits, axis=-1)[..., 1])

    def forecasts(
        self, model: nn.Module, loss: Loss, batch: Batch
    ) -> list[tuple[Batch, Forecast, torch.Tensor]]:
        """`batch`, its forecast and the loss sums; in halves if memory is short."""
        size = len(batch.signal)
        try:
            with oom_advice(f"evaluating {size} samples"):
                forecast = model(batch)
                return [(batch, forecast, loss.sums(forecast, batch))]
        except MemoryError:
            if size == 1:
                raise
        halves = batch.rows(slice(size // 2)), batch.rows(slice(size // 2, None))
        return [part for half in halves for part in self.forecasts(model, loss, half)]

    def dates_of(self, signals: torch.Tensor) -> list[str]:
        """The signal dates of a batch's rows, in order."""
        return [str(date) for date in np.sort(self.panel.dates[signals.cpu().numpy()])]

    def predictions(
        self, signals: np.ndarray, forecast: np.ndarray, probability: np.ndarray
    ) -> Predictions:
        """The forecasts on `signals` (S,), with dates and realised targets.

        forecast (S, H, N) in the target's scale, probability (S, H, N) of "up".
        """
        dates = self.dates
        broken = ~np.isfinite(forecast + probability).all(axis=(1, 2))
        if broken.any():
            raise NotFinite(
                f"the model's predictions are not finite on {broken.sum()} dates, first "
                f"{dates[signals[broken][0]]}; lower optimizer.lr",
                torch.from_numpy(signals[broken]),
            )
        valid = self.targets.valid[signals]
        return Predictions(
            signal_dates=dates[signals],
            target_start=dates[signals[:, None] + self.targets.start],
            target_end=dates[signals[:, None] + self.targets.end],
            tickers=self.panel.tickers,
            prediction=self.neutralise(signals, forecast * self.targets.scale),
            probability=probability,
            label=np.where(valid, self.targets.returns[signals], np.nan),
            up=self.targets.up[signals],
            valid=valid,
        )
