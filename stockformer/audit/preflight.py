"""The checks before an expensive run, each timed, and an estimate of the run's cost."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from omegaconf import DictConfig
from torch.nn.utils import clip_grad_norm_

from stockformer.audit import lookahead
from stockformer.audit.observe import start_server
from stockformer.config.build import build
from stockformer.data.reading import quality
from stockformer.data.reading.findings import REST, WARNING
from stockformer.evaluation.verdict import contaminated, survivorship
from stockformer.experiment import Experiment, read_dataset
from stockformer.interface import Batch, Forecast
from stockformer.models.tabular import Tabular
from stockformer.runs import audited
from stockformer.runs.console import human_time
from stockformer.runs.description import manifest, size_of, warn_of_loop_settings
from stockformer.training.memory import peak_memory_mib

log = logging.getLogger(__name__)

TIMED_STEPS = 5  # after two warm-up steps
LONG = 10.0  # seconds after which fewer are enough: long steps vary little


class CheckFailed(ValueError):
    """A failed check; its message names what to do."""


class Preflight:
    """Runs the checks of `python validate.py` in order; the first that fails ends them.

    overrides: of the command line.
    """

    def __init__(self, config: DictConfig, overrides: Sequence[str] = ()) -> None:
        self.config, self.overrides = config, overrides
        self.number = 1  # the configuration has already been composed and checked
        self.warnings = 0  # about the data

    def run(self) -> None:
        """Raises CheckFailed, naming the check, its cause and what to do."""
        config = self.config
        start_server(lookahead.START_METHOD)
        log.info("ok  1  the configuration composes and is consistent")
        with self.check("the data: files, shapes, dates and tickers") as say:
            data = read_dataset(config)
            days, stocks, factors = data.panel.factors.shape
            say(f"{days} days, {stocks} stocks, {factors} factors")
        data.log_findings(quality.report(data.panel, config.dataset.name))
        found = (f for f in data.panel.findings if f.level == WARNING)
        self.warnings = sum(f.count if f.message == REST else 1 for f in found)
        with self.check("the model builds and reaches the device") as say:
            experiment = Experiment(config, data)
            say(f"{size_of(experiment.model)} on {experiment.device}")
        warn_of_loop_settings(experiment, self.overrides)
        with self.check("a batch loads") as say:
            batch: Batch = next(iter(experiment.loader("train", alone=True)))
            say(f"{len(batch.signal)} windows, {int(batch.valid.sum()):,} valid targets")
            if not batch.valid.any():
                raise ValueError("the first batch has no valid target: look at the prices")
        with self.check("forward: shapes and finite values"):
            forecast = self.forward(experiment, batch)
        by_gradient = not isinstance(experiment.model, Tabular)
        if by_gradient:
            with self.check("backward: every parameter that should learn does"):
                self.backward(experiment, forecast, batch)
        with self.check("look-ahead, one cut: no input of the model depends on later days") as say:
            say(self.lookahead(experiment))
        if by_gradient:
            with self.check("time and memory of this run") as say:
                say(self.estimate(experiment, batch))
        log.log(*self.conclusion(data.notes))

    def conclusion(self, notes: Sequence[str]) -> tuple[int, str]:
        """The level and text of the last line. notes: the caveats of the data set.

        What spoils or flatters a test result is named here: nobody who sees only this line may
        take the data for clean.
        """
        parts = []
        if self.warnings:
            count = "1 warning" if self.warnings == 1 else f"{self.warnings} warnings"
            parts.append(f"with {count} about the data, above")
        caveats = dict.fromkeys([*contaminated(notes), *survivorship(notes)])
        if caveats:
            spoilt = "cannot be trusted" if contaminated(notes) else "are optimistic"
            parts.append(f"but test results {spoilt}: {'; '.join(caveats)}")
        if not parts:
            return logging.INFO, "ALL CHECKS PASSED - Ready to train"
        return logging.WARNING, f"CHECKS PASSED {', '.join(parts)} - read before you train"

    @contextmanager
    def check(self, name: str) -> Iterator[Callable[[str], None]]:
        """Log one line: number, name, result, seconds."""
        self.number += 1
        found: list[str] = []
        started = time.perf_counter()
        try:
            yield found.append
        except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
            log.error("FAILED  %d  %s", self.number, name)
            raise CheckFailed(f"check {self.number}, {name}: {error}") from error
        seconds = time.perf_counter() - started
        log.info("ok  %d  %s: %s  (%.2f s)", self.number, name, "".join(found) or "fine", seconds)

    def forward(self, experiment: Experiment, batch: Batch) -> Forecast:
        experiment.model.train()
        forecast: Forecast = experiment.model(batch.to(experiment.device))
        expected = {"returns": batch.target.shape, "logits": (*batch.target.shape, 2)}
        for name, shape in expected.items():
            output = getattr(forecast, name)
            if output.shape != shape:
                raise ValueError(f"{name} has shape {tuple(output.shape)}, expected {tuple(shape)}")
            if not output.isfinite().all():
                raise ValueError(f"{name} is not finite: check the inputs, or lower model.width")
        return forecast

    def backward(self, experiment: Experiment, forecast: Forecast, batch: Batch) -> None:
        loss = experiment.loss(forecast, batch.to(experiment.device)).total
        if not loss.isfinite():
            raise ValueError(f"the loss is {loss.item()}; look at the targets")
        experiment.model.zero_grad()
        loss.backward()
        # Parameters that get no gradient with these settings, e.g. attention over a single day.
        excused = getattr(experiment.model, "idle", ())
        idle = []
        for name, parameter in experiment.model.named_parameters():
            gradient = parameter.grad
            if gradient is not None and not gradient.isfinite().all():
                raise ValueError(f"the gradient of {name} is not finite; lower optimizer.lr")
            if (gradient is None or not gradient.any()) and name not in excused:
                idle.append(name)
        if idle:
            raise ValueError(f"no gradient reaches {', '.join(idle)}: the model cannot learn them")

    def lookahead(self, experiment: Experiment) -> str:
        """The fast form of `python -m stockformer.audit.lookahead`; its outcome is recorded."""
        found = lookahead.run_audit(self.config, experiment.data, cuts=1, fast=True)
        audited.record(self.config, manifest(experiment), len(found.leaks), cuts=1)
        if found.leaks:
            raise ValueError("\n".join(map(str, found.leaks)))
        for line in found.not_checkable:
            log.warning("not checkable: %s", line)
        if found.seen.prepared:
            return "inputs did not move; prepared factors screened"
        return f"{len(found.seen.factor_names)} factors did not move"

    def estimate(self, experiment: Experiment, batch: Batch) -> str:
        """Seconds from real steps after a warm-up; memory is the peak during these steps."""
        # A tiny learning rate: only the time matters here.
        optimizer = build(self.config.optimizer, params=experiment.model.parameters(), fused=True)
        for group in optimizer.param_groups:
            group["lr"] = 1e-12
        step = self.seconds_of(experiment, lambda: self.step(experiment, optimizer, batch))
        validation = next(iter(experiment.loader("validation")))  # larger than those of training
        evaluation = self.seconds_of(
            experiment,
            lambda: experiment.evaluator.evaluate(experiment.model, experiment.loss, [validation]),
        )
        steps, evaluations, tests = (
            len(experiment.loader(part)) for part in ("train", "validation", "test")
        )
        epochs = self.config.trainer.max_epoch
        total = epochs * (steps * step + evaluations * evaluation) + tests * evaluation
        return (
            f"{step:.3f} s a step, {steps} steps an epoch, at most {epochs} epochs: about "
            f"{human_time(total)} and {peak_memory_mib(experiment.device) / 1024:.1f} GiB, then "
            "the baselines"
        )

    def step(self, experiment: Experiment, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
        at_once = experiment.samples_at_once
        experiment.model.train()
        optimizer.zero_grad(set_to_none=True)
        for first in range(0, len(batch.signal), at_once):
            piece = batch.rows(slice(first, first + at_once)).to(experiment.device)
            experiment.loss(experiment.model(piece), piece).total.backward()
        clip_grad_norm_(experiment.model.parameters(), self.config.trainer.gradient_clip_norm)
        optimizer.step()

    def seconds_of(self, experiment: Experiment, action: Callable[[], object]) -> float:
        """The median over some runs of `action`, after two to warm up, or one where it is long."""
        seconds: list[float] = []
        while len(seconds) < (2 if sum(seconds) > LONG else 2 + TIMED_STEPS):
            started = time.perf_counter()
            action()
            if experiment.device.type != "cpu":
                torch.accelerator.synchronize()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[2:] or seconds[1:])
