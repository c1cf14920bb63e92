"""A run's objects, built from its configuration: past this file no config object travels."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import logging
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from stockformer.config import allowed_target, flat
from stockformer.data import alpha158, quality, quality_report
from stockformer.data.calendar import CALENDARS
from stockformer.data.graph import Embedding
from stockformer.data.index import index_closes
from stockformer.data.panel import Panel
from stockformer.data.prepare import input_paths, prepare
from stockformer.data.processors import State
from stockformer.data.splits import Split
from stockformer.data.targets import Targets, next_returns, standardise
from stockformer.data.windows import Windows
from stockformer.evaluation.backtest import Settings
from stockformer.evaluation.baselines import History, all_baselines
from stockformer.evaluation.metrics import Predictions
from stockformer.evaluation.summary import Summary, summarise
from stockformer.evaluation.trading import (
    WITHOUT_PRICES,
    Trading,
    market_of_prices,
    market_of_returns,
    sizes,
)
from stockformer.interface import Batch
from stockformer.run import RunDir
from stockformer.training.allocator import keep_freed_memory
from stockformer.training.checkpoint import load_checkpoint
from stockformer.training.early_stopping import EarlyStopping
from stockformer.training.evaluate import Evaluation, Evaluator
from stockformer.training.tensorboard import TensorBoard
from stockformer.training.trainer import Trainer

log = logging.getLogger(__name__)

LEARNT_BY_HEART = 0.9  # accuracy on its one batch from which a debug run says "yes"


@dataclass(frozen=True)
class Fitted:
    """What a run fitted on its training days, as its checkpoint's facts keep it."""

    factor_names: tuple[str, ...]
    states: Mapping[str, Mapping[str, list[Any]]]
    target_unit: float

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Fitted:
        return cls(tuple(facts["factor_names"]), facts["processors"], facts["target_unit"])

    def state(self, name: str, fitted_here: State, factor_names: tuple[str, ...]) -> State:
        """The recorded state of a processor instead of one fitted here, whose form it must have."""
        recorded = self.states[name]
        state = {k: np.asarray(recorded[k], dtype=a.dtype) for k, a in fitted_here.items()}
        if any(state[key].shape != array.shape for key, array in fitted_here.items()):
            missing = sorted(set(self.factor_names) - set(factor_names))
            raise ValueError(
                f"processors.{name}: fitted on other factors than the {len(factor_names)} here"
                + (f", which lack {', '.join(missing[:5])}" if missing else "")
            )
        return state


