"""Evaluates several runs as one: runs on the same test dates are averaged, others are joined.

The average is over forecast returns, and over probabilities of "up"; every configuration has the
same weight (`averaging`). The folds of a walk-forward split are joined by date. The baselines are
fitted for each fold on its own training days, then joined in the same way.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from stockformer.config.quoting import pasteable
from stockformer.config.recorded import recorded_nodes
from stockformer.config.rules import flat
from stockformer.data.dataset import Dataset
from stockformer.evaluation.averaging import equal_shares, mean_forecast
from stockformer.evaluation.baselines import all_baselines
from stockformer.evaluation.inputs import baseline_inputs
from stockformer.evaluation.neutralise import neutralise_notes
from stockformer.evaluation.predictions import Predictions, join
from stockformer.evaluation.quantities import format_count
from stockformer.experiment import evaluate, read_dataset, record_evaluation
from stockformer.runs.console import program
from stockformer.runs.description import git_commit, same_data
from stockformer.runs.folder import RunDir, runs_under
from stockformer.runs.logs import start_log
from stockformer.runs.recorded_run import read_run
from stockformer.runs.reopen import configuration
from stockformer.runs.settings import Settings, different_code, settings_of, training_settings

log = logging.getLogger(__name__)

NOT_FORECAST = ("dataset.source.path", "dataset.project_targets", "backtest.")
"""Keys, or how they begin, of what does not change the forecasts of runs on the same data."""
MOST_KEYS = 3  # of a group that are named one by one
BASELINE_SETTINGS = ("dataset.", "target.", "split.")
"""Groups of settings that the baselines of a fold depend on."""
BaselineCache = dict[Settings, dict[str, Predictions]]
"""The baselines of folds, by the settings that they depend on."""

KEPT = ("versions", "platform", "dataset", "data_hash", "files", "warnings")
"""Keys that the ensemble's manifest takes from the first run."""


@dataclass(frozen=True)
class Member:
    """A finished run with its test predictions, tickers in alphabetical order."""

    path: Path
    manifest: dict[str, Any]
    configuration: Settings
    predictions: Predictions


def ensemble(
    folders: Sequence[Path], into: Path | None = None, cache: BaselineCache | None = None
) -> Path:
    """Evaluate the runs in `folders` as one, into a new run folder, which is returned.

    cache: the baselines of other ensembles of the same sweep; takes those that are fitted here.
    Raises ValueError naming the runs that cannot be combined.
    """
    start_log()
    cache = {} if cache is None else cache
    folds = by_dates(members(folders))
    parts, baselines = [], []
    for fold in folds:
        config = configuration(RunDir(fold[0].path))
        data = read_dataset(config)
        part = averaged(fold, data)
        log.info("%s: %s", _span(part.signal_dates), ", ".join(str(run.path) for run in fold))
        parts.append(part)
        key = tuple((k, str(v)) for k, v in flat(config).items() if k.startswith(BASELINE_SETTINGS))
        if key not in cache:
            cache[key] = all_baselines(part, baseline_inputs(data))
        baselines.append(cache[key])
    whole, every = join(parts), [run for fold in folds for run in fold]
    each = "a run" if len(folds[0]) == 1 else f"the mean of {len(folds[0])} runs"
    how = f"ensemble: {each}" + (f" on each of {len(folds)} folds" if len(folds) > 1 else "")
    together = {name: join([each[name] for each in baselines]) for name in baselines[0]}
    configurations = [run.configuration for run in every]
    neutralised = how_neutralised(configurations)
    record = evaluate(config, data, whole, baselines=together, neutralised=neutralised)
    code = different_code(str(run.manifest.get("git_commit", "")) for run in every)
    notes = (how, *differences(configurations), *code)
    record = replace(record, notes=(*notes, *record.notes))
    with RunDir.claim(into or _new_folder()) as run:
        run.write_manifest(_manifest(folds, whole))
        record_evaluation(run, whole, record)
    return run.path


def members(folders: Sequence[Path]) -> list[Member]:
    """The runs in the folders, or the folders themselves; no ensembles, which a sweep's folder has.

    Raises ValueError for unfinished runs, and for an ensemble that is named itself.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
    # A run must not count twice, even if its folder is named in two ways.
    paths = {path.resolve(): path for folder in folders for path in runs_under(folder)}
    named = {folder.resolve() for folder in folders}
    found, unfit = [], []
    for path in sorted(paths.values()):
        run = read_run(path)
        if run.status.state != "finished" or run.predictions is None:
            unfit.append(f"{path} ({run.status.state}, no test predictions)")
            continue
        manifest = RunDir(path).read_manifest("kind", *KEPT, "tickers")
        if manifest["kind"] == "run":
            found.append(Member(path, manifest, forecast_settings(RunDir(path)), run.predictions))
        elif path.resolve() in named:
            unfit.append(f"{path} (an {manifest['kind']})")
    if unfit:
        raise ValueError(
            f"ensemble: not finished runs: {', '.join(unfit)}; name those to take, "
            "run=[FOLDER,FOLDER]"
        )
    if len(found) < 2:
        raise ValueError(
            f"run=[{','.join(map(str, folders))}]: {len(found)} runs found, two are needed to "
            "evaluate them as one"
        )
    first = found[0]
    for member in found[1:]:
        stocks = member.manifest["tickers"] == first.manifest["tickers"]
        if not stocks or not same_data(first.manifest, member.manifest):
            what = "other data" if stocks else "other stocks"
            raise ValueError(f"ensemble: {member.path} has read {what} than {first.path}")
    return found


def forecast_settings(run: RunDir) -> Settings:
    """The settings that make a run's forecasts on given data."""
    recorded = OmegaConf.to_container(recorded_nodes(run.read_config()[0]), resolve=False)
    assert isinstance(recorded, dict)
    settings = training_settings(dict(settings_of(recorded)))
    return tuple(each for each in settings if not each[0].startswith(NOT_FORECAST))


