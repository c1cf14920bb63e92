"""Observes the results of a run, in a separate process, for one variant of the future.

Each observation is made by a new process that has read no other variant of the data, so that no
cached value of later days can hide a leak. The same code on the same data gives the same bits, so a
result that differs between two variants depends on the days that differ.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from stockformer.audit import variants
from stockformer.audit.files import source_faults
from stockformer.audit.trading import trading_faults
from stockformer.config.build import build
from stockformer.config.recorded import read_config
from stockformer.config.trust import trust, trusted
from stockformer.data.dataset import Dataset, training_days
from stockformer.data.panel import Panel
from stockformer.data.splits import Split
from stockformer.evaluation import baselines
from stockformer.evaluation.inputs import baseline_inputs
from stockformer.evaluation.predictions import Predictions
from stockformer.experiment import Experiment, prepare_dataset
from stockformer.runs import ensemble, reevaluation
from stockformer.runs.folder import RunDir
from stockformer.runs.fork_server import start_fork_server
from stockformer.training.loader import EVALUATED_AT_ONCE

TIMES = ("seconds", "per_second", "mib")  # columns of metrics.csv that differ between any runs
ONE_DATE = 1e-4  # relative to the spread: a batch of one uses other kernels
FEW_BATCHES = 2  # of each part of the small training
CODE = (".py", ".pyc", ".so", ".yaml", ".pth", ".toml", ".json")
PACKAGES = ("site-packages", "dist-packages")  # also those of the user, outside the environment


@dataclass(frozen=True)
class Request:
    """What to observe. variant: of `variants`, after row `cut`; split: of the complete data, None
    to make it; train: also run a small training; baselines: also the baselines."""

    config: str
    variant: str
    cut: int
    cuts: int
    overrides: tuple[str, ...] = ()
    split: Split | None = None
    train: bool = False
    baselines: bool = False
    factors: bool = False


@dataclass
class Observation:
    """dated: the panel rows of an array's first axis, and the array. static: arrays that no later
    day may change. trained: results of a small training. faults: sentences on errors that need no
    comparison. factors, returns, member: of the complete data, for screening."""

    dates: np.ndarray
    tickers: np.ndarray
    split: Split
    cuts: np.ndarray
    span: int
    dated: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    static: dict[str, np.ndarray] = field(default_factory=dict)
    trained: dict[str, np.ndarray] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    factor_names: tuple[str, ...] = ()
    prepared: bool = False
    factors: np.ndarray | None = None
    returns: np.ndarray | None = None
    member: np.ndarray | None = None


def start_server(start_method: str) -> None:
    """Start the server that processes are forked from: it imports for seconds, meanwhile go on."""
    if start_method == "forkserver":  # the server has imported this module, but read no data
        start_fork_server([__name__])


def observe(request: Request, start_method: str) -> Observation:
    """The observation by a new process. Raises ValueError if the run itself would."""
    seen = _in_new_process(start_method, _observed, request)
    assert isinstance(seen, Observation)
    return seen


def _in_new_process(start_method: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result in a new process. Raises ValueError for its errors.

    Without a start method it is called in this process, which is faster but not isolated.
    """
    if not start_method:
        return function(*arguments)
    start_server(start_method)
    context = multiprocessing.get_context(start_method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, trusted(), function, arguments))  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    try:
        found, error = ours.recv()
    except EOFError:
        process.join()
        raise ValueError(
            f"look-ahead audit: the process that prepared the data ended with status "
            f"{process.exitcode}: out of memory?"
        ) from None
    process.join()
    if error:
        raise ValueError(error)
    return found


def source_observation(config: str, row: int, start_method: str) -> list[str]:
    """Sentences on faults in reading the source's files, found in a new process."""
    return _in_new_process(start_method, _source_faults, config, row)


def _source_faults(config: str, row: int) -> list[str]:
    return list(source_faults(read_config(config), row))


def _answer(
    connection: Connection,
    packages: frozenset[str],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    trust(packages)
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)  # the first preparation has already logged the messages
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    try:
        connection.send((function(*arguments), ""))
    except (ValueError, OSError, ArithmeticError) as error:
        connection.send((None, str(error) or type(error).__name__))
    except Exception:
        connection.send((None, traceback.format_exc()))
    finally:
        connection.close()


