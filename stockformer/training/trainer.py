"""The training loop: one, plain, for every model."""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from stockformer.interface import Batch
from stockformer.run import RunDir
from stockformer.training.checkpoint import save_checkpoint
from stockformer.training.early_stopping import EarlyStopping
from stockformer.training.evaluate import Evaluation, Evaluator
from stockformer.training.losses import LossMeter
from stockformer.training.progress import progress
from stockformer.training.tensorboard import TensorBoard

log = logging.getLogger(__name__)

LOGGED = (
    "loss",
    "regression_loss",
    "classification_loss",
    "mae",
    "rmse",
    "accuracy",
    "ic",
    "rank_ic",
)


class Trainer:
    """Fits a model and leaves its best and last epoch as checkpoints in the run folder.

    monitor: the validation metric that picks the best epoch. facts: what a checkpoint must say of
    its inputs, beside the weights.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        evaluator: Evaluator,
        stopping: EarlyStopping,
        run: RunDir,
        tensorboard: TensorBoard,
        max_epoch: int,
        gradient_clip_norm: float,
        monitor: str,
        facts: dict[str, Any],
    ) -> None:
        self.model, self.loss = model, loss
        self.optimizer, self.scheduler = optimizer, scheduler
        self.evaluator, self.stopping = evaluator, stopping
        self.run, self.tensorboard = run, tensorboard
        self.max_epoch, self.gradient_clip_norm = max_epoch, gradient_clip_norm
        self.monitor, self.facts = monitor, facts

    def fit(self, train: DataLoader[Batch], validation: DataLoader[Batch]) -> float:
        """Train until `max_epoch` or until patience ends; the best monitored value.

        Raises FloatingPointError, naming epoch, step and dates, where a number is not finite.
        """
        best = math.nan
        if self.evaluator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.evaluator.device)
        for epoch in range(1, self.max_epoch + 1):
            training = self.train_epoch(train, epoch)
            evaluation = self.evaluator.evaluate(self.model, self.loss, validation)
            self.record(epoch, training, evaluation)
            if self.stopping.better(evaluation.metrics[self.monitor]):
                best = evaluation.metrics[self.monitor]
                self.save("best", epoch, evaluation)
            self.save("last", epoch, evaluation)
            self.follow_schedule(evaluation)
            if self.stopping.exhausted:
                epochs = self.stopping.patience
                log.info("stopped: %d epochs without a better %s", epochs, self.monitor)
                break
        if math.isnan(best):
            raise FloatingPointError(
                f"no epoch had a defined validation {self.monitor}: no valid target, or forecasts "
                "that do not tell stocks apart; look at the validation days or trainer.monitor"
            )
        return best

    def train_epoch(self, batches: DataLoader[Batch], epoch: int) -> dict[str, float]:
        """One pass over the training windows: mean loss, its two tasks, and how fast it went."""
        started = time.perf_counter()
        self.model.train()
        meter = LossMeter()
        steps = progress(batches, f"epoch {epoch}/{self.max_epoch}", total=len(batches))
        for step, batch in enumerate(steps, start=1):
            self.optimizer.zero_grad(set_to_none=True)
            on_device = batch.to(self.evaluator.device)
            parts = self.loss(self.model(on_device), on_device)
            parts.total.backward()
            norm = clip_grad_norm_(self.model.parameters(), self.gradient_clip_norm)
            self.require_finite(parts.total, norm, batch, epoch, step)
            self.optimizer.step()
            meter.add(parts, len(batch.signal))
        seconds = time.perf_counter() - started
        speed = {"seconds": seconds, "samples_per_second": meter.samples / seconds}
        return meter.means("train_") | speed

    def require_finite(
        self, loss: Tensor, norm: Tensor, batch: Batch, epoch: int, step: int
    ) -> None:
        """Stop before the optimizer's step: one bad number would spoil every weight."""
        for what, value in (("loss", loss), ("gradient norm", norm)):
            if not torch.isfinite(value):
                dates = self.evaluator.panel.dates[batch.signal.numpy()]
                raise FloatingPointError(
                    f"{what} is {value.item()} in epoch {epoch}, step {step}, signal dates "
                    f"{', '.join(map(str, np.sort(dates)))}; lower optimizer.lr, or look at the "
                    "inputs of these dates"
                )

    def follow_schedule(self, evaluation: Evaluation) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(evaluation.metrics["mae"])
        else:
            self.scheduler.step()

    def save(self, name: str, epoch: int, evaluation: Evaluation) -> None:
        facts = self.facts | {"epoch": epoch, "validation": evaluation.metrics}
        save_checkpoint(self.run.checkpoint(name), self.model, facts)

    def record(self, epoch: int, training: dict[str, float], evaluation: Evaluation) -> None:
        """One epoch as a line of the log, a row of metrics.csv and points in TensorBoard."""
        row = (
            training
            | {f"validation_{name}": evaluation.metrics[name] for name in LOGGED}
            | {"learning_rate": self.optimizer.param_groups[0]["lr"]}
            | {"peak_memory_mib": peak_memory_mib(self.evaluator.device)}
        )
        self.run.append_metrics({"epoch": epoch} | row)
        self.tensorboard.scalars(epoch, row)
        log.info(
            "epoch %d/%d  train loss %.4f  validation loss %.4f  mae %.5f  accuracy %.3f  "
            "rank_ic %+.3f  %.1f s  %.0f samples/s",
            epoch,
            self.max_epoch,
            training["train_loss"],
            *(evaluation.metrics[name] for name in ("loss", "mae", "accuracy", "rank_ic")),
            training["seconds"],
            training["samples_per_second"],
        )


def peak_memory_mib(device: torch.device) -> float:
    """The most memory held so far, in MiB: of the device on cuda, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
