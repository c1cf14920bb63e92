"""The training loop, the same for every model."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from stockformer.data.windows import Windows
from stockformer.evaluation.metrics import METRICS, MONITORS
from stockformer.interface import Batch
from stockformer.runs.console import human_time
from stockformer.runs.folder import AfterEpoch
from stockformer.training import postmortem
from stockformer.training.checkpoint_manager import CheckpointManager, TrainState
from stockformer.training.early_stopping import EarlyStopping
from stockformer.training.evaluate import Evaluation, Evaluator, NotFinite
from stockformer.training.losses import Loss
from stockformer.training.memory import advice, is_out_of_memory, oom_advice, peak_memory_mib
from stockformer.training.processes import Processes
from stockformer.training.progress import progress
from stockformer.training.sampler import EpochSampler
from stockformer.training.state import random_state, seed, set_random_state
from stockformer.training.tensorboard import TensorBoard

log = logging.getLogger(__name__)

UNCHECKED = 16
"""Steps between two checks for finite values, on a device that runs asynchronously."""


@dataclass(frozen=True)
class StepResult:
    """A step not yet checked: the state before it, its signal dates, loss and gradient norm."""

    start: TrainState
    signal: Tensor
    loss: Tensor
    norm: Tensor
    nonfinite: Tensor

    def describe(self, evaluator: Evaluator) -> str:
        number = ("loss", self.loss) if not self.loss.isfinite() else ("gradient norm", self.norm)
        return (
            f"{number[0]} is {number[1].item()} in epoch {self.start.epoch}, step "
            f"{self.start.step + 1}, signal dates {', '.join(evaluator.dates_of(self.signal))}"
        )


class Trainer:
    """Fits a model, and writes its best and last epoch as checkpoints.

    monitor: the validation metric that selects the best epoch. micro_batch_size: the number of
    samples computed at once; the gradient of a batch is summed over its micro-batches and over all
    processes. on_nonfinite: "stop" at a step whose loss or gradient is not finite, or "skip" at
    most `skip_limit` of them. oom: "stop" when memory runs out, or "split" the micro-batch.
    after_epoch: called with each epoch and its validation metrics; may raise to end the run.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        evaluator: Evaluator,
        stopping: EarlyStopping,
        checkpoints: CheckpointManager,
        tensorboard: TensorBoard,
        processes: Processes,
        max_epoch: int,
        micro_batch_size: int,
        gradient_clip_norm: float,
        monitor: str,
        on_nonfinite: str,
        skip_limit: int,
        oom: str,
        after_epoch: AfterEpoch | None = None,
    ) -> None:
        self.model, self.loss = model, loss
        self.optimizer, self.scheduler = optimizer, scheduler
        self.evaluator, self.stopping = evaluator, stopping
        self.checkpoints, self.tensorboard, self.processes = checkpoints, tensorboard, processes
        self.max_epoch, self.gradient_clip_norm = max_epoch, gradient_clip_norm
        self.monitor = monitor
        self.on_nonfinite, self.skip_limit, self.oom = on_nonfinite, skip_limit, oom
        self.after_epoch = after_epoch
        self.state = TrainState(micro_batch_size, requested_micro_batch_size=micro_batch_size)
        self.unchecked: list[StepResult] = []
        self.changing = threading.RLock()  # held while weights and state disagree
        self.complete = False  # from then on the model is the best epoch's, not that of `state`

    def fit(self, train: DataLoader[Batch], validation: DataLoader[Batch]) -> float:
        """Train until `max_epoch` or early stopping; returns the best monitored value.

        Raises FloatingPointError, naming epoch, step and dates, if a number is not finite, and
        MemoryError with advice if memory is short.
        """
        self.checkpoints.run.save_on_interrupt = self.save_on_interrupt
        if self.processes.is_main and not self.checkpoints.run.trained():
            self.checkpoints.save(self.checkpoints.run.checkpoint("last"), self.state)
        if self.evaluator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.evaluator.device)
        while self.state.epoch <= self.max_epoch and not self.stopping.exhausted:
            training = self.train_epoch(train)
            evaluation = self.validate(validation)
            epoch = self.state.epoch
            with self.changing:
                self.close_epoch(training, evaluation)
            if self.after_epoch is not None:
                self.after_epoch(epoch, evaluation.metrics)
        with self.changing:
            self.complete = True
        if self.state.best is None:
            raise FloatingPointError(
                f"no epoch had a defined validation {self.monitor}: no valid target, or the same "
                "forecast for all stocks; check the validation days or trainer.monitor"
            )
        return self.state.best

    def resume(self) -> None:
        """Restore the run's last valid checkpoint."""
        if not self.checkpoints.run.trained():
            log.info("resumed before the first step: starting at the beginning")
            return
        requested = self.state.requested_micro_batch_size
        self.state = self.checkpoints.resume()
        if self.state.requested_micro_batch_size != requested:  # else keep what fitted into memory
            self.state.requested_micro_batch_size = self.state.micro_batch_size = requested
        if not self.processes.is_main:  # the saved random state is the main process's
            seed(int(torch.randint(2**31, ())) + self.processes.rank)
            self.state.random = random_state()
        log.info("resumed after step %d of epoch %d", self.state.step, self.state.epoch)

    def train_epoch(self, batches: DataLoader[Batch]) -> dict[str, float]:
        """Train the rest of the epoch: mean loss, its two tasks, and samples per second."""
        order = batches.sampler
        assert isinstance(order, EpochSampler)
        order.set_position(epoch=self.state.epoch, step=self.state.step)
        name = f"epoch {self.state.epoch}/{self.max_epoch}"
        self.model.train()
        started = time.perf_counter() - self.state.seconds
        steps = progress(
            batches, name, total=len(order), done=self.state.step, detail=self.loss_so_far
        )
        for batch in steps:
            self.take_step(batch)
            self.state.seconds = time.perf_counter() - started
            if self.evaluator.device.type == "cpu" or len(self.unchecked) == UNCHECKED:
                self.check(batches)
        self.check(batches)  # also waits for an asynchronous device
        self.state.seconds = time.perf_counter() - started
        speed = {
            "seconds": self.state.seconds,
            "samples_per_second": order.samples / self.state.seconds,
        }
        parts = self.loss.parts(self.state.sums, self.state.counts)
        return parts.named("train_") | speed

    def loss_so_far(self) -> str:
        loss = self.loss.parts(self.state.sums, self.state.counts).total
        return f" steps, loss so far {loss.item():.4f}"

    def take_step(self, batch: Batch) -> None:
        """One optimizer step, which does not change the weights if a number is not finite."""
        counts = self.loss.counts(batch.to(self.evaluator.device))
        self.processes.all_reduce([counts])
        sums = self.gradient(batch, counts)
        norm = clip_grad_norm_(self.model.parameters(), self.gradient_clip_norm)
        loss = self.loss.parts(sums, counts).total
        nonfinite = self.nonfinite(loss, norm)
        start = dataclasses.replace(self.state)
        with self.changing:
            self.apply_gradient(nonfinite)
            self.state.add_step(*(torch.where(nonfinite, 0.0, each) for each in (sums, counts)))
            self.unchecked.append(StepResult(start, batch.signal, loss, norm, nonfinite))

    def nonfinite(self, loss: Tensor, norm: Tensor) -> Tensor:
        """() bool, left on the device: whether this step must not change the weights."""
        nonfinite = ~(loss.isfinite() & norm.isfinite())
        if self.unchecked and self.on_nonfinite == "stop":
            nonfinite |= self.unchecked[-1].nonfinite  # no step may follow such a step
        return nonfinite

    def apply_gradient(self, nonfinite: Tensor) -> None:
        """Apply the optimizer's step, unless it is not finite."""
        fused = self.optimizer.defaults.get("fused")
        if fused:  # read on the device, so Python does not wait for it
            self.optimizer.found_inf = nonfinite.float()  # type: ignore[attr-defined]
        with oom_advice(f"in epoch {self.state.epoch}, step {self.state.step + 1}"):
            if fused or not nonfinite:
                self.optimizer.step()

    def gradient(self, batch: Batch, counts: Tensor) -> Tensor:
        """Store the gradient of the whole batch in the parameters; returns the loss sums (K,)."""
        while True:
            try:
                sums = self.backward(batch, counts)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.split_micro_batch(error)
                set_random_state(self.state.random)
        if self.processes.size > 1:
            for parameter in self.model.parameters():
                if parameter.grad is None:  # a shard without samples
                    parameter.grad = torch.zeros_like(parameter)
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            self.processes.all_reduce([*gradients, sums])
        return sums

    def backward(self, batch: Batch, counts: Tensor) -> Tensor:
        """Accumulate the micro-batches' gradients; returns the loss sums (K,)."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros_like(counts)
        at_once = self.state.micro_batch_size
        for first in range(0, len(batch.signal), at_once):
            piece = batch.rows(slice(first, first + at_once)).to(self.evaluator.device)
            sums = self.loss.sums(self.model(piece), piece)
            self.loss.parts(sums, counts).total.backward()
            total += sums.detach()
        return total

    def split_micro_batch(self, error: RuntimeError) -> None:
        """Halve the micro-batch, which does not change results, or raise MemoryError."""
        at_once = self.state.micro_batch_size
        where = f"epoch {self.state.epoch}, step {self.state.step + 1}"
        self.optimizer.zero_grad(set_to_none=True)
        if self.oom == "stop" or at_once == 1:
            raise MemoryError(advice(f"in {where} with {at_once} samples at once")) from error
        if self.evaluator.device.type != "cpu":
            torch.accelerator.empty_cache()
        self.state.micro_batch_size = -(-at_once // 2)
        log.warning(
            "out of memory in %s: continuing with the same batch, %d samples at once",
            where,
            self.state.micro_batch_size,
        )

    def check(self, batches: DataLoader[Batch]) -> None:
        """Check the steps taken: stop at the first that was not finite, or count them."""
        with self.changing:
            nonfinite = self.flush_checks()
        for step in nonfinite:
            message = step.describe(self.evaluator)
            if self.on_nonfinite == "stop" or self.state.skipped > self.skip_limit:
                known = self.post_mortem(step.signal, batches, message)
                raise FloatingPointError(
                    f"{message}; lower optimizer.lr, or check the inputs of these dates{known}"
                )
            log.warning("step skipped: %s", message)

    def flush_checks(self) -> list[StepResult]:
        """The unchecked steps that were not finite: counted, or the first of them undone."""
        unchecked, self.unchecked = self.unchecked, []
        flags = torch.stack([step.nonfinite for step in unchecked]).tolist() if unchecked else []
        nonfinite = [step for step, flag in zip(unchecked, flags) if flag]
        if self.on_nonfinite == "skip":
            self.state.skipped += len(nonfinite)
        elif nonfinite:
            self.state = nonfinite[0].start  # the weights have not changed since
        return nonfinite

    def validate(self, batches: DataLoader[Batch]) -> Evaluation:
        """Raises FloatingPointError, naming epoch and dates, if a prediction is not finite."""
        try:
            shown = progress(batches, f"validation of epoch {self.state.epoch}", len(batches))
            return self.evaluator.evaluate(self.model, self.loss, shown)
        except NotFinite as error:
            steps = f"epoch {self.state.epoch}, after its {self.state.step} steps"
            message = f"in {steps}, {error}"
            known = self.post_mortem(error.signals, batches, message)
            raise FloatingPointError(f"{message}{known}") from error

    def post_mortem(self, signals: Tensor, batches: DataLoader[Batch], message: str) -> str:
        """Save the state and the tensors' names to the run's debug folder; text with its place."""
        if not self.processes.is_main:
            return ""
        self.checkpoints.save(self.checkpoints.run.debug_state_file, self.state)
        windows = batches.dataset
        assert isinstance(windows, Windows)
        rows = signals.cpu().numpy()
        batch = windows.part(rows)[range(len(rows))].to(self.evaluator.device)
        not_finite = postmortem.nonfinite_tensors(self.model, self.loss, batch)
        facts = {
            "what": message,
            "signal_dates": self.evaluator.dates_of(signals),
            "not_finite": not_finite,
        }
        self.checkpoints.run.write_debug(facts)
        first = f" ({not_finite[0]} is the first that is not finite)" if not_finite else ""
        return f"{first}; more in {self.checkpoints.run.debug_file}"

    def close_epoch(self, training: dict[str, float], evaluation: Evaluation) -> None:
        """Record the epoch, step the scheduler, and go to the start of the next epoch."""
        epoch, value = self.state.epoch, evaluation.metrics[self.monitor]
        row = self.row(training, evaluation)
        better = self.stopping.better(value)
        if better:
            self.state.best = value
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(evaluation.metrics["mae"])
        else:
            self.scheduler.step()
        self.state.next_epoch()
        if self.processes.is_main:
            self.record(epoch, row)
            if better:
                self.checkpoints.save_best(epoch, evaluation.metrics)
            self.checkpoints.save_epoch(self.state)
        if self.stopping.exhausted:
            epochs = self.stopping.patience
            log.info("stopped: %d epochs without a better %s", epochs, self.monitor)

    def row(self, training: dict[str, float], evaluation: Evaluation) -> dict[str, float]:
        return (
            training
            | {f"validation_{name}": evaluation.metrics[name] for name in MONITORS}
            | {"learning_rate": self.optimizer.param_groups[0]["lr"]}
            | {"skipped_steps": self.state.skipped}
            | {"micro_batch_size": self.state.micro_batch_size}
            | {"peak_memory_mib": peak_memory_mib(self.evaluator.device)}
        )

    def record(self, epoch: int, row: dict[str, float]) -> None:
        """One epoch as a line of the log, a row of metrics.csv and points in TensorBoard."""
        self.state.history.append({"epoch": epoch} | row)
        self.checkpoints.run.write_metrics(self.state.history)
        self.tensorboard.scalars(epoch, row)
        log.info(
            "epoch %d/%d  train loss %.4f  validation loss %.4f  MAE %s bp  accuracy %.3f  "
            "rank IC %+.3f  %.1f s  %.0f samples/s%s",
            epoch,
            self.max_epoch,
            row["train_loss"],
            row["validation_loss"],
            METRICS["mae"].format(row["validation_mae"]),
            *(row[f"validation_{name}"] for name in ("accuracy", "rank_ic")),
            row["seconds"],
            row["samples_per_second"],
            self.time_left(epoch),
        )

    def time_left(self, epoch: int) -> str:
        """Estimated from the last epochs; empty if it is only seconds."""
        last = self.state.history[-3:]
        left = sum(row["seconds"] for row in last) / len(last) * (self.max_epoch - epoch)
        return f"  {human_time(left)} left" if left >= 20 else ""

    def save_on_interrupt(self) -> str:
        """Save the state after the last step, for a run that is interrupted.

        Nothing is trained or written afterwards: the process is about to exit.
        """
        self.changing.acquire()
        if not self.complete:
            self.flush_checks()
            if self.processes.is_main:
                self.checkpoints.save(self.checkpoints.run.checkpoint("last"), self.state)
        step = f"step {self.state.step} of epoch {self.state.epoch}"
        return (
            f" after {'the last epoch' if self.complete else step}, all of it kept: continue with "
            f"{self.checkpoints.run.resume_words}"
        )