def _observed(request: Request) -> Observation:
    config = read_config(request.config)
    opened: set[str] = set()
    with _noting_files(opened):
        source: Panel = build(config.dataset.source)
        panel = variants.after(source, request.cut, request.variant)
        data = prepare_dataset(config, panel, request.split)
        experiment = Experiment(config, data)
        seen = Observation(
            dates=source.dates,
            tickers=source.tickers,
            split=data.split,
            cuts=_cuts(data, request.cuts) if request.split is None else np.array([request.cut]),
            span=data.targets.span,
            factor_names=data.panel.factor_names,
            prepared=data.prepared_factors,
        )
        _note_inputs(seen, data, experiment)
        if request.variant != variants.DROPPED:  # shorter batches would round differently
            _note_predictions(seen, experiment)
    seen.faults += _undeclared(opened, config, data, experiment)
    whole = request.variant == variants.WHOLE
    if whole:
        seen.faults += [*_split_faults(experiment), *_loader_faults(experiment)]
        seen.faults += trading_faults(experiment)
        seen.faults += _ensemble_faults(experiment)
        seen.faults += _batch_faults(experiment)
        if request.factors:
            seen.factors, seen.returns = data.unprocessed.factors, data.panel.returns
            seen.member = data.panel.member
    if request.baselines:
        try:
            _note_baselines(seen, experiment)
        except ValueError as error:
            seen.faults.append(str(error))
    if request.train:
        with tempfile.TemporaryDirectory() as folder:
            _train(seen, experiment, Path(folder) / "run", request.overrides, again=whole)
    return seen


def _cuts(data: Dataset, count: int) -> np.ndarray:
    """Rows to cut after: from the last training day to the last signal day, evenly."""
    first = training_days(data.split, data.targets).stop - 1
    last = int(data.split.test[-1])
    return np.unique(np.linspace(first, last, count).round().astype(int))


def _note_inputs(seen: Observation, data: Dataset, experiment: Experiment) -> None:
    """Factors, windows, calendar, targets, and everything fitted."""
    rows = np.arange(len(data.panel.dates))
    for i, name in enumerate(data.panel.factor_names):
        seen.dated[f"factor {name}"] = rows, data.panel.factors[..., i]
    seen.dated["calendar"] = rows, data.windows.calendar[: len(rows)].numpy()
    lookback = experiment.config.dataset.lookback
    days = rows[lookback - 1 : len(rows) - data.targets.span]
    for name in ("returns", "trend"):
        batch = data.windows.part(days)[list(range(len(days)))]
        seen.dated[f"window's {name}"] = days, getattr(batch, name).numpy()
    targets = data.targets
    for step, (start, end) in enumerate(zip(targets.start, targets.end)):
        # Whether a stock can be bought is known at the target's start, the return at its end.
        seen.dated[f"validity of the target, step {step + 1}"] = (
            rows + int(start),
            targets.valid[:, step],
        )
        for name in ("returns", "up"):
            values = np.where(targets.valid[:, step], getattr(targets, name)[:, step], 0)
            seen.dated[f"target's {name}, step {step + 1}"] = rows + int(end), values
    seen.dated["target known already"] = rows, np.where(targets.valid, targets.returns, 0.0)[:, 0]
    scored = _empty(experiment, days)
    seen.dated["scored label known already"] = days, np.nan_to_num(scored.label)[:, 0]
    for name, state in data.states.items():
        for key, values in state.items():
            seen.static[f"state of processor {name} ({key})"] = np.asarray(values)
    seen.static["scale of the target"] = np.array([targets.scale])
    seen.static["graph embedding"] = experiment.embedding.values


@torch.inference_mode()
def _note_predictions(seen: Observation, experiment: Experiment) -> None:
    """Predictions of the untrained model, for the evaluator's own batch around each cut."""
    experiment.model.eval()
    for part in ("validation", "test"):
        rows, forecasts = [], []
        for batch in experiment.loader(part, alone=True):
            inside = batch.signal.numpy()
            if np.isin(inside, seen.cuts).any():
                rows.append(inside)
                forecast = experiment.model(batch.to(experiment.device))
                forecasts.append(forecast.returns[:, 0].cpu().numpy())
        if rows:
            seen.dated[f"prediction ({part})"] = np.concatenate(rows), np.concatenate(forecasts)