@dataclass(frozen=True)
class Data:
    """What a model is trained and judged on: the panel, its targets, and the days of each part."""

    config: DictConfig
    panel: Panel
    targets: Targets
    split: Split
    windows: Windows
    states: dict[str, State]
    unprocessed: Panel

    @classmethod
    def read(cls, config: DictConfig, fitted: Fitted | None = None) -> Data:
        """Read and prepare the data set. Raises ValueError for anything wrong with it."""
        keep_freed_memory()  # before the large arrays are made
        return cls.prepare(config, read_panel(config), fitted=fitted)

    @classmethod
    def prepare(
        cls,
        config: DictConfig,
        panel: Panel,
        split: Split | None = None,
        fitted: Fitted | None = None,
    ) -> Data:
        """What is made of a source's panel: factors, targets, split (if not given) and windows.

        With `fitted` nothing is fitted on these days: processors and targets are as a run had them.
        """
        dataset = config.dataset
        names = alpha158.expand(dataset.factors)
        if names and panel.factor_names != names:
            panel = panel.with_factors(*alpha158.compute(panel.prices, names))
        if not panel.factor_names:
            raise ValueError("no factors: name some in dataset.factors, e.g. [KMID,ROC5,STD20]")
        unprocessed, target = panel, config.target
        targets = next_returns(
            panel,
            horizon=target.horizon,
            offset=target.offset,
            excess=target.excess,
            median_class=target.median_class,
        )
        split = split or build(
            config.split, dates=panel.dates, lookback=dataset.lookback, span=targets.span
        )
        assert split is not None
        split = split.without(panel.breaks, dataset.lookback, targets.span)
        targets = standardise(targets, target.transform.value, split.train)
        if fitted is not None:
            targets = replace(targets, unit=fitted.target_unit)
        seen = training_days(split, targets)
        states = {}
        for name, node in config.processors.items():
            processor = build(node)
            states[name] = processor.fit(panel, targets, seen)
            if fitted is not None:
                states[name] = fitted.state(name, states[name], panel.factor_names)
            panel = processor.apply(panel, states[name])
        require_known(panel)
        calendar = CALENDARS[dataset.calendar.value](panel.dates)
        windows = Windows(panel, targets, calendar, dataset.lookback)
        return cls(config, panel, targets, split, windows, states, unprocessed)

    def notes(self) -> list[str]:
        """What every report on these data must say."""
        return [*self.config.dataset.warnings, *self.panel.notes]

    def history(self) -> History:
        """What the baselines may look at; they learn from every day before the test."""
        return History(
            dates=self.panel.dates,
            tickers=self.panel.tickers,
            returns=self.panel.returns,
            factors=self.unprocessed.factors,  # unknown cells still unknown
            label=np.where(self.targets.valid, self.targets.returns, np.nan),
            up=self.targets.up,
            valid=self.targets.valid,
            training_days=np.concatenate([self.split.train, self.split.validation]),
        )

    def trading(self) -> Trading:
        """Where the backtest trades, and how. Raises ValueError where a setting does not fit."""
        panel, wanted = self.panel, self.config.backtest
        held, dropped = sizes(wanted.k, wanted.n_drop, len(panel.tickers))
        costs = ("cash_share", "buy_cost", "sell_cost", "slippage_basis_points")
        names = ("rebalance_days", "delay", "capital", *costs)
        index = index_closes(Path(wanted.index_file), panel.dates) if wanted.index_file else None
        shared = {"fill": wanted.fill.value, "index": index, "member": panel.member}
        labels, priced = (panel.dates, panel.tickers), "close" in panel.prices
        if priced:
            move = wanted.locked_move
            market = market_of_prices(*labels, panel.prices, locked_move=move, **shared)
        else:
            market = market_of_returns(*labels, panel.returns, **shared)
        return Trading(
            market,
            Settings(k=held, n_drop=dropped, **{name: wanted[name] for name in names}),
            offsets=wanted.offsets,
            share_of_volume=wanted.share_of_volume,
            sectors=panel.sectors,
            notes=() if priced else (WITHOUT_PRICES,),
        )

    def judge(self, predictions: Predictions) -> Summary:
        """What is to be said of predictions on these data: baselines, statistics, backtest."""
        oracle = self.panel.oracle
        if oracle is not None:
            oracle = oracle[np.searchsorted(self.panel.dates, predictions.signal_dates)]
        return summarise(
            predictions,
            all_baselines(predictions, self.history()),
            oracle=oracle,
            trading=self.trading(),
            notes=self.notes(),
        )

    def loader(self, part: str, pin_memory: bool) -> DataLoader[Batch]:
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
            pin_memory=pin_memory,
            generator=worker_seed,
        )


