"""One run from its configuration to its result.

It builds the dataset, the model, the loss and the trainer from the configuration; what it builds
takes plain arguments and never sees the configuration. `Experiment.train` is the whole run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader

from stockformer.config.build import build, input_paths, takes
from stockformer.config.recorded import recorded
from stockformer.config.rules import flat
from stockformer.config.trust import trusted_code
from stockformer.data.calendar import CALENDARS, with_following_days
from stockformer.data.dataset import (
    Dataset,
    FittedPreprocessing,
    NewArray,
    apply_processors,
    require_known,
    training_days,
)
from stockformer.data.factors import library
from stockformer.data.factors.earlier import extended
from stockformer.data.factors.processors import State
from stockformer.data.graph import Embedding, NoGraph
from stockformer.data.panel import Panel
from stockformer.data.reading import quality
from stockformer.data.reading.cache import prepare, processed, unread_files
from stockformer.data.splits import Split
from stockformer.data.targets import Targets, next_returns, standardise
from stockformer.data.windows import Windows
from stockformer.evaluation import inputs
from stockformer.evaluation.backtest import Settings
from stockformer.evaluation.baselines import all_baselines
from stockformer.evaluation.importance import Importance
from stockformer.evaluation.metrics import MONITORS
from stockformer.evaluation.neutralise import Neutraliser, neutralise_notes
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.record import EvaluationRecord
from stockformer.evaluation.summary import summarise
from stockformer.evaluation.trading import WITHOUT_PRICES, BacktestSpec, sizes
from stockformer.interface import Batch
from stockformer.models.tabular import Tabular
from stockformer.reporting import quality_page
from stockformer.runs import audited
from stockformer.runs.description import log_description, manifest, require_same_data
from stockformer.runs.folder import AfterEpoch, RunDir
from stockformer.runs.warm_start import start_from
from stockformer.training import devices
from stockformer.training.allocator import keep_freed_memory
from stockformer.training.checkpoint import load_checkpoint
from stockformer.training.checkpoint_manager import CheckpointManager
from stockformer.training.early_stopping import EarlyStopping
from stockformer.training.estimate import (
    Estimate,
    data_bytes,
    in_memory,
    machine_memory,
    training_bytes,
)
from stockformer.training.evaluate import Evaluation, Evaluator
from stockformer.training.importance import permutation_importance
from stockformer.training.loader import make_loader
from stockformer.training.losses import Loss
from stockformer.training.processes import Processes
from stockformer.training.progress import progress, working
from stockformer.training.state import seed
from stockformer.training.tabular import TabularTrainer
from stockformer.training.tensorboard import TensorBoard
from stockformer.training.trainer import Trainer

log = logging.getLogger(__name__)

OVERFIT_ACCURACY = 0.9  # on the one batch, from which a debug run counts as overfitted
NAMED = 8  # files that are not read, listed in a message


def read_dataset(config: DictConfig, fitted: FittedPreprocessing | None = None) -> Dataset:
    """Read and prepare the data set. Raises ValueError for anything wrong with it."""
    keep_freed_memory()  # before the large arrays are made
    with working("reading the data"):
        panel = read_panel(config)
    with working("preparing the data for the model"):
        return prepare_dataset(config, panel, fitted=fitted, cached=True)


def read_panel(config: DictConfig) -> Panel:
    """The source's panel with its factors, from the cache if available."""
    source, names = config.dataset.source, library.expand(config.dataset.factors)
    settings = cast(dict[str, Any], OmegaConf.to_container(source, resolve=True))
    paths = input_paths(source, settings)
    if not paths:  # a simulated market
        panel: Panel = build(source)
        return panel

    def fill(panel: Panel, out: np.ndarray, earlier: Panel | None) -> None:
        with working(f"computing {len(names)} factors of {len(panel.tickers)} stocks"):
            if earlier is None or not extended(panel, names, out, earlier):
                library.compute(panel, names, out=out)

    panel = prepare(
        lambda: build(source),
        settings=settings,
        inputs=paths,
        cache=Path(config.paths.cache_dir),
        factor_names=names,
        fill_factors=fill if names else None,
    )
    graph, code = config.graph.get("path") or "", trusted_code()
    folders = [path for path in paths if path not in code]
    if unread := unread_files(folders, panel, [Path(graph)] if graph else []):
        more = f" and {len(unread) - NAMED} more" if len(unread) > NAMED else ""
        log.warning(
            "files in the data folder that are not read: %s%s", ", ".join(unread[:NAMED]), more
        )
    return panel