@torch.inference_mode()
def _batch_faults(experiment: Experiment) -> Iterator[str]:
    """A forecast must not depend on the other dates of its batch, or on earlier calls."""
    experiment.model.eval()
    signals = experiment.data.split.test[: max(2, EVALUATED_AT_ONCE)]
    windows = experiment.data.windows.part(signals)
    positions = list(range(len(signals)))

    def forecast_of(which: list[int]) -> np.ndarray:
        values: np.ndarray = (
            experiment.model(windows[which].to(experiment.device))
            .returns[:, 0]
            .cpu()
            .float()
            .numpy()
        )
        return values

    together = forecast_of(positions)
    alone = np.concatenate([forecast_of([position]) for position in positions])
    reverse = forecast_of(positions[::-1])[::-1]
    tolerance = ONE_DATE if experiment.config.trainer.precision.value == "float32" else 0.05
    allowed = tolerance * max(float(np.abs(together).max()), float(together.std()), 1e-12)
    for other, how in ((alone, "alone"), (reverse, "in another order")):
        largest = float(np.abs(together - other).max())
        if largest > allowed:
            yield (
                f"prediction: the forecast of a date {how} differs from that in a batch (up to "
                f"{largest:.3g}): the model mixes the dates of a batch, or remembers earlier ones"
            )


def _split_faults(experiment: Experiment) -> Iterator[str]:
    """Parts in order, and no target that reaches the next part's days."""
    data = experiment.data
    parts, ends = data.split.parts(), int(max(data.targets.end))
    # Counted by target, a part's first signal is a day before its first target.
    early = int(experiment.config.split.get("counted_by") == "target")
    names, dates = list(parts), data.panel.dates
    for name, following in pairwise(names):
        last, first = int(parts[name].max()), int(parts[following].min())
        if last >= first:
            yield (
                f"split: {name} days reach to {dates[last]}, {following} begins on {dates[first]}: "
                "they overlap"
            )
        elif last + ends >= first + early:
            yield (
                f"split: the target of {name} day {dates[last]} ends on {dates[last + ends]}, and "
                f"{following} begins on {dates[first]}: not purged"
            )
    if set(parts["train"]) & (set(parts["validation"]) | set(parts["test"])):
        yield "split: a training day is a validation or test day too"


def _loader_faults(experiment: Experiment) -> Iterator[str]:
    """Check the batches of the loaders against the split and the panel."""
    data = experiment.data
    for part, signals in data.split.parts().items():
        rows = []
        for batch in experiment.loader(part, alone=True):
            signal = batch.signal.numpy()
            rows.append(signal)
            returns = np.nan_to_num(data.panel.returns[signal].astype(np.float32))
            if not np.array_equal(batch.returns[:, -1].numpy(), returns):
                yield f"loader: a {part} window does not end on its signal date"
                break
            if not np.array_equal(batch.target.numpy(), data.targets.values[signal].astype("f4")):
                yield f"loader: the target of a {part} window is another date's"
                break
        if experiment.config.trainer.overfit_one_batch:
            continue
        found = np.sort(np.concatenate(rows))
        if not np.array_equal(found, np.sort(signals)):
            extra = np.setdiff1d(found, signals)
            which = f", among them {data.panel.dates[extra[0]]}" if len(extra) else ""
            yield f"loader: {part} windows are not those of the split's {part} days{which}"


def _ensemble_faults(experiment: Experiment) -> Iterator[str]:
    """Check that an ensemble of two runs is their mean, independent of the outcomes."""
    empty, random = _empty(experiment, experiment.data.split.test), np.random.default_rng(0)
    runs = [
        replace(empty, prediction=random.normal(0, 0.01, empty.prediction.shape)) for _ in range(2)
    ]
    members = [ensemble.Member(Path(str(i)), {}, run) for i, run in enumerate(runs)]
    try:
        together = ensemble.averaged(members, experiment.data)
    except ValueError:
        yield "ensemble: the labels that predictions are scored on are not the targets"
        return
    if not np.allclose(together.prediction, (runs[0].prediction + runs[1].prediction) / 2):
        yield "ensemble: the average of two runs is not their mean: weighted by the outcomes?"


