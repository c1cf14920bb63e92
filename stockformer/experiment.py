"""A run's objects, built from its configuration: past this file no config object travels."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import logging
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from stockformer.config import allowed_target
from stockformer.data.calendar import CALENDARS
from stockformer.data.graph import Embedding
from stockformer.data.panel import Panel
from stockformer.data.splits import Split
from stockformer.data.targets import Targets, next_returns
from stockformer.data.windows import Windows
from stockformer.interface import Batch
from stockformer.run import RunDir
from stockformer.training.allocator import keep_freed_memory
from stockformer.training.checkpoint import load_checkpoint
from stockformer.training.early_stopping import EarlyStopping
from stockformer.training.evaluate import Evaluation, Evaluator
from stockformer.training.tensorboard import TensorBoard
from stockformer.training.trainer import Trainer

log = logging.getLogger(__name__)

HIGHER_IS_BETTER = {"mae": False, "loss": False, "rank_ic": True}
LEARNT_BY_HEART = 0.9  # accuracy on its one batch from which a debug run says "yes"


class Experiment:
    """Everything one run needs, built and consistent; nothing is trained before `train`."""

    def __init__(self, config: DictConfig) -> None:
        """Read the data and build every object. Raises ValueError for anything a user can mend."""
        keep_freed_memory()
        self.config = config
        seed = config.seed
        self.device = choose_device(config.trainer.device)
        self.panel: Panel = build(config.dataset.source)
        self.targets: Targets = next_returns(self.panel, config.target.horizon)
        self.split: Split = build(
            config.split,
            days=len(self.panel.dates),
            lookback=config.dataset.lookback,
            span=self.targets.span,
        )
        self.calendar = CALENDARS[config.dataset.calendar.value](self.panel.dates)
        seen = slice(0, self.split.train[-1] + self.targets.span + 1)
        self.embedding: Embedding = build(config.graph).fit(
            self.panel.returns[seen], self.panel.dates[seen], config.model.width, seed
        )
        torch.manual_seed(seed)
        self.model: nn.Module = build(
            config.model,
            factors=len(self.panel.factor_names),
            graph=torch.from_numpy(self.embedding.values),
            learn_graph=self.embedding.learned,
        ).to(self.device)
        self.loss: nn.Module = build(config.loss).to(self.device)
        self.evaluator = Evaluator(self.panel, self.targets, self.device)
        self.windows = Windows(self.panel, self.targets, self.calendar, config.dataset.lookback)

    def train(self, run: RunDir, overrides: list[str]) -> float:
        """Fit the model into `run`; the best validation value of the monitored metric."""
        config, settings = self.config, self.config.trainer
        run.write_config(OmegaConf.to_yaml(config), overrides)
        run.write_manifest(self.manifest())
        self.describe()
        monitor = settings.monitor.value
        optimizer = build(config.optimizer, params=self.model.parameters())
        with TensorBoard(run.tensorboard_folder) as tensorboard:
            tensorboard.text("config", OmegaConf.to_yaml(config))
            trainer = Trainer(
                model=self.model,
                loss=self.loss,
                optimizer=optimizer,
                scheduler=build(config.scheduler, optimizer=optimizer),
                evaluator=self.evaluator,
                stopping=EarlyStopping(
                    patience=settings.early_stopping.patience,
                    min_delta=settings.early_stopping.min_delta,
                    higher_is_better=HIGHER_IS_BETTER[monitor],
                ),
                run=run,
                tensorboard=tensorboard,
                max_epoch=settings.max_epoch,
                gradient_clip_norm=settings.gradient_clip_norm,
                monitor=monitor,
                facts=self.checkpoint_facts(),
            )
            best = trainer.fit(self.loader("train"), self.loader("validation"))
            test = self.test(run)
            if settings.overfit_one_batch:
                learnt = test.metrics["accuracy"] >= LEARNT_BY_HEART
                log.info(
                    "one batch of %d windows: accuracy %.3f; learnt by heart (at least %.2f): %s",
                    *(settings.batch_size, test.metrics["accuracy"], LEARNT_BY_HEART),
                    "yes" if learnt else "NO: model, loss or inputs are broken",
                )
            tensorboard.hyper_parameters(flat_settings(config), test.metrics)
        return best

    def test(self, run: RunDir) -> Evaluation:
        """Evaluate the best epoch on the test days and write its dated predictions."""
        facts = load_checkpoint(run.checkpoint("best"), self.model, self.panel.factor_names)
        evaluation = self.evaluator.evaluate(self.model, self.loss, self.loader("test"))
        run.write_predictions(evaluation.predictions.frame())
        run.write_test({"epoch": facts["epoch"], **evaluation.metrics})
        log.info(
            "test, best epoch %d: mae %.5f  rmse %.5f  accuracy %.3f  ic %+.4f  rank_ic %+.4f  "
            "(%d dates)",
            facts["epoch"],
            *(
                evaluation.metrics[n]
                for n in ("mae", "rmse", "accuracy", "ic", "rank_ic", "n_dates")
            ),
        )
        log.info("run folder: %s", run.path)
        return evaluation

    def loader(self, part: str) -> DataLoader[Batch]:
        """Batches of one part of the split; training ones in an order the seed decides."""
        settings = self.config.trainer
        signals = self.split.parts()[part]
        if settings.overfit_one_batch:
            signals = self.split.train[: settings.batch_size]
        windows = self.windows.part(signals)
        # The order has a generator of its own: workers must not change it.
        order_seed, worker_seed = (torch.Generator().manual_seed(self.config.seed) for _ in "ab")
        order = (
            RandomSampler(windows, generator=order_seed)
            if part == "train"
            else SequentialSampler(windows)
        )
        return DataLoader(
            windows,
            sampler=BatchSampler(order, settings.batch_size, drop_last=False),
            batch_size=None,  # the sampler's list of positions is one indexing operation
            num_workers=settings.num_workers,
            persistent_workers=settings.num_workers > 0,
            pin_memory=self.device.type == "cuda",
            generator=worker_seed,
        )

    def describe(self) -> None:
        """Say what is about to be trained, as a person would want to check it."""
        panel, settings, dates = self.panel, self.config.trainer, self.panel.dates
        days, stocks, factors = panel.factors.shape
        log.info(
            "%s: %d stocks, %d factors, %d days, %s to %s",
            *(self.config.dataset.name, stocks, factors, days, dates[0], dates[-1]),
        )
        for warning in self.config.dataset.warnings:
            log.warning("note: %s", warning)
        for name, signals in self.split.parts().items():
            first, last = dates[signals[0]], dates[signals[-1]]
            log.info("%-10s %4d samples, signal dates %s to %s", name, len(signals), first, last)
        parameters = sum(p.numel() for p in self.model.parameters())
        log.info("model: %s parameters on %s", f"{parameters:,}", self.device)
        patience = {
            "early stopping": settings.early_stopping.patience,
            "the learning-rate plateau": self.config.scheduler.get("patience", 0),
        }
        idle = [f"{name} ({n})" for name, n in patience.items() if n >= settings.max_epoch]
        if idle:
            log.info(
                "with %d epochs %s cannot fire: patience is not below the number of epochs",
                *(settings.max_epoch, " and ".join(idle)),
            )

    def checkpoint_facts(self) -> dict[str, Any]:
        """What the weights need to be used again."""
        return {
            "factor_names": list(self.panel.factor_names),
            "tickers": self.panel.tickers.tolist(),
            "graph_last_date": self.embedding.last_date,
        }

    def manifest(self) -> dict[str, Any]:
        """Where this run comes from: enough to know whether another is comparable."""
        packages = ("torch", "numpy", "pandas", "hydra-core", "omegaconf", "scikit-learn")
        data_hash = hashlib.sha256(json.dumps(dict(self.panel.sources), sort_keys=True).encode())
        return {
            "versions": {name: importlib.metadata.version(name) for name in packages}
            | {"python": platform.python_version()},
            "platform": platform.platform(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "git_commit": git_commit(),
            "seed": self.config.seed,
            "tags": list(self.config.tags),
            "data_hash": data_hash.hexdigest(),
            "files": dict(self.panel.sources),
            "warnings": list(self.config.dataset.warnings),
            "split": {
                name: {
                    "samples": len(signals),
                    "first_signal_date": str(self.panel.dates[signals[0]]),
                    "last_signal_date": str(self.panel.dates[signals[-1]]),
                    "last_target_date": str(self.panel.dates[signals[-1] + self.targets.span]),
                }
                for name, signals in self.split.parts().items()
            },
        } | self.checkpoint_facts()


def build(node: DictConfig, **facts: Any) -> Any:
    """The object `_target_` names, from the node's keys and those of `facts` it has a use for.

    Raises ValueError where the target is not allowed, or its constructor refuses.
    """
    if not allowed_target(node._target_):
        raise ValueError(f"{node._target_!r}: not a class this project builds")
    wanted = inspect.signature(get_object(node._target_)).parameters
    try:
        return instantiate(
            node, _convert_="all", **{name: fact for name, fact in facts.items() if name in wanted}
        )
    except InstantiationException as error:
        if isinstance(error.__cause__, (ValueError, OSError, ArithmeticError)):
            raise error.__cause__ from None
        raise ValueError(" ".join(str(error).split())) from error


def choose_device(name: str) -> torch.device:
    """`auto` is cuda, then mps, then cpu. Raises ValueError for a device this machine lacks."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, there in available.items() if there), "cpu")
    device = torch.device(name)
    missing = device.type in available and not available[device.type]
    if missing or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"trainer.device={name}: not available on this machine; use auto or cpu")
    return device


def git_commit() -> str:
    """The commit the code was at, with `+changes` if it was not clean."""
    folder = Path(__file__).parent
    commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        commit, changes = (
            subprocess.run(
                ["git", *c], cwd=folder, capture_output=True, text=True, check=True
            ).stdout
            for c in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return commit.strip() + ("+changes" if changes.strip() else "")


def flat_settings(config: DictConfig) -> dict[str, str | float | bool]:
    """What a sweep varies, by dotted key, as plain values."""
    flat: dict[str, str | float | bool] = {"seed": config.seed}
    for group in ("dataset", "split", "target", "graph", "model", "loss", "optimizer", "trainer"):
        for key, value in config[group].items():
            if isinstance(value, (str, int, float, bool)) and key != "_target_":
                flat[f"{group}.{key}"] = value
    return flat
