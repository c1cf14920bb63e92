"""Observes the results of a run, in a separate process, for one variant of the future.

Each observation is made by a new process that has read no other variant of the data, so that no
cached value of later days can hide a leak. The same code on the same data gives the same bits, so a
result that differs between two variants depends on the days that differ.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from stockformer.audit import processes, variants
from stockformer.audit.files import source_faults
from stockformer.audit.results import Dated, Results
from stockformer.audit.trading import trading_faults
from stockformer.config.build import build, input_paths
from stockformer.config.recorded import read_config
from stockformer.data.dataset import Dataset
from stockformer.data.panel import Panel
from stockformer.data.reading.cache import prepare, scratch_arrays
from stockformer.data.splits import Split
from stockformer.data.windows import Windows
from stockformer.evaluation import baselines
from stockformer.evaluation.averaging import equal_shares, mean_forecast
from stockformer.evaluation.inputs import baseline_inputs
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.screening import screen
from stockformer.experiment import Experiment, prepare_dataset
from stockformer.runs import ensemble, reevaluation
from stockformer.runs.folder import RunDir
from stockformer.training.loader import EVALUATED_AT_ONCE

TIMES = ("seconds", "per_second", "mib")  # columns of metrics.csv that differ between any runs
ONE_DATE = 1e-4  # relative to the spread: a batch of one uses other kernels
FEW_BATCHES = 2  # of each part of the small training
CODE = (".py", ".pyc", ".so", ".yaml", ".pth", ".toml", ".json")
Values = Callable[[str, np.ndarray], np.ndarray]
PACKAGES = ("site-packages", "dist-packages")  # names of the folders that pip installs into


@dataclass(frozen=True)
class Request:
    """What to observe. variant: of `variants`, after row `cut`; rows: those whose predictions are
    noted; split: of the complete data, None to make it; train: also run a small training;
    baselines: also the baselines; scratch: a folder for arrays of the size of the factors, which
    are then not in memory but mapped."""

    config: str
    variant: str
    cut: int
    rows: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    split: Split | None = None
    train: bool = False
    baselines: bool = False
    scratch: str = ""


@dataclass
class Observation:
    """dated: results by date, of which `values(name, rows)` gives the values. static: arrays that
    no later day may change. trained: results of a small training. faults: sentences on errors that
    need no comparison; undeclared: on files that reading the data opened, which with a folder to
    keep the panel in only one process does. constant: factors that never move; screened: those
    prepared outside; both of the complete data only."""

    dates: np.ndarray
    tickers: np.ndarray
    dated: dict[str, Dated] = field(default_factory=dict)
    static: dict[str, np.ndarray] = field(default_factory=dict)
    trained: dict[str, np.ndarray] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    undeclared: list[str] = field(default_factory=list)
    factor_names: tuple[str, ...] = ()
    prepared: bool = False
    constant: list[str] = field(default_factory=list)
    screened: pd.DataFrame | None = None
    values: Values | None = None


def start_server(start_method: str) -> None:
    """Start the server that processes are forked from: it imports for seconds, meanwhile go on."""
    processes.start_server(start_method, __name__)


@contextmanager
def observe(request: Request, start_method: str) -> Iterator[Observation]:
    """The observation by a new process. Raises ValueError if the run itself would.

    The process ends with this context; until then it knows the values of its results.
    """
    with processes.called(start_method, _observed, request) as (seen, values):
        assert isinstance(seen, Observation)
        seen.values = values
        yield seen


def source_observation(config: str, row: int, start_method: str) -> list[str]:
    """Sentences on faults in reading the source's files, found in a new process."""
    with processes.called(start_method, _source_faults, config, row) as (found, _):
        return list(found)


def _source_faults(config: str, row: int) -> tuple[list[str], Values]:
    return list(source_faults(read_config(config), row)), Results().values