class Experiment:
    """Everything one run needs, built and consistent; nothing is trained before `train`."""

    def __init__(self, config: DictConfig, data: Data) -> None:
        """Raises ValueError for anything a user can mend."""
        self.config, self.data = config, data
        self.device = choose_device(config.trainer.device)
        self.embedding, self.model = self.build_model()
        self.loss: nn.Module = build(config.loss).to(self.device)
        self.evaluator = Evaluator(self.data.panel, self.data.targets, self.device)
        self.data.trading()  # what does not fit is refused now, not after hours of training

    def build_model(self) -> tuple[Embedding, nn.Module]:
        """The stock embedding, fitted on training days, and the model on its device."""
        config, panel = self.config, self.data.panel
        seen = training_days(self.data.split, self.data.targets)
        embedding: Embedding = build(config.graph).fit(panel, seen, config.model.width, config.seed)
        torch.manual_seed(config.seed)
        model: nn.Module = build(
            config.model,
            factors=len(panel.factor_names),
            stocks=len(panel.tickers),
            graph=torch.from_numpy(embedding.values),
            learn_graph=embedding.learned,
        )
        return embedding, model.to(self.device)

    def train(self, run: RunDir, overrides: list[str]) -> float:
        """Fit the model into `run`; the best validation value of the monitored metric."""
        run.write_config(OmegaConf.to_yaml(self.config), overrides)
        run.write_manifest(self.manifest())
        report = quality.report(self.data.panel, self.config.dataset.name)
        run.write_quality(quality_report.html(report))
        self.describe(report)
        with TensorBoard(run.tensorboard_folder) as tensorboard:
            tensorboard.text("config", OmegaConf.to_yaml(self.config))
            trainer = self.trainer(run, tensorboard)
            best = trainer.fit(self.loader("train"), self.loader("validation"))
            if self.config.trainer.overfit_one_batch:
                self.tell_whether_learnt(run)
            else:
                test = self.test(run)
                tensorboard.tested(test.predictions)
                tensorboard.hyper_parameters(flat_settings(self.config), test.metrics)
        log.info("run folder: %s", run.path)
        return best

    def trainer(self, run: RunDir, tensorboard: TensorBoard) -> Trainer:
        """The loop with its optimizer, scheduler and stopping, as configured."""
        settings = self.config.trainer
        optimizer = build(self.config.optimizer, params=self.model.parameters())
        return Trainer(
            model=self.model,
            loss=self.loss,
            optimizer=optimizer,
            scheduler=build(self.config.scheduler, optimizer=optimizer),
            evaluator=self.evaluator,
            stopping=EarlyStopping(
                patience=settings.early_stopping.patience,
                min_delta=settings.early_stopping.min_delta,
                higher_is_better=settings.monitor.higher_is_better,
            ),
            run=run,
            tensorboard=tensorboard,
            max_epoch=settings.max_epoch,
            gradient_clip_norm=settings.gradient_clip_norm,
            monitor=settings.monitor.value,
            facts=self.checkpoint_facts(),
        )

    def test(self, run: RunDir) -> Evaluation:
        """Judge the best epoch on the test days beside the baselines; write all of it down."""
        names = self.data.panel.factor_names
        facts = load_checkpoint(run.checkpoint("best"), self.model, names)
        evaluation = self.evaluator.evaluate(self.model, self.loss, self.loader("test"))
        summary = self.data.judge(evaluation.predictions)
        write_judgement(run, facts["epoch"], evaluation.predictions, summary)
        log.info("test, best epoch %d, %s", facts["epoch"], "\n".join(summary.lines()))
        return evaluation

    def tell_whether_learnt(self, run: RunDir) -> None:
        """Say whether the best epoch knows its one batch by heart."""
        load_checkpoint(run.checkpoint("best"), self.model, self.data.panel.factor_names)
        metrics = self.evaluator.evaluate(self.model, self.loss, self.loader("train")).metrics
        learnt = metrics["accuracy"] >= LEARNT_BY_HEART
        log.info(
            "one batch of %d windows: accuracy %.3f; learnt by heart (at least %.2f): %s",
            *(self.config.trainer.batch_size, metrics["accuracy"], LEARNT_BY_HEART),
            "yes" if learnt else "NO: train longer, or look for what is broken",
        )

    def loader(self, part: str) -> DataLoader[Batch]:
        """Batches of `train`, `validation` or `test`."""
        return self.data.loader(part, pin_memory=self.device.type == "cuda")

    def describe(self, report: quality.Report) -> None:
        """Say what is about to be trained, as a person would want to check it."""
        panel, settings, dates = self.data.panel, self.config.trainer, self.data.panel.dates
        days, stocks, factors = panel.factors.shape
        log.info(
            "%s: %d stocks, %d factors, %d days, %s to %s",
            *(self.config.dataset.name, stocks, factors, days, dates[0], dates[-1]),
        )
        for note in self.data.notes():
            log.warning("note: %s", note)
        if panel.findings:
            for line in report.lines():
                log.info("%s", line)
        for name, signals in self.data.split.parts().items():
            first, last = dates[signals[0]], dates[signals[-1]]
            log.info("%-10s %4d samples, signal dates %s to %s", name, len(signals), first, last)
        parameters = sum(p.numel() for p in self.model.parameters())
        log.info("model: %s parameters on %s", f"{parameters:,}", self.device)
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
            "target_unit": self.data.targets.unit,
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