def prepare_dataset(
    config: DictConfig,
    panel: Panel,
    split: Split | None = None,
    fitted: FittedPreprocessing | None = None,
    *,
    cached: bool = False,
    rows: slice | None = None,
    new_array: NewArray = np.empty,
    keep_unprocessed: bool = True,
) -> Dataset:
    """The dataset of a source's panel: factors, targets, split (if not given) and windows.

    With `fitted`, nothing is fitted on these days: processors and targets use a run's fitted state.
    rows: the only ones whose factors are wanted; processors may leave the others at 0.
    cached: the processed factors may come from the cache, and go there; not after `panel` was
    changed in place. new_array: makes the arrays of factors that do not, such as maps of a file.
    keep_unprocessed: False leaves no factors in `unprocessed`; those computed here are overwritten.
    """
    dataset = config.dataset
    names = library.expand(dataset.factors)
    work: np.ndarray | None = None
    if names and panel.factor_names != names:
        work = new_array((*panel.returns.shape, len(names)), np.float32)
        with working(f"computing {len(names)} factors of {len(panel.tickers)} stocks"):
            panel = panel.with_factors(*library.compute(panel, names, out=work))
    unknown = [name for name in dataset.waived_factors if name not in panel.factor_names]
    if unknown:
        raise ValueError(f"dataset.waived_factors: the data have no factor {unknown[0]!r}")
    if not panel.factor_names:
        raise ValueError("no factors: name some in dataset.factors, e.g. [KMID,ROC5,STD20]")
    cached = cached and fitted is None and panel.stored_in is not None
    made = bool(config.processors) and keep_unprocessed and not cached and new_array is np.empty
    size = data_bytes(panel.factors.shape, in_memory([panel.factors]) + made)
    Estimate(data=size).require(machine_memory())
    unprocessed = panel
    targets = targets_of(config, panel)
    split = split or build(
        config.split, dates=panel.dates, lookback=dataset.lookback, target_span=targets.span
    )
    assert split is not None
    split = split.without(panel.session_gaps, dataset.lookback, targets.span)
    targets = standardise(targets, config.target.transform.value, split.train)
    if fitted is not None:
        targets = replace(targets, scale=fitted.target_scale)
    processors = {str(name): build(node) for name, node in config.processors.items()}
    fit_rows = training_days(split, targets)

    def process(new_array: NewArray) -> tuple[Panel, dict[str, State]]:
        return apply_processors(
            *(unprocessed, processors, targets, fit_rows, fitted, rows, new_array),
            work=None if keep_unprocessed else work,
        )

    settings = OmegaConf.to_container(config.processors, resolve=True)
    if not (cached and processors):
        panel, states = process(new_array)
    elif all(processor.stateless for processor in processors.values()):
        panel, states = processed(process, panel, settings=[settings])
    else:
        fitted_on, arrays = [fit_rows.start, fit_rows.stop, targets.span], targets.arrays()
        panel, states = processed(process, panel, settings=[settings, fitted_on], arrays=arrays)
    require_known(panel)
    dates = with_following_days(panel.dates, targets.span)  # of the newest day's targets
    calendar = CALENDARS[dataset.calendar.value](dates)
    waived = dataset.waived_factors
    trusted = [f"factors trusted not to look ahead: {', '.join(waived)}"] if waived else []
    return Dataset(
        name=dataset.name,
        panel=panel,
        targets=targets,
        split=split,
        windows=Windows(panel, targets, calendar, dataset.lookback),
        states=states,
        unprocessed=unprocessed if keep_unprocessed else without_factors(unprocessed),
        prepared_factors=not names,
        notes=(*dataset.warnings, *trusted, *panel.notes),
    )


def without_factors(panel: Panel) -> Panel:
    """The same panel with no factor."""
    return panel.with_factors(panel.factors[..., :0], ())


def targets_of(config: DictConfig, panel: Panel) -> Targets:
    """The targets of every signal date as returns, before any transform."""
    target = config.target
    return next_returns(
        panel,
        horizon=target.horizon,
        offset=target.offset,
        excess=target.excess,
        median_class=target.median_class,
        limit_threshold=config.dataset.limit_threshold,
    )


def backtest_spec(config: DictConfig, data: Dataset) -> BacktestSpec:
    """The market and settings of the backtest. Raises ValueError if a setting does not fit."""
    wanted, panel = config.backtest, data.panel
    return BacktestSpec(
        inputs.market(
            data,
            fill=wanted.fill.value,
            limit_threshold=config.dataset.limit_threshold,
            index_file=wanted.index_file,
        ),
        backtest_settings(wanted, len(panel.tickers)),
        start_offsets=wanted.start_offsets,
        participation_rate=wanted.participation_rate,
        sectors=panel.sectors,
        notes=() if "close" in panel.prices else (WITHOUT_PRICES,),
    )