def _observed(request: Request) -> tuple[Observation, Values]:
    config = read_config(request.config)
    opened: set[str] = set()
    results, whole = Results(), request.variant == variants.WHOLE
    new_array = scratch_arrays(Path(request.scratch)) if request.scratch else np.empty
    # What is not made again from the whole panel, such as the baselines, needs no factors.
    keep = request.train or request.baselines or not config.dataset.factors
    source = _source(config, request.scratch, opened)
    with _noting_files(opened):
        panel = variants.after(source, request.cut, request.variant, new_array)
        data = prepare_dataset(
            config, panel, request.split, new_array=new_array, keep_unprocessed=keep
        )
        experiment = Experiment(config, data)
        seen = Observation(
            dates=source.dates,
            tickers=source.tickers,
            dated=results.dated,
            factor_names=data.panel.factor_names,
            prepared=data.prepared_factors,
        )
        _note_inputs(seen, results, data, experiment)
        if request.variant != variants.DROPPED:  # shorter batches would round differently
            _note_predictions(results, experiment, request.rows)
    seen.undeclared = _undeclared(opened, config, data, experiment, request.scratch)
    if whole:
        _note_of_whole(seen, data, experiment, first=min(request.rows))
    if whole or request.baselines:
        try:
            _note_baselines(results, experiment, compared=request.baselines)
        except ValueError as error:
            seen.faults.append(str(error))
    if request.train:
        with tempfile.TemporaryDirectory() as folder:
            _train(seen, experiment, Path(folder) / "run", request.overrides, again=whole)
    return seen, results.values


def _source(config: DictConfig, scratch: str, opened: set[str]) -> Panel:
    """The panel that every variant is made of, read once where there is a folder to keep it in."""

    def load() -> Panel:
        with _noting_files(opened):
            panel: Panel = build(config.dataset.source)
        return panel

    return prepare(load, settings={}, inputs=[], cache=Path(scratch)) if scratch else load()


def _note_of_whole(seen: Observation, data: Dataset, experiment: Experiment, first: int) -> None:
    """What is found on the complete data alone. first: the first row to cut after."""
    seen.faults += [*_split_faults(experiment), *_loader_faults(experiment)]
    seen.faults += trading_faults(experiment)
    seen.faults += _ensemble_faults(experiment)
    seen.faults += _batch_faults(experiment)
    seen.constant = _constant(data.panel, first - 1)
    if data.prepared_factors:
        given = data.unprocessed
        seen.screened = screen(given.factors, given.factor_names, given.returns, given.member)


def _constant(panel: Panel, first: int) -> list[str]:
    """The factors that do not move from that row on."""
    lowest, highest = (panel.factors[first].min(axis=0), panel.factors[first].max(axis=0))
    for day in panel.factors[first + 1 :]:
        lowest, highest = np.minimum(lowest, day.min(axis=0)), np.maximum(highest, day.max(axis=0))
    return [name for name, still in zip(panel.factor_names, lowest == highest) if still]


def _note_inputs(
    seen: Observation, results: Results, data: Dataset, experiment: Experiment
) -> None:
    """Factors, windows, calendar, targets, and everything fitted."""
    rows = np.arange(len(data.panel.dates))
    names = tuple(f"factor {name}" for name in data.panel.factor_names)
    results.note("factors", rows, data.panel.factors, names)
    results.note("calendar", rows, data.windows.calendar[: len(rows)].numpy())
    lookback = experiment.config.dataset.lookback
    days = rows[lookback - 1 : len(rows) - data.targets.span]
    windows = data.windows.without_factors().part(days)
    for name in ("returns", "trend", "known"):

        def of_windows(positions: np.ndarray, name: str = name) -> np.ndarray:
            values: np.ndarray = getattr(windows[positions.tolist()], name).numpy()
            return values

        results.note(f"window's {name}", days, of_windows)
    targets = data.targets
    for step, (start, end) in enumerate(zip(targets.start, targets.end)):
        # Whether a stock can be bought is known at the target's start, the return at its end.
        valid = targets.valid[:, step]
        results.note(f"validity of the target, step {step + 1}", rows + int(start), valid)
        for name in ("returns", "up"):
            values = np.where(valid, getattr(targets, name)[:, step], 0)
            results.note(f"target's {name}, step {step + 1}", rows + int(end), values)
    known = np.where(targets.valid[:, 0], targets.returns[:, 0], 0.0)
    results.note("target known already", rows, known)
    label = np.nan_to_num(_empty(experiment, days).label[:, 0])
    results.note("scored label known already", days, label)
    for name, state in data.states.items():
        for key, values in state.items():
            seen.static[f"state of processor {name} ({key})"] = np.asarray(values)
    seen.static["scale of the target"] = np.array([targets.scale])
    seen.static["graph embedding"] = experiment.embedding.values