def differences(configurations: Sequence[Settings]) -> list[str]:
    """A note if the runs are not of one configuration: how many runs of which model there are, and
    the settings that differ, a group by its name where its class or many of its settings do."""
    settings = [dict(each) for each in dict.fromkeys(configurations)]
    if len(settings) == 1:
        return []
    keys = {key for each in settings for key in each}
    varied = sorted(key for key in keys if len({each.get(key) for each in settings}) > 1)
    groups = Counter(key.partition(".")[0] for key in varied)
    whole = {name for name in groups if groups[name] > MOST_KEYS or f"{name}._target_" in varied}
    names = [group if (group := key.partition(".")[0]) in whole else key for key in varied]
    runs = ", ".join(
        f"{each.get('model._target_', '').rpartition('.')[2]} {format_count(count, 'run')}"
        for each, count in zip(settings, Counter(configurations).values())
    )
    return [
        f"ensemble of {len(settings)} configurations with equal weights ({runs}); they differ in "
        f"{', '.join(dict.fromkeys(names))}"
    ]


def how_neutralised(configurations: Sequence[Settings]) -> list[str]:
    """What must be said of the mean of runs with these settings."""
    notes = []
    for each in map(dict, configurations):
        components, volatility, days = (
            each[f"neutralise.{name}"] for name in ("components", "volatility", "days")
        )
        notes.append(neutralise_notes(int(components), volatility == "True", int(days)))
    if all(note == notes[0] for note in notes):
        return notes[0]
    return [f"forecasts of {sum(map(bool, notes))} of {len(notes)} runs are neutralised"]


def by_dates(runs: Sequence[Member]) -> list[list[Member]]:
    """Runs grouped by their test dates, in the order of dates.

    Raises ValueError naming runs that share some of their dates, and folds with more
    or fewer runs than others.
    """
    folds: dict[bytes, list[Member]] = {}
    for run in runs:
        folds.setdefault(run.predictions.signal_dates.tobytes(), []).append(run)
    for one, other in combinations(folds.values(), 2):
        dates, others = (fold[0].predictions.signal_dates for fold in (one, other))
        shared = np.intersect1d(dates, others)
        if len(shared):
            raise ValueError(
                f"ensemble: {one[0].path} ({_span(dates)}) and {other[0].path} ({_span(others)}) "
                f"share {len(shared)} of their test dates; runs are averaged on the same dates, or "
                "joined if they share none"
            )
    ordered = sorted(folds.values(), key=lambda fold: fold[0].predictions.signal_dates[0])
    if len({len(fold) for fold in ordered}) > 1:
        counts = (
            f"{len(fold)} on {_span(fold[0].predictions.signal_dates)} "
            f"({', '.join(str(run.path) for run in fold)})"
            for fold in ordered
        )
        raise ValueError(f"ensemble: not as many runs on all dates: {'; '.join(counts)}")
    return ordered


def averaged(fold: Sequence[Member], data: Dataset) -> Predictions:
    """The mean forecast and probability of runs on the same dates, in the panel's order of stocks.

    Raises ValueError if a run's targets are not those of `data`.
    """
    tickers, first = data.panel.tickers, fold[0].predictions
    order = pd.Index(first.tickers).get_indexer(pd.Index(tickers))
    rows = np.searchsorted(data.panel.dates, first.signal_dates)
    valid = data.targets.valid[rows]
    label = np.where(valid, data.targets.returns[rows], np.nan)
    for run in fold:
        theirs = run.predictions.label[..., order]
        if theirs.shape != label.shape or not np.array_equal(theirs, label, equal_nan=True):
            raise ValueError(
                f"ensemble: the targets of {run.path} are not those of {fold[0].path}'s "
                "configuration: another target, or other data"
            )
    configurations = [run.configuration for run in fold]
    shares = equal_shares(configurations)
    prediction = mean_forecast(
        np.stack([run.predictions.prediction for run in fold]), configurations
    )
    probability = np.average([run.predictions.probability for run in fold], axis=0, weights=shares)
    return replace(
        first,
        tickers=tickers,
        prediction=prediction[..., order],
        probability=probability[..., order],
        label=label,
        up=data.targets.up[rows],
        valid=valid,
    )


def _manifest(folds: Sequence[Sequence[Member]], whole: Predictions) -> dict[str, Any]:
    """The first run's manifest with the ensemble's own entries."""
    paths = [run.path.resolve() for fold in folds for run in fold]
    runs = [str(path) for path in paths]
    first = folds[0][0].manifest
    test = {
        "samples": len(whole.signal_dates),
        "first_signal_date": str(whole.signal_dates[0]),
        "last_signal_date": str(whole.signal_dates[-1]),
        "last_target_date": str(whole.target_end.max()),
    }
    return {key: first[key] for key in (*KEPT, "tickers", "factor_names")} | {
        "kind": "ensemble",
        "ensemble_of": runs,
        "runs": len(runs),
        "git_commit": git_commit(),
        "split": {"test": test},
        "command": f"{program('evaluate')} {pasteable('run', *paths)}",
    }


def _span(dates: np.ndarray) -> str:
    return f"{dates[0]} to {dates[-1]}"


def _new_folder() -> Path:
    return Path("outputs") / time.strftime("%Y-%m-%d") / time.strftime("%H-%M-%S-ensemble")
