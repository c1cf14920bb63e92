"""A run's objects, built from its configuration: past this file no config object travels."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import subprocess
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader

from stockformer.config.build import build
from stockformer.config.recorded import recorded
from stockformer.config.rules import flat
from stockformer.data.dataset import Data, training_days
from stockformer.data.graph import Embedding
from stockformer.data.reading import quality
from stockformer.evaluation.metrics import MONITORS
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.record import EvaluationRecord
from stockformer.interface import Batch
from stockformer.reporting import quality_page as quality_report
from stockformer.runs.folder import RunDir
from stockformer.training import devices
from stockformer.training.checkpoint import load_checkpoint
from stockformer.training.checkpoint_manager import CheckpointManager
from stockformer.training.early_stopping import EarlyStopping
from stockformer.training.estimate import Estimate, data_bytes, gib, machine_memory, training_bytes
from stockformer.training.evaluate import Evaluation, Evaluator
from stockformer.training.losses import Loss
from stockformer.training.processes import Processes
from stockformer.training.progress import progress
from stockformer.training.state import seed
from stockformer.training.tensorboard import TensorBoard
from stockformer.training.trainer import Trainer

log = logging.getLogger(__name__)

OVERFIT_ACCURACY = 0.9  # accuracy on its one batch from which a debug run says "yes"


class Experiment:
    """Everything one run needs, built and consistent; nothing is trained before `train`."""

    def __init__(self, config: DictConfig, data: Data) -> None:
        """Raises ValueError for anything a user can mend."""
        self.config, self.data = config, data
        self.device = devices.choose(config.trainer.device)
        devices.set_up(self.device, config.trainer.precision.value, config.trainer.deterministic)
        self.processes = Processes.join(self.device)
        self.loss = self.build_loss().to(self.device)
        self.needed = self.require_memory()  # before any of it is taken
        self.embedding, self.model = self.build_model()
        # Of several processes the first alone judges the best epoch.
        self.evaluator = Evaluator(data.panel, data.targets, self.device, Processes())
        self.data.trading()  # what does not fit is refused now, not after hours of training

    def require_memory(self) -> Estimate:
        """What the run will need. Raises ValueError where that is clearly more than there is."""
        config, panel, limit = self.config, self.data.panel, machine_memory()
        settings = config.trainer
        samples = settings.micro_batch_size or settings.batch_size
        if settings.oom.value == "split":
            samples = 1  # what does not fit is computed in parts

        def make_model() -> nn.Module:
            graph = torch.empty(len(panel.tickers), config.model.width)
            facts = {"factors": len(panel.factor_names), "stocks": len(panel.tickers)}
            model: nn.Module = build(config.model, graph=graph, learn_graph=False, **facts)
            return model

        sample = self.data.windows.part(self.data.split.train[:1])[[0]]
        weights, step = training_bytes(
            make_model, self.build_loss(), sample, samples, enough=limit / 8
        )
        if settings.precision.value == "bf16":
            step /= 2
        size = data_bytes(panel.factors.shape, processed=bool(config.processors))
        needed = Estimate(size, weights, step, samples)
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            replace(needed, data=0.0).require(total, str(self.device))
        else:
            needed.require(limit)
        return needed

    def build_loss(self) -> Loss:
        """The loss; its bands, where it has any, are the model's."""
        loss: Loss = build(self.config.loss, wavelet=self.config.model.get("wavelet"))
        return loss

    def build_model(self) -> tuple[Embedding, nn.Module]:
        """The stock embedding, fitted on training days, and the model on its device."""
        config, panel = self.config, self.data.panel
        fit_rows = training_days(self.data.split, self.data.targets)
        embedding: Embedding = build(config.graph).fit(
            panel, fit_rows, config.model.width, config.seed
        )
        seed(config.seed)  # the same weights in every process
        model: nn.Module = build(
            config.model,
            factors=len(panel.factor_names),
            stocks=len(panel.tickers),
            graph=torch.from_numpy(embedding.values),
            learn_graph=embedding.learned,
        )
        model.to(self.device)
        devices.speed_up(model, self.device, config.trainer.precision.value, config.trainer.compile)
        seed(config.seed + self.processes.rank)  # each process its own dropout
        return embedding, model

    def train(self, run: RunDir, overrides: list[str]) -> float:
        """Fit the model into `run`, from where it was if it is resumed.

        Returns the best validation value of the monitored metric.
        """
        if self.processes.is_main:
            if self.manifest_stands(run):
                self.require_same_data(run.read_manifest())
            self.write_down(run, overrides)
        with TensorBoard(run.tensorboard_folder) as tensorboard:
            trainer = self.trainer(run, tensorboard)
            if self.processes.is_main:
                tensorboard.text("config", OmegaConf.to_yaml(self.config))
            if run.resumed:
                trainer.resume()
            best = trainer.fit(self.loader("train"), self.loader("validation"))
            if self.processes.is_main:
                if self.config.trainer.overfit_one_batch:
                    self.log_overfit_result(run)
                else:
                    test = self.test(run)
                    tensorboard.tested(test.predictions)
                    tensorboard.hyper_parameters(flat_settings(self.config), test.metrics)
                log.info("run folder: %s", run.path)
        return best

    def write_down(self, run: RunDir, overrides: list[str]) -> None:
        """What is about to be trained, in the run folder and on the terminal."""
        manifest = self.manifest() | {"run": run.id}
        if self.manifest_stands(run):
            before = run.read_manifest()
            again = {name: manifest[name] for name in ("versions", "git_commit", "threads")}
            manifest = before | {"resumed": [*before.get("resumed", []), again]}
        run.write_config(recorded(self.config), overrides)
        run.write_manifest(manifest)
        report = quality.report(self.data.panel, self.config.dataset.name)
        run.write_quality(quality_report.html(report))
        self.describe(report)

    def manifest_stands(self, run: RunDir) -> bool:
        """Whether what was trained so far is described: not if it was killed while reading data."""
        return run.resumed and (run.trained() or run.manifest_file.exists())

    def require_same_data(self, recorded: dict[str, Any]) -> None:
        """Going on with other data would be neither run."""
        now = self.manifest()
        for name, digest in recorded["files"].items():
            if now["files"].get(name) != digest:
                raise ValueError(f"{name}: not the file this run was begun with; start a new run")
        for key in ("data_hash", "split", "factor_names", "tickers"):
            if now[key] != recorded[key]:
                raise ValueError(f"{key} is not what this run was begun with; start a new run")
        for key in ("threads", "versions"):
            if now[key] != recorded[key]:
                log.warning(
                    "%s: %s when the run began, now %s: it goes on, but not to the bit",
                    *(key, recorded[key], now[key]),
                )

    def trainer(self, run: RunDir, tensorboard: TensorBoard) -> Trainer:
        """The loop with its optimizer, scheduler and stopping, as configured."""
        settings = self.config.trainer
        # Fused ones can be told on the device that a step is not to be taken.
        optimizer = build(self.config.optimizer, params=self.model.parameters(), fused=True)
        scheduler = build(self.config.scheduler, optimizer=optimizer)
        stopping = EarlyStopping(
            patience=settings.early_stopping.patience,
            min_delta=settings.early_stopping.min_delta,
            higher_is_better=bool(MONITORS[settings.monitor].higher_is_better),
        )
        return Trainer(
            model=self.model,
            loss=self.loss,
            optimizer=optimizer,
            scheduler=scheduler,
            evaluator=Evaluator(self.data.panel, self.data.targets, self.device, self.processes),
            stopping=stopping,
            checkpoints=CheckpointManager(
                run=run,
                model=self.model,
                optimizer=optimizer,
                scheduler=scheduler,
                stopping=stopping,
                every=settings.keep_every,
                keep=settings.keep,
                facts=self.checkpoint_facts(),
            ),
            tensorboard=tensorboard,
            processes=self.processes,
            max_epoch=settings.max_epoch,
            micro_batch_size=settings.micro_batch_size or settings.batch_size,
            gradient_clip_norm=settings.gradient_clip_norm,
            monitor=settings.monitor,
            on_nonfinite=settings.on_nonfinite.value,
            skip_limit=settings.skip_limit,
            oom=settings.oom.value,
        )

    def test(self, run: RunDir) -> Evaluation:
        """Judge the best epoch on the test days beside the baselines; write all of it down."""
        names = self.data.panel.factor_names
        facts = load_checkpoint(run.checkpoint("best"), self.model, names)
        validation, evaluation = (self.evaluate_part(part) for part in ("validation", "test"))
        record = self.data.evaluate(evaluation.predictions, facts["epoch"], validation.predictions)
        record_evaluation(run, evaluation.predictions, record)
        log.info("test, best epoch %d, %s", facts["epoch"], "\n".join(record.lines()))
        return evaluation

    def evaluate_part(self, part: str) -> Evaluation:
        """What the model says of one part of the split, in this process alone."""
        batches = self.loader(part, alone=True)
        shown = progress(batches, part, total=len(batches))
        return self.evaluator.evaluate(self.model, self.loss, shown)

    def log_overfit_result(self, run: RunDir) -> None:
        """Say whether the best epoch knows its one batch by heart."""
        load_checkpoint(run.checkpoint("best"), self.model, self.data.panel.factor_names)
        metrics = self.evaluator.evaluate(self.model, self.loss, self.loader("train")).metrics
        learnt = metrics["accuracy"] >= OVERFIT_ACCURACY
        log.info(
            "one batch of %d windows: accuracy %.3f; learnt by heart (at least %.2f): %s",
            *(self.config.trainer.batch_size, metrics["accuracy"], OVERFIT_ACCURACY),
            "yes" if learnt else "NO: train longer, or look for what is broken",
        )

    def loader(self, part: str, alone: bool = False) -> DataLoader[Batch]:
        """This process's batches of `train`, `validation` or `test`; all of them with `alone`."""
        return self.data.loader(part, self.device, Processes() if alone else self.processes)

    def describe(self, report: quality.Report) -> None:
        """Say what is about to be trained, as a person would want to check it."""
        panel, settings, dates = self.data.panel, self.config.trainer, self.data.panel.dates
        days, stocks, factors = panel.factors.shape
        log.info(
            "%s: %d stocks, %d factors, %d days, %s to %s",
            *(self.config.dataset.name, stocks, factors, days, dates[0], dates[-1]),
        )
        self.data.log_findings(report)
        for name, signals in self.data.split.parts().items():
            first, last = dates[signals[0]], dates[signals[-1]]
            log.info("%-10s %4d samples, signal dates %s to %s", name, len(signals), first, last)
        parameters = sum(p.numel() for p in self.model.parameters())
        log.info("model: %s parameters on %s", f"{parameters:,}", self.device)
        log.info("memory: %s; this machine has %s", self.needed, gib(machine_memory()))
        patience = {"early stopping": settings.early_stopping.patience}
        if "patience" in self.config.scheduler:
            patience["the learning-rate plateau"] = self.config.scheduler.patience
        idle = [f"{name} (patience {n})" for name, n in patience.items() if n >= settings.max_epoch]
        if idle:
            log.info("with %d epochs %s cannot fire", settings.max_epoch, " and ".join(idle))

    def checkpoint_facts(self) -> dict[str, Any]:
        """What the weights need to be used again."""
        return {
            "factor_names": list(self.data.panel.factor_names),
            "tickers": self.data.panel.tickers.tolist(),
            "graph_last_date": self.embedding.last_date,
            "target_scale": self.data.targets.scale,
            "processors": {
                name: {key: array.tolist() for key, array in state.items()}
                for name, state in self.data.states.items()
            },
        }

    def manifest(self) -> dict[str, Any]:
        """Where this run comes from: enough to know whether another is comparable."""
        panel, span = self.data.panel, self.data.targets.span
        files = {**panel.sources, **self.embedding.sources}
        # A simulated market has no files: its settings are what it is.
        identity = json.dumps(files, sort_keys=True) + OmegaConf.to_yaml(
            self.config.dataset.source if not files else {}
        )
        packages = ("torch", "numpy", "pandas", "hydra-core", "omegaconf", "scikit-learn")
        return {
            "kind": "run",  # an evaluation elsewhere and an ensemble leave folders like a run's
            "versions": {name: importlib.metadata.version(name) for name in packages}
            | {"python": platform.python_version()},
            "platform": platform.platform(),
            "dataset": self.config.dataset.name,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "git_commit": git_commit(),
            "seed": self.config.seed,
            "tags": list(self.config.tags),
            "data_hash": hashlib.sha256(identity.encode()).hexdigest(),
            "files": files,
            "warnings": self.data.notes(),
            "split": {
                name: {
                    "samples": len(signals),
                    "first_signal_date": str(panel.dates[signals[0]]),
                    "last_signal_date": str(panel.dates[signals[-1]]),
                    "last_target_date": str(panel.dates[signals[-1] + span]),
                }
                for name, signals in self.data.split.parts().items()
            },
        } | self.checkpoint_facts()


def record_evaluation(run: RunDir, predictions: Predictions, evaluation: EvaluationRecord) -> None:
    """Leave predictions, their ledger and last, since it is what readers look for, the verdict."""
    run.write_predictions(predictions.frame())
    if evaluation.backtest is not None and evaluation.backtest.ledger is not None:
        ledger = evaluation.backtest.ledger
        run.write_ledger(ledger.trades, ledger.positions, ledger.equity)
    run.write_evaluation(evaluation.to_json())


def git_commit() -> str:
    """The commit the code was at, with `+changes` if it was not clean."""
    folder = Path(__file__).parent
    commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        commit, changes = (
            subprocess.run(["git", *c], cwd=folder, capture_output=True, check=True).stdout.decode(
                errors="replace"
            )
            for c in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return commit.strip() + ("+changes" if changes.strip() else "")


def flat_settings(config: DictConfig) -> dict[str, str | float | bool]:
    """Everything a sweep may vary, by dotted key, as plain values; files and seeds too."""
    settings: dict[str, str | float | bool] = {}
    for key, value in flat(config).items():
        plain = value.name if isinstance(value, Enum) else value
        settings[key] = plain if isinstance(plain, (str, int, float, bool)) else str(plain)
    return settings