def write_judgement(
    run: RunDir, epoch: int | None, predictions: Predictions, summary: Summary
) -> None:
    """Leave predictions, their ledger and last, since it is what readers look for, the verdict."""
    run.write_predictions(predictions.frame())
    if summary.traded is not None:
        ledger = summary.traded.ledger
        run.write_ledger(ledger.trades, ledger.positions, ledger.equity)
    run.write_evaluation({"epoch": epoch, **summary.as_json()})


def read_panel(config: DictConfig) -> Panel:
    """The source's panel with its factors, from the cache if these files were prepared before."""
    source, names = config.dataset.source, alpha158.expand(config.dataset.factors)
    settings = cast(dict[str, Any], OmegaConf.to_container(source, resolve=True))
    inputs = input_paths(settings)
    if not inputs:  # a simulated market
        return build(source)

    def fill(panel: Panel, out: np.ndarray) -> None:
        alpha158.compute(panel.prices, names, out=out)

    return prepare(
        lambda: build(source),
        settings=settings,
        inputs=inputs,
        cache=Path(config.paths.cache_dir),
        factor_names=names,
        fill_factors=fill if names else None,
    )


def training_days(split: Split, targets: Targets) -> slice:
    """The rows anything fitted may see: up to the last training target, no further."""
    return slice(0, int(split.train[-1]) + targets.span + 1)


def require_known(panel: Panel) -> None:
    """Inputs must be numbers: a model cannot be told "unknown" but by what stands for it."""
    unknown = ~np.isfinite(panel.factors).all(axis=(0, 1))
    if unknown.any():
        names = [name for name, some in zip(panel.factor_names, unknown) if some]
        raise ValueError(
            f"factors with unknown or infinite cells after processing: {names[:5]}; end the "
            "processors with a fill, e.g. processors=rank"
        )


def build(node: DictConfig, **facts: Any) -> Any:
    """The object `_target_` names, from the node's keys and those of `facts` it has a use for.

    Raises ValueError where the target is not allowed, or its constructor refuses.
    """
    name = node._target_
    refusal = f"_target_={name!r}: not a class this project builds"
    if not allowed_target(name):
        raise ValueError(refusal)
    try:
        target = get_object(name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{refusal}: {' '.join(str(error).split())}") from error
    module = name.rpartition(".")[0]
    if name.startswith("stockformer.") and getattr(target, "__module__", None) != module:
        raise ValueError(refusal)  # only imported there, e.g. pathlib.Path
    signature = inspect.signature(target)
    wanted = {key: fact for key, fact in facts.items() if key in signature.parameters}
    try:
        signature.bind(**{str(key): None for key in node if key != "_target_"} | wanted)
    except TypeError as error:
        offered = f"; a run offers {', '.join(facts)}" if facts else ""
        raise ValueError(f"_target_={name!r} and its keys disagree: {error}{offered}") from error
    try:
        return instantiate(node, _convert_="all", **wanted)
    except InstantiationException as error:
        raise (error.__cause__ or error) from None


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
    """Everything a sweep may vary, by dotted key, as plain values; files and seeds too."""
    settings: dict[str, str | float | bool] = {}
    for key, value in flat(config).items():
        plain = value.name if isinstance(value, Enum) else value
        settings[key] = plain if isinstance(plain, (str, int, float, bool)) else str(plain)
    return settings