def _note_baselines(seen: Observation, experiment: Experiment) -> None:
    data, rows = experiment.data, experiment.data.split.test
    empty = _empty(experiment, rows)
    for name, baseline in baselines.all_baselines(
        empty, baseline_inputs(data), with_lightgbm=False
    ).items():
        seen.dated[f"baseline {name}"] = rows, baseline.prediction[:, 0]


def _empty(experiment: Experiment, rows: np.ndarray) -> Predictions:
    """Forecasts of zero on those signal days, with realised targets."""
    shape = experiment.data.targets.valid[rows].shape
    return experiment.evaluator.predictions(rows, np.zeros(shape), np.full(shape, 0.5))


def _train(
    seen: Observation,
    experiment: Experiment,
    folder: Path,
    overrides: Sequence[str],
    again: bool,
) -> None:
    """Train two epochs on a few batches like a run; then evaluate elsewhere, if requested."""
    config, split = experiment.config.copy(), experiment.data.split
    few = FEW_BATCHES * config.trainer.batch_size
    config.trainer.max_epoch, config.report = 2, False
    short = Split(split.train[-few:], split.validation[:few], split.test[:few])
    data = replace(experiment.data, split=short)
    with RunDir.claim(folder) as run:
        small = Experiment(config, data)
        small.train(run, list(overrides))
    for name, tensor in small.model.state_dict().items():
        seen.trained[f"weight {name}"] = tensor.cpu().float().numpy()
    metrics = pd.read_csv(run.metrics_file)
    for name in metrics.columns[~metrics.columns.str.endswith(TIMES)]:
        seen.trained[f"metric {name}"] = metrics[name].to_numpy(float)
    if again and (experiment.data.states or experiment.data.targets.scale != 1.0):
        seen.faults += _reevaluation_faults(run, config)


def _reevaluation_faults(run: RunDir, config: DictConfig) -> Iterator[str]:
    """Check that an evaluation on another split uses the run's own fitted state."""
    settings = config.split
    if "fold" in settings:
        moved = f"split.first_train={settings.first_train + 5}"
    elif "train" in settings:
        moved = f"split.train={0.9 * settings.train:.4f}"
    else:
        return
    elsewhere = RunDir(reevaluation.reevaluate(run.path, [moved]))
    then, now = (each.read_manifest("processors", "target_scale") for each in (run, elsewhere))
    for key in ("processors", "target_scale"):
        if then[key] != now[key]:
            yield f"evaluation elsewhere: {key} are fitted again on other days ({moved})"


@contextmanager
def _noting_files(opened: set[str]) -> Iterator[None]:
    """Within this context, adds every file that is opened for reading to `opened`."""
    noting = _opened_files()
    noting[id(opened)] = opened
    try:
        yield
    finally:
        del noting[id(opened)]


@cache
def _opened_files() -> dict[int, set[str]]:
    """The sets that files opened for reading are added to, by id.

    One hook for the process: Python cannot remove one, and calls each at every event.
    """
    noting: dict[int, set[str]] = {}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if noting and event == "open" and isinstance(arguments[0], str):
            mode = arguments[1]
            if mode is None or "r" in str(mode):
                for opened in list(noting.values()):
                    opened.add(arguments[0])

    sys.addaudithook(hook)
    return noting


def _undeclared(
    opened: set[str], config: DictConfig, data: Dataset, experiment: Experiment
) -> list[str]:
    """Undeclared files that the preparation read: look-ahead in them cannot be checked."""
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    inputs = [settings["dataset"]["source"], settings["graph"], settings["backtest"]["index_file"]]
    declared = {Path(text).absolute() for text in _texts(inputs)}
    names = (*data.panel.sources, *experiment.embedding.sources)
    system = {
        *(Path(each) for each in ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", os.devnull)),
        *(Path(each) for each in (sys.prefix, sys.base_prefix, sys.exec_prefix)),
        *(Path(each) for each in sys.path if Path(each).name in PACKAGES),
    }
    found = []
    for text in sorted(opened):
        path = Path(text).absolute()
        known = path.suffix in CODE or path in declared or str(path).endswith(names)
        if not (known or any(path.is_relative_to(each) for each in system)) and path.is_file():
            found.append(
                f"{path}: read while the data were prepared, but not a declared input: look-ahead "
                "in it cannot be checked"
            )
    return found


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, Sequence):
        for value in node:
            yield from _texts(value)