def backtest_settings(wanted: DictConfig, stocks: int) -> Settings:
    """The group `backtest` for that number of stocks. Raises ValueError for an invalid value."""
    held, dropped = sizes(wanted.top_k, wanted.n_drop, stocks)
    names = [field.name for field in fields(Settings) if field.name not in ("top_k", "n_drop")]
    return Settings(top_k=held, n_drop=dropped, **{name: wanted[name] for name in names})


def evaluate(
    config: DictConfig,
    data: Dataset,
    predictions: Predictions,
    *,
    epoch: int | None = None,
    validation: Predictions | None = None,
    baselines: dict[str, Predictions] | None = None,
    neutralised: Sequence[str] | None = None,
) -> EvaluationRecord:
    """Evaluate predictions on these data: baselines, statistics, backtest.

    validation: predictions of the days that the model was selected by, if it was selected here.
    baselines: those already fitted, by name. neutralised: what is said of what was taken out of the
    predictions, by default what the configuration says.
    """
    if neutralised is None:
        neutralised = neutralise_notes(**config.neutralise)
    if baselines is None:
        with working("fitting the baselines"):
            baselines = all_baselines(predictions, inputs.baseline_inputs(data))
    return summarise(
        predictions,
        baselines,
        epoch=epoch,
        oracle=inputs.oracle_of(data, predictions),
        trading=backtest_spec(config, data),
        notes=(*data.notes, *neutralised),
        validation=validation,
        targets=config.dataset.project_targets,
        suspects=inputs.suspect_factors(data, config.dataset.waived_factors),
    )


def neutraliser(config: DictConfig, panel: Panel) -> Neutraliser:
    """Raises ValueError where there are too few stocks for so many components."""
    settings, stocks = config.neutralise, len(panel.tickers)
    most = stocks // 2 - settings.volatility
    if settings.components > most:
        raise ValueError(
            f"neutralise.components={settings.components}: at most {most} with {stocks} stocks"
        )
    return Neutraliser(panel.returns, panel.member, **settings)


def samples_at_once(config: DictConfig) -> int:
    """The samples of a forward pass in training."""
    size: int = config.trainer.micro_batch_size or config.trainer.batch_size
    return size


