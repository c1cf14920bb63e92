"""What a model is trained and judged on, from its configuration: panel, targets, split, windows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from stockformer.config.build import build
from stockformer.data.calendar import CALENDARS
from stockformer.data.factors import alpha158
from stockformer.data.factors.processors import State
from stockformer.data.panel import Panel
from stockformer.data.reading.cache import input_paths, prepare, unread_files
from stockformer.data.reading.index import index_closes
from stockformer.data.reading.quality import Report
from stockformer.data.splits import Split
from stockformer.data.targets import Targets, next_returns, standardise
from stockformer.data.windows import Windows
from stockformer.evaluation.backtest import Settings
from stockformer.evaluation.baselines import BaselineInputs, all_baselines
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.record import EvaluationRecord
from stockformer.evaluation.screening import likely_leaks, screen
from stockformer.evaluation.summary import summarise
from stockformer.evaluation.trading import (
    WITHOUT_PRICES,
    BacktestSpec,
    market_of_prices,
    market_of_returns,
    sizes,
)
from stockformer.interface import Batch
from stockformer.training.allocator import keep_freed_memory
from stockformer.training.estimate import Estimate, data_bytes, machine_memory
from stockformer.training.processes import Processes
from stockformer.training.progress import working
from stockformer.training.sampler import EpochSampler

log = logging.getLogger(__name__)

NAMED = 8  # files that are not read, in a message
EVALUATED_AT_ONCE = 4  # micro-batches: an evaluation keeps no activations


@dataclass(frozen=True)
class FittedPreprocessing:
    """What a run fitted on its training days, as its checkpoint's facts keep it."""

    factor_names: tuple[str, ...]
    states: Mapping[str, Mapping[str, list[Any]]]
    target_scale: float

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> FittedPreprocessing:
        return cls(tuple(facts["factor_names"]), facts["processors"], facts["target_scale"])

    def state(self, name: str, fitted_here: State, factor_names: tuple[str, ...]) -> State:
        """The recorded state of a processor instead of one fitted here, whose form it must have."""
        try:
            recorded = self.states[name]
            state = {k: np.asarray(recorded[k], dtype=a.dtype) for k, a in fitted_here.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"processors.{name}: not what the checkpoint has: {error}") from error
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
    def read(cls, config: DictConfig, fitted: FittedPreprocessing | None = None) -> Data:
        """Read and prepare the data set. Raises ValueError for anything wrong with it."""
        keep_freed_memory()  # before the large arrays are made
        with working("reading the data"):
            panel = read_panel(config)
        with working("preparing the data for the model"):
            return cls.prepare(config, panel, fitted=fitted)

    @classmethod
    def prepare(
        cls,
        config: DictConfig,
        panel: Panel,
        split: Split | None = None,
        fitted: FittedPreprocessing | None = None,
    ) -> Data:
        """What is made of a source's panel: factors, targets, split (if not given) and windows.

        With `fitted` nothing is fitted on these days: processors and targets are as a run had them.
        """
        dataset = config.dataset
        names = alpha158.expand(dataset.factors)
        if names and panel.factor_names != names:
            with working(f"computing {len(names)} factors of {len(panel.tickers)} stocks"):
                panel = panel.with_factors(*alpha158.compute(panel.prices, names))
        if not panel.factor_names:
            raise ValueError("no factors: name some in dataset.factors, e.g. [KMID,ROC5,STD20]")
        size = data_bytes(panel.factors.shape, processed=bool(config.processors))
        Estimate(data=size).require(machine_memory())
        unprocessed, target = panel, config.target
        targets = next_returns(
            panel,
            horizon=target.horizon,
            offset=target.offset,
            excess=target.excess,
            median_class=target.median_class,
        )
        split = split or build(
            config.split, dates=panel.dates, lookback=dataset.lookback, target_span=targets.span
        )
        assert split is not None
        split = split.without(panel.session_gaps, dataset.lookback, targets.span)
        targets = standardise(targets, target.transform.value, split.train)
        if fitted is not None:
            targets = replace(targets, scale=fitted.target_scale)
        fit_rows = training_days(split, targets)
        states = {}
        for name, node in config.processors.items():
            processor = build(node)
            states[name] = processor.fit(panel, targets, fit_rows)
            if fitted is not None:
                states[name] = fitted.state(name, states[name], panel.factor_names)
            panel = processor.apply(panel, states[name])
        require_known(panel)
        calendar = CALENDARS[dataset.calendar.value](panel.dates)
        windows = Windows(panel, targets, calendar, dataset.lookback)
        return cls(config, panel, targets, split, windows, states, unprocessed)

    def notes(self) -> list[str]:
        """What every report on these data must say."""
        waived = self.config.dataset.waived_factors
        trusted = [f"not screened for look-ahead, waived: {', '.join(waived)}"] if waived else []
        return [*self.config.dataset.warnings, *trusted, *self.panel.notes]

    def log_findings(self, report: Report) -> None:
        """Log every note, and whatever is odd about the data."""
        for note in self.notes():
            log.warning("note: %s", note)
        if self.panel.findings:
            for line in report.lines():
                if line not in self.panel.notes:  # just told
                    log.info("%s", line)

    def history(self) -> BaselineInputs:
        """What the baselines may look at; they learn from every day before the test."""
        return BaselineInputs(
            dates=self.panel.dates,
            tickers=self.panel.tickers,
            returns=self.panel.returns,
            factors=self.unprocessed.factors,  # unknown cells still unknown
            label=np.where(self.targets.valid, self.targets.returns, np.nan),
            up=self.targets.up,
            valid=self.targets.valid,
            training_days=np.concatenate([self.split.train, self.split.validation]),
        )

    def trading(self) -> BacktestSpec:
        """Where the backtest trades, and how. Raises ValueError where a setting does not fit."""
        panel, wanted = self.panel, self.config.backtest
        held, dropped = sizes(wanted.top_k, wanted.n_drop, len(panel.tickers))
        costs = ("risk_degree", "buy_cost", "sell_cost", "slippage_basis_points")
        names = ("rebalance_days", "delay", "capital", *costs)
        index = index_closes(Path(wanted.index_file), panel.dates) if wanted.index_file else None
        shared = {"fill": wanted.fill.value, "index": index, "member": panel.member}
        labels, priced = (panel.dates, panel.tickers), "close" in panel.prices
        if priced:
            move = wanted.limit_threshold
            market = market_of_prices(*labels, panel.prices, limit_threshold=move, **shared)
        else:
            market = market_of_returns(*labels, panel.returns, **shared)
        return BacktestSpec(
            market,
            Settings(top_k=held, n_drop=dropped, **{name: wanted[name] for name in names}),
            start_offsets=wanted.start_offsets,
            participation_rate=wanted.participation_rate,
            sectors=panel.sectors,
            notes=() if priced else (WITHOUT_PRICES,),
        )

    def evaluate(
        self, predictions: Predictions, epoch: int, validation: Predictions | None = None
    ) -> EvaluationRecord:
        """What is to be said of predictions on these data: baselines, statistics, backtest.

        validation: of the days the model was chosen by, where it was chosen here.
        """
        oracle = self.panel.oracle
        if oracle is not None:
            oracle = oracle[np.searchsorted(self.panel.dates, predictions.signal_dates)]
        with working("fitting the baselines"):
            baselines = all_baselines(predictions, self.history())
        return summarise(
            predictions,
            baselines,
            epoch=epoch,
            oracle=oracle,
            trading=self.trading(),
            notes=self.notes(),
            validation=validation,
            targets=self.config.dataset.project_targets,
            suspects=self.suspects(),
        )

    @property
    def prepared(self) -> bool:
        """Whether the factors are the source's own, made outside, and not computed here."""
        return not alpha158.expand(self.config.dataset.factors)

    def suspects(self) -> list[str]:
        """Prepared factors that go with later returns as no honest one does; sentences.

        Those computed here are audited instead; those of `dataset.waived_factors` are trusted.
        """
        given, names = self.unprocessed, self.unprocessed.factor_names
        if not self.prepared:
            return []
        found = likely_leaks(screen(given.factors, names, given.returns, given.member))
        return [
            f"Likely leak in the data: factor {leak.name}, {leak.reason}."
            for leak in found
            if leak.name not in self.config.dataset.waived_factors
        ]

    def loader(self, part: str, device: torch.device, processes: Processes) -> DataLoader[Batch]:
        """This process's share of one part of the split, for `device`.

        Training batches come in an order that the seed decides, the others by date.
        """
        settings = self.config.trainer
        signals = self.split.parts()[part]
        if settings.overfit_one_batch:
            signals = self.split.train[: settings.batch_size]
        if processes.size > len(signals):
            raise ValueError(
                f"{processes.size} processes for {len(signals)} {part} samples: start fewer"
            )
        windows = self.windows.part(signals).to(device, settings.num_workers)
        if part == "train":
            sampler: Any = EpochSampler(
                len(signals), settings.batch_size, self.config.seed, processes
            )
        else:
            mine = processes.shard(range(len(signals)))
            at_once = EVALUATED_AT_ONCE * (settings.micro_batch_size or settings.batch_size)
            sampler = [mine[first : first + at_once] for first in range(0, len(mine), at_once)]
        return DataLoader(
            windows,
            sampler=sampler,
            batch_size=None,  # the sampler's list of positions is one indexing operation
            num_workers=settings.num_workers,
            persistent_workers=settings.num_workers > 0,
            pin_memory=device.type == "cuda" and windows.signals.device.type == "cpu",
            generator=torch.Generator(),  # the workers' seeds must not cost the model's a number
        )


def read_panel(config: DictConfig) -> Panel:
    """The source's panel with its factors, from the cache if these files were prepared before."""
    source, names = config.dataset.source, alpha158.expand(config.dataset.factors)
    settings = cast(dict[str, Any], OmegaConf.to_container(source, resolve=True))
    inputs = input_paths(settings)
    if not inputs:  # a simulated market
        return build(source)

    def fill(panel: Panel, out: np.ndarray) -> None:
        with working(f"computing {len(names)} factors of {len(panel.tickers)} stocks"):
            alpha158.compute(panel.prices, names, out=out)

    panel = prepare(
        lambda: build(source),
        settings=settings,
        inputs=inputs,
        cache=Path(config.paths.cache_dir),
        factor_names=names,
        fill_factors=fill if names else None,
    )
    graph = config.graph.get("path") or ""
    if strays := unread_files(inputs, panel, [Path(graph)] if graph else []):
        more = f" and {len(strays) - NAMED} more" if len(strays) > NAMED else ""
        log.warning("not read, beside the data: %s%s", ", ".join(strays[:NAMED]), more)
    return panel


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