@torch.inference_mode()
def _note_predictions(results: Results, experiment: Experiment, cuts: Sequence[int]) -> None:
    """Predictions of the untrained model, for the evaluator's own batch around each of the rows."""
    experiment.model.eval()
    for part in ("validation", "test"):
        rows, forecasts = [], []
        loader = experiment.loader(part, alone=True)
        windows = loader.dataset
        assert isinstance(windows, Windows)
        for positions in loader.sampler:  # the others are not even read
            inside = windows.signals[positions].cpu().numpy()
            if np.isin(inside, cuts).any():
                rows.append(inside)
                forecast = experiment.model(windows[positions].to(experiment.device))
                returns = forecast.returns.cpu().numpy()
                forecasts.append(experiment.evaluator.neutralise(inside, returns)[:, 0])
        if rows:
            results.note(f"prediction ({part})", np.concatenate(rows), np.concatenate(forecasts))


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
    experiment = copy.copy(experiment)
    data = replace(experiment.data, windows=experiment.data.windows.without_factors())
    experiment.data = data
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
    """Check that an ensemble of two configurations is their mean, independent of the outcomes."""
    empty, random = _empty(experiment, experiment.data.split.test), np.random.default_rng(0)
    configurations = [(("seeds", "two"),), (("seeds", "two"),), (("seeds", "one"),)]
    shape = (len(configurations), *empty.prediction.shape)
    forecasts, probabilities = random.normal(0, 0.01, shape), random.random(shape)
    members = [
        ensemble.Member(Path(str(i)), {}, each, replace(empty, prediction=one, probability=up))
        for i, (each, one, up) in enumerate(zip(configurations, forecasts, probabilities))
    ]
    try:
        together = ensemble.averaged(members, experiment.data)
    except ValueError:
        yield "ensemble: the labels that predictions are scored on are not the targets"
        return
    probability = np.average(probabilities, axis=0, weights=equal_shares(configurations))
    if not (
        np.allclose(together.prediction, mean_forecast(forecasts, configurations))
        and np.allclose(together.probability, probability)
    ):
        yield "ensemble: the average of runs is not their mean: weighted by the outcomes?"


def _note_baselines(results: Results, experiment: Experiment, compared: bool) -> None:
    """The baselines on the test days; those without factors, only to see them fail, where they are
    not compared with another future's."""
    data, rows = experiment.data, experiment.data.split.test
    history = baseline_inputs(data)
    if not compared:
        history = replace(history, factors=history.factors[..., :0])
    forecasts = baselines.all_baselines(_empty(experiment, rows), history, with_lightgbm=False)
    if compared:
        for name, baseline in forecasts.items():
            results.note(f"baseline {name}", rows, baseline.prediction[:, 0])


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
    opened: set[str], config: DictConfig, data: Dataset, experiment: Experiment, scratch: str = ""
) -> list[str]:
    """Undeclared files that the preparation read: look-ahead in them cannot be checked."""
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    inputs = [settings["dataset"]["source"], settings["graph"], settings["backtest"]["index_file"]]
    files = input_paths(config.dataset.source, settings["dataset"]["source"])
    declared = {path.absolute() for path in (*map(Path, _texts(inputs)), *files)}
    names = (*data.panel.sources, *experiment.embedding.sources)
    system = {
        *(Path(each) for each in ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", os.devnull)),
        *(Path(each) for each in (sys.prefix, sys.base_prefix, sys.exec_prefix)),
        *([Path(scratch).absolute()] if scratch else []),
        # Packages of `pip install --user`, or of another environment that a .pth file names.
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