class Experiment:
    """All parts of a run, built and checked for consistency; training starts with `train`."""

    def __init__(self, config: DictConfig, data: Dataset) -> None:
        """Raises ValueError for anything that a user can correct."""
        self.config, self.data = config, data
        self.samples_at_once = samples_at_once(config)
        self.device = devices.choose(config.trainer.device)
        devices.set_up(self.device, config.trainer.precision.value, config.trainer.deterministic)
        self.processes = Processes.join(self.device)
        self.loss = self.build_loss().to(self.device)
        self.memory = self.require_memory()  # before it is allocated
        self.embedding, self.model = self.build_model()
        # Only the main process evaluates the best epoch.
        self.neutraliser = neutraliser(config, data.panel)
        self.evaluator = self.build_evaluator(Processes())
        backtest_spec(config, data)  # what does not fit is refused now, not after hours of training

    def require_memory(self) -> Estimate:
        """The memory the run needs. Raises ValueError if it is clearly more than available."""
        config, panel, limit = self.config, self.data.panel, machine_memory()
        settings = config.trainer
        samples = self.samples_at_once
        if settings.oom.value == "split":
            samples = 1  # a micro-batch that does not fit is split

        def make_model() -> nn.Module:
            facts = {"factors": len(panel.factor_names), "stocks": len(panel.tickers)}
            graph = torch.empty(len(panel.tickers), self.graph_width)
            model: nn.Module = build(config.model, graph=graph, learn_graph=False, **facts)
            return model

        weights, step = training_bytes(
            make_model, self.build_loss(), self.one_window, samples, enough=limit / 8
        )
        if settings.precision.value == "bf16":
            step /= 2
        held = in_memory([panel.factors, self.data.unprocessed.factors])
        size = data_bytes(panel.factors.shape, held)
        needed = Estimate(size, weights, step, samples)
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            replace(needed, data=0.0).require(total, str(self.device))
        else:
            needed.require(limit)
        return needed

    @property
    def one_window(self) -> Batch:
        """The first of the training days, to try the model on."""
        return self.data.windows.part(self.data.split.train[:1])[[0]]

    @property
    def graph_width(self) -> int:
        """The width of the stock embedding; 0 for a model that takes none."""
        return int(self.config.model.width) if takes(self.config.model, "graph") else 0

    def build_loss(self) -> Loss:
        """The loss; its bands, if it has any, are the model's."""
        loss: Loss = build(self.config.loss, wavelet=self.config.model.get("wavelet"))
        return loss

    def build_model(self) -> tuple[Embedding, nn.Module]:
        """The stock embedding, fitted on training days, and the model on its device."""
        config, panel = self.config, self.data.panel
        fit_rows = training_days(self.data.split, self.data.targets)
        graph = build(config.graph) if takes(config.model, "graph") else NoGraph()
        embedding: Embedding = graph.fit(panel, fit_rows, self.graph_width, config.seed)
        seed(config.seed)  # the same weights in every process
        model: nn.Module = build(
            config.model,
            factors=len(panel.factor_names),
            stocks=len(panel.tickers),
            graph=torch.from_numpy(embedding.values),
            learn_graph=embedding.learned,
        )
        model.to(self.device)
        precision = devices.choose_precision(config.trainer.precision.value, model, self.one_window)
        # Recorded, so that the run is resumed and evaluated in the same one.
        chosen = OmegaConf.merge(config, {"trainer": {"precision": precision}})
        self.config = cast(DictConfig, chosen)
        devices.speed_up(model, self.device, precision, config.trainer.compile)
        seed(config.seed + self.processes.rank)  # different dropout in each process
        return embedding, model

    def train(
        self, run: RunDir, overrides: list[str], after_epoch: AfterEpoch | None = None
    ) -> float:
        """Fit the model and write to `run`; a resumed run continues from its checkpoint.

        Returns the best validation value of the monitored metric.
        """
        initial: dict[str, Any] = {}
        if self.config.init_from is not None and not run.trained():
            initial = {"init_from": start_from(Path(self.config.init_from), self)}
        if self.processes.is_main:
            self.record_start(run, overrides, initial)
        with TensorBoard(run.tensorboard_folder) as tensorboard:
            trainer = self.build_trainer(run, tensorboard, after_epoch)
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

    def record_start(self, run: RunDir, overrides: list[str], initial: dict[str, Any]) -> None:
        """Write the description of the run to its folder and to the log.

        initial: facts on the run whose weights it starts from. Raises ValueError if a run is
        resumed with other data than it started with.
        """
        facts = manifest(self) | {"run": run.id} | initial
        facts["lookahead_audit"] = audited.outcome(self.config, facts)
        if self.manifest_stands(run):
            before = run.read_manifest()
            require_same_data(before, facts)
            again = {name: facts[name] for name in ("versions", "git_commit", "threads")}
            facts = before | {"resumed": [*before.get("resumed", []), again]}
        run.write_config(recorded(self.config), overrides)
        run.write_manifest(facts)
        report = quality.report(self.data.panel, self.data.name)
        run.write_quality(quality_page.html(report))
        log_description(self, report, overrides)

    def manifest_stands(self, run: RunDir) -> bool:
        """Whether the manifest of a resumed run exists: not if it was killed while reading data."""
        return run.resumed and (run.trained() or run.manifest_file.exists())

    def build_evaluator(self, processes: Processes) -> Evaluator:
        panel, targets = self.data.panel, self.data.targets
        return Evaluator(panel, targets, self.device, processes, self.neutraliser)

    def build_trainer(
        self, run: RunDir, tensorboard: TensorBoard, after_epoch: AfterEpoch | None = None
    ) -> Trainer | TabularTrainer:
        """The trainer of this model: of a loop over epochs, or of a fit at once."""
        if isinstance(self.model, Tabular):
            return self.tabular_trainer(self.model, run, tensorboard, after_epoch)
        return self.trainer(run, tensorboard, after_epoch)

    def trainer(
        self, run: RunDir, tensorboard: TensorBoard, after_epoch: AfterEpoch | None = None
    ) -> Trainer:
        """The trainer with the configured optimizer, scheduler and early stopping."""
        settings = self.config.trainer
        # Fused optimizers can skip a step by a flag on the device.
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
            evaluator=self.build_evaluator(self.processes),
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
            micro_batch_size=self.samples_at_once,
            gradient_clip_norm=settings.gradient_clip_norm,
            monitor=settings.monitor,
            on_nonfinite=settings.on_nonfinite.value,
            skip_limit=settings.skip_limit,
            oom=settings.oom.value,
            after_epoch=after_epoch,
        )

    def tabular_trainer(
        self,
        model: Tabular,
        run: RunDir,
        tensorboard: TensorBoard,
        after_epoch: AfterEpoch | None = None,
    ) -> TabularTrainer:
        """What fits a model at once. Raises ValueError for settings that only a loop has."""
        if self.processes.size > 1:
            raise ValueError("this model is fitted by one process: start it without torchrun")
        return TabularTrainer(
            model=model,
            loss=self.loss,
            evaluator=self.evaluator,
            run=run,
            facts=self.checkpoint_facts(),
            tensorboard=tensorboard,
            monitor=self.config.trainer.monitor,
            seed=self.config.seed,
            after_epoch=after_epoch,
        )

    def test(self, run: RunDir) -> Evaluation:
        """Evaluate the best epoch on the test days against the baselines; write the results."""
        names = self.data.panel.factor_names
        facts = load_checkpoint(run.checkpoint("best"), self.model, names)
        validation, evaluation = (self.evaluate_part(part) for part in ("validation", "test"))
        record = evaluate(
            self.config,
            self.data,
            evaluation.predictions,
            epoch=facts["epoch"],
            validation=validation.predictions,
        )
        record_evaluation(run, evaluation.predictions, record)
        audit = str(run.read_manifest().get("lookahead_audit", ""))
        shown = replace(record, answers=record.answers.audited(audit))
        log.info("test, best epoch %d, %s", facts["epoch"], "\n".join(shown.lines()))
        return evaluation

    def evaluate_part(self, part: str) -> Evaluation:
        """Evaluate the model on one part of the split, in this process only."""
        batches = self.loader(part, alone=True)
        shown = progress(batches, part, total=len(batches))
        return self.evaluator.evaluate(self.model, self.loss, shown)

    def importance(self, horizon: int) -> Importance:
        """How much of the test rank IC rests on each input. horizon: `Predictions.horizon`."""
        batches = self.loader("test", alone=True)
        return permutation_importance(
            self.model,
            progress(batches, "what moved the forecasts", total=len(batches)),
            self.data.panel.factor_names,
            evaluator=self.evaluator,
            horizon=horizon,
            seed=self.config.seed,
        )

    def log_overfit_result(self, run: RunDir) -> None:
        """Log whether the best epoch has overfitted its one batch."""
        load_checkpoint(run.checkpoint("best"), self.model, self.data.panel.factor_names)
        metrics = self.evaluator.evaluate(self.model, self.loss, self.loader("train")).metrics
        overfitted = metrics["accuracy"] >= OVERFIT_ACCURACY
        log.info(
            "one batch of %d windows: accuracy %.3f; overfitted (at least %.2f): %s",
            self.config.trainer.batch_size,
            metrics["accuracy"],
            OVERFIT_ACCURACY,
            "yes" if overfitted else "NO: train longer, or look for a bug",
        )

    def loader(self, part: str, alone: bool = False) -> DataLoader[Batch]:
        """This process's batches of `train`, `validation` or `test`; all of them with `alone`."""
        settings, split = self.config.trainer, self.data.split
        signals = split.parts()[part]
        if settings.overfit_one_batch:
            signals = split.train[: settings.batch_size]
        return make_loader(
            self.data.windows,
            signals,
            part=part,
            batch_size=settings.batch_size,
            micro_batch_size=self.samples_at_once,
            num_workers=settings.num_workers,
            seed=self.config.seed,
            device=self.device,
            processes=Processes() if alone else self.processes,
        )

    def checkpoint_facts(self) -> dict[str, Any]:
        """The facts needed to use the weights again."""
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


def record_evaluation(run: RunDir, predictions: Predictions, evaluation: EvaluationRecord) -> None:
    """Write predictions, ledger and, last because readers look for it, evaluation.json."""
    run.write_predictions(predictions.frame())
    if evaluation.backtest is not None and evaluation.backtest.ledger is not None:
        ledger = evaluation.backtest.ledger
        run.write_ledger(ledger.trades, ledger.positions, ledger.equity)
    run.write_evaluation(evaluation.to_json())


def flat_settings(config: DictConfig) -> dict[str, str | float | bool]:
    """Every setting that a sweep may vary, by dotted key, as plain values; also files and seeds."""
    settings: dict[str, str | float | bool] = {}
    for key, value in flat(config).items():
        plain = value.name if isinstance(value, Enum) else value
        settings[key] = plain if isinstance(plain, (str, int, float, bool)) else str(plain)
    return settings
