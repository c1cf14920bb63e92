"""The runs of a folder side by side: what was set, and what came of it.

What is compared are configurations. Runs that differ in seed or fold only are one of them: a seed
or a fold cannot be better than another, only luckier.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stockformer.config.plain_yaml import parse_yaml
from stockformer.evaluation.backtest import BASIS_POINT
from stockformer.evaluation.metrics import MONITORS, OBJECTIVES
from stockformer.evaluation.quantities import MISSING, Quantity, format_count
from stockformer.evaluation.record import EvaluationRecord
from stockformer.runs.folder import REPEATED
from stockformer.runs.recorded_run import RecordedRun, folders_under, read_run
from stockformer.runs.settings import NOT_TRAINING, Settings, settings_of, training_settings
from stockformer.sweeps.folder import SweepDir, short_number

UNSET = "default"
SAME_TARGET = ("horizon", "offset", "excess", "median_class")
MAX_NAMED = 3
"""Runs that a configuration's name lists."""


@dataclass(frozen=True)
class Configuration:
    """Completed runs that differ in seed and fold only, or one ensemble.

    runs: their names, in order. seeds, folds: how many there are of each. missing: runs of it that
    the sweep started and that were not completed.
    """

    name: str
    runs: tuple[str, ...]
    seeds: int
    folds: int
    is_ensemble: bool
    missing: int = 0

    @property
    def trials(self) -> int:
        """How often it was tried: each run counts, but folds together are one."""
        return -(-len(self.runs) // self.folds)

    @property
    def repeats(self) -> str:
        """What its metrics are means of."""
        if self.is_ensemble:
            return "an ensemble"
        if self.missing:
            return f"{len(self.runs)} of {len(self.runs) + self.missing} runs"
        counts = [format_count(self.seeds, "seed")] * (self.seeds > 1)
        counts += [format_count(self.folds, "fold")] * (self.folds > 1)
        return " x ".join(counts) or format_count(len(self.runs), "run")


@dataclass(frozen=True)
class Group:
    """Configurations that were tested on the same data and dates; only they can be compared.

    configurations: names as in `Trials`, the best first. rank_ic: test dates by configurations, the
    mean over seeds. horizon: the days a target spans.
    """

    label: str
    horizon: int
    configurations: list[str]
    rank_ic: pd.DataFrame


@dataclass(frozen=True)
class Trials:
    """All runs under a folder, named by their path in it.

    in_sweep: whether it is a sweep's own folder. objectives: names of `metrics.OBJECTIVES`: what
    the sweep compares, or the metric that most epochs were selected by. completed: runs by name;
    seeds: of each, as text. configurations: by name, sorted by the first objective, the best first.
    The frames have a row a configuration in that order: settings that differ, as text of at most
    four digits; validation: the metrics of the tested epochs, means over folds and seeds;
    validation_sd: their sample deviation over seeds, NaN for one; test, test_sd: those of
    `RecordedRun.evaluation`. unfinished: the other runs. refused: why a folder cannot be read.
    """

    folder: Path
    in_sweep: bool
    objectives: tuple[str, ...]
    completed: dict[str, RecordedRun]
    seeds: dict[str, str]
    configurations: dict[str, Configuration]
    settings: pd.DataFrame
    validation: pd.DataFrame
    validation_sd: pd.DataFrame
    test: pd.DataFrame
    test_sd: pd.DataFrame
    groups: list[Group]
    unfinished: dict[str, RecordedRun]
    refused: dict[str, str]

    @property
    def objective(self) -> str:
        return self.objectives[0]

    @property
    def score(self) -> pd.Series:
        """The validation metric that the configurations are sorted by."""
        return self.validation[self.objective]

    def compared(self, group: Group) -> list[Configuration]:
        """The best first, without ensembles and those that lack runs: a mean over lucky ones."""
        found = [self.configurations[name] for name in group.configurations]
        return [each for each in found if not (each.is_ensemble or each.missing)]

    def best(self, group: Group) -> Configuration | None:
        """By the first objective on the validation days; None where none can be compared."""
        known = (each for each in self.compared(group) if pd.notna(self.score[each.name]))
        return next(known, None)


def read_trials(folder: Path) -> Trials:
    """Every run under the folder; what cannot be read is named and passed over.

    Raises ValueError where there is no run at all.
    """
    runs: dict[str, RecordedRun] = {}
    refused: dict[str, str] = {}
    for path in folders_under(folder):
        name = path.relative_to(folder).as_posix()
        try:
            runs[name] = read_run(path, large_files=False)
        except ValueError as error:
            reason = str(error).split("; name another")[0]
            refused[name] = reason.removeprefix(f"{path}: ").removeprefix(f"{path}/")
    if not runs and not refused:
        read_run(folder)  # raises what is wrong with it
    if not runs:  # it may be anybody's: no page is written there
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:3])
        raise ValueError(
            f"{folder}: holds no run that can be read ({reasons}); name another with run=FOLDER"
        )
    completed = {name: run for name, run in runs.items() if is_complete(run)}
    recorded = {name: recorded_settings(run) for name, run in runs.items()}
    configs = {name: chosen_settings(run) | recorded[name] for name, run in runs.items()}
    of_sweep = objectives_of(folder)
    objectives = of_sweep or (monitored(configs),)
    started = Counter(
        training_settings(recorded[name])
        for name, run in runs.items()
        if of_sweep and run.status.state != "pruned"
    )
    found = configurations(completed, recorded, started)
    validation = {name: validation_figures(run) for name, run in completed.items()}
    seeds = {name: settings.get("seed", "") for name, settings in configs.items()}
    mean, deviation = over_repeats(validation, found, seeds)
    for name in objectives:
        if name not in mean:  # nothing but ensembles
            mean[name] = deviation[name] = math.nan
    order = mean[objectives[0]].sort_values(
        ascending=not OBJECTIVES[objectives[0]].higher_is_better, kind="stable", na_position="last"
    )
    found = {str(name): found[str(name)] for name in order.index}
    test = {name: test_figures(run) for name, run in completed.items()}
    test_mean, test_deviation = over_repeats(test, found, seeds)
    several = [name for name, each in found.items() if len(each.runs) > 1]
    if several:
        test_mean.loc[several, "rank_ic_t"] = math.nan  # a mean of t is none
    return Trials(
        folder=folder,
        in_sweep=bool(of_sweep),
        objectives=objectives,
        completed=completed,
        seeds=seeds,
        configurations=found,
        settings=differing(configs, runs, found),
        validation=mean.loc[order.index],
        validation_sd=deviation.loc[order.index],
        test=test_mean,
        test_sd=test_deviation,
        groups=list(grouped(completed, configs, found)),
        unfinished={name: run for name, run in runs.items() if name not in completed},
        refused=refused,
    )


def objectives_of(folder: Path) -> tuple[str, ...]:
    """What the sweep in the folder compares; empty if it is none."""
    if not SweepDir(folder).record_file.exists():
        return ()
    return tuple(name for name in SweepDir(folder).read().objectives if name in OBJECTIVES)


def configurations(
    completed: Mapping[str, RecordedRun],
    recorded: Mapping[str, Mapping[str, str]],
    started: Mapping[Settings, int],
) -> dict[str, Configuration]:
    """The completed runs by what they were trained with. A run whose settings are not known, as
    those of an ensemble, is one of its own.

    started: how many runs the sweep has of settings, completed or not.
    """
    by_settings: dict[tuple[Any, ...], list[str]] = {}
    for name, run in completed.items():
        key: tuple[Any, ...] = (name,)
        if recorded[name] and not is_ensemble(run):
            dataset, first, last, *rest = _tested_on(run, recorded[name])
            dates = () if "split.fold" in recorded[name] else (first, last)
            key = (dataset, *rest, *dates, *training_settings(recorded[name]))
        by_settings.setdefault(key, []).append(name)
    found = {}
    for names in by_settings.values():
        seeds, folds = ({recorded[name].get(key, "") for name in names} for key in REPEATED)
        shown = ", ".join(names)
        if len(names) > MAX_NAMED:
            shown = f"{names[0]} … {names[-1]} ({len(names)})"
        found[shown] = Configuration(
            name=shown,
            runs=tuple(names),
            seeds=len(seeds),
            folds=len(folds),
            is_ensemble=is_ensemble(completed[names[0]]),
            missing=max(0, started.get(training_settings(recorded[names[0]]), 0) - len(names)),
        )
    return found


def over_repeats(
    figures: Mapping[str, Mapping[str, float]],
    found: Mapping[str, Configuration],
    seeds: Mapping[str, str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The mean of each configuration's figures over folds and seeds, and their sample deviation
    over seeds, each seed's mean over its folds; NaN where one of the values is."""
    means, deviations = {}, {}
    for name, configuration in found.items():
        rows = pd.DataFrame([figures[run] for run in configuration.runs], dtype=float)
        of_runs = np.array([seeds[run] for run in configuration.runs])
        by_seed = pd.DataFrame(
            [rows[of_runs == seed].mean(skipna=False) for seed in dict.fromkeys(of_runs)]
        )
        means[name] = by_seed.mean(skipna=False)
        deviations[name] = by_seed.std(skipna=False)
    return (
        pd.DataFrame.from_dict(means, orient="index"),
        pd.DataFrame.from_dict(deviations, orient="index"),
    )


def is_complete(run: RecordedRun) -> bool:
    """Finished and tested, with the tested epoch's validation metrics unless it is an ensemble."""
    if run.status.state != "finished" or run.evaluation is None:
        return False
    if is_ensemble(run):
        return True
    return run.metrics is not None and run.evaluation.epoch in run.metrics.index


def is_ensemble(run: RecordedRun) -> bool:
    """Whether it was evaluated without a training of its own."""
    return _evaluation(run).epoch is None


def recorded_settings(run: RecordedRun) -> dict[str, str]:
    """Every value of the configuration by dotted key, as text; empty if it cannot be read."""
    try:
        config = parse_yaml(run.config or "", "config")
    except ValueError:  # the page still shows it, word for word
        config = None
    return dict(settings_of(config)) if isinstance(config, dict) else {}


def chosen_settings(run: RecordedRun) -> dict[str, str]:
    """What the command line chose, config groups among them."""
    words = (word.lstrip("+~").partition("=") for word in run.overrides or ())
    return {key: value for key, _, value in words}


def monitored(configs: Mapping[str, Mapping[str, str]]) -> str:
    """The validation metric that most runs were selected by."""
    named = Counter(values.get("trainer.monitor", "") for values in configs.values())
    named = Counter({name: count for name, count in named.items() if name in MONITORS})
    return min(named, key=lambda name: (-named[name], name)) if named else "mae"


def validation_figures(run: RecordedRun) -> dict[str, float]:
    """The validation metrics of the epoch that was tested, and the turnover of their backtest; an
    ensemble has none."""
    record = _evaluation(run)
    if run.metrics is None or record.epoch is None:
        return {}
    row, part = run.metrics.loc[record.epoch].astype(float).to_dict(), "validation_"
    names = [str(name) for name in row if str(name).startswith(part)]
    values: dict[str, float] = {name.removeprefix(part): row[name] for name in names}
    if record.validation is not None and "turnover" in record.validation:
        values["turnover"] = float(record.validation["turnover"].mean())
    return values


def objective_values(folder: Path, objectives: Sequence[str]) -> dict[str, float]:
    """Of a finished run, on the validation days; NaN if undefined. Raises ValueError if damaged.

    objectives: names of `metrics.OBJECTIVES`.
    """
    run = read_run(folder, large_files=False)
    if not is_complete(run):
        raise ValueError(f"{folder}: finished without a test")
    values = validation_figures(run)
    return {name: values.get(name, math.nan) for name in objectives}


def test_figures(run: RecordedRun) -> dict[str, float]:
    """The model's metrics, the t of its rank IC, and its backtest's figures where it has one.

    net_excess: the mean daily return after costs less the universe's, in basis points;
    one_sided_turnover: half of what is bought and sold a day.
    """
    record = _evaluation(run)
    t = float(record.table["rank_ic_t"].iloc[0]) if "rank_ic_t" in record.table else math.nan
    figures = dict(record.scores) | {"rank_ic_t": t}
    if record.backtest is None:
        return figures
    row = record.backtest.figures.loc["base"]
    base: dict[str, float] = dict(zip(map(str, row.index), row.to_numpy()))
    of_money = {
        "net_excess": record.backtest.excess["base"].mean / BASIS_POINT,
        "one_sided_turnover": base["turnover"] / 2,
    }
    return figures | base | of_money


def differing(
    configs: Mapping[str, Mapping[str, str]],
    runs: Mapping[str, RecordedRun],
    found: Mapping[str, Configuration],
) -> pd.DataFrame:
    """The overridden settings that are not the same in every run, completed or not; a row a
    configuration."""
    requested = (
        override.lstrip("+~").partition("=")[0]
        for run in runs.values()
        for override in run.overrides or ()
    )
    overridden = sorted({key for key in requested if not key.startswith(NOT_TRAINING)})
    trained = [
        name
        for name, run in runs.items()
        if run.overrides and (run.evaluation is None or not is_ensemble(run))
    ]
    members = {name: members_of(runs[name], runs) for name, c in found.items() if c.is_ensemble}
    varied = {
        key: [
            shared({configs[run].get(key, UNSET) for run in members.get(name, each.runs[:1])})
            for name, each in found.items()
        ]
        for key in overridden
        if key not in REPEATED and len({configs[name].get(key, UNSET) for name in trained}) > 1
    }
    return pd.DataFrame(varied, index=list(found))


def members_of(ensemble: RecordedRun, runs: Mapping[str, RecordedRun]) -> list[str]:
    """The names of its runs, of these; empty where one of them is elsewhere."""
    folders = () if ensemble.manifest is None else ensemble.manifest.ensemble_of
    names = {run.path.resolve(): name for name, run in runs.items()}
    return [names[path] for path in folders] if names.keys() >= set(folders) else []


def shared(values: set[str]) -> str:
    """The value of a setting, if it is one."""
    return short_number(*values) if len(values) == 1 else MISSING


def grouped(
    completed: Mapping[str, RecordedRun],
    configs: Mapping[str, Mapping[str, str]],
    found: Mapping[str, Configuration],
) -> Iterator[Group]:
    """The configurations by what they were tested on, the largest group first.

    All folds together are one span of dates, as of the ensemble that joins them.
    """
    rank_ic = {
        name: by_date([_evaluation(completed[run]).daily["rank_ic"] for run in each.runs])
        for name, each in found.items()
    }
    by_key: dict[tuple[Any, ...], list[str]] = {}
    for name, each in found.items():
        parts = [_tested_on(completed[run], configs[run]) for run in each.runs]
        dataset, data_hash, *target = (parts[0][0], *parts[0][3:])
        first, last = min(part[1] for part in parts), max(part[2] for part in parts)
        key = (dataset, first, last, data_hash, len(rank_ic[name]), *target)
        if not any(target):  # an ensemble does not keep it
            key = next((known for known in by_key if known[:5] == key[:5]), key)
        by_key.setdefault(key, []).append(name)
    labels: Counter[str] = Counter()
    for key, names in sorted(by_key.items(), key=lambda item: -len(item[1])):
        label = f"{key[0]}, {key[1]} to {key[2]}" if key[0] else "of unknown origin"
        labels[label] += 1
        yield Group(
            label=label if labels[label] == 1 else f"{label} ({labels[label]})",
            horizon=_horizon(configs[found[names[0]].runs[0]]),
            configurations=names,
            rank_ic=pd.DataFrame({name: rank_ic[name] for name in names}),
        )


def by_date(series: Sequence[pd.Series]) -> pd.Series:
    """The mean of the series on each of their dates, NaN where one of them is."""
    return pd.concat(series).groupby(level=0).mean(skipna=False)


def with_deviation(quantity: Quantity, mean: float, deviation: float) -> str:
    """A mean over seeds, with their deviation if there are several."""
    shown = quantity.format(mean)
    if math.isnan(deviation):
        return shown
    return f"{shown} ± {replace(quantity, around_zero=False).format(deviation)}"


def pareto_front(values: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    """The rows that no other row equals or beats in every objective and beats in one.

    values: a column an objective; rows with NaN are on no front.
    """
    known = pd.DataFrame(values[list(objectives)].dropna())
    signs = [1.0 if OBJECTIVES[name].higher_is_better else -1.0 for name in objectives]
    points = known.to_numpy() * signs
    as_good = (points[:, None] >= points[None]).all(axis=2)
    better = (points[:, None] > points[None]).any(axis=2)
    beaten = (as_good & better).any(axis=0)
    return known.iloc[np.flatnonzero(~beaten)]


def _tested_on(run: RecordedRun, settings: Mapping[str, str]) -> tuple[str, ...]:
    """Data set, first and last test date, hash of the data, and what the target is."""
    if run.manifest is None or "test" not in run.manifest.split.index:
        return ("", "", "", "")
    test = run.manifest.split.loc["test"]
    target = (settings.get(f"target.{name}", "") for name in SAME_TARGET)
    facts = run.manifest.facts
    return (
        *(str(facts.get("dataset", "")), str(test["first_signal_date"])),
        *(str(test["last_signal_date"]), str(facts.get("data_hash", "")), *target),
    )


def _evaluation(run: RecordedRun) -> EvaluationRecord:
    assert run.evaluation is not None
    return run.evaluation


def _horizon(settings: Mapping[str, str]) -> int:
    steps, offset = (settings.get(f"target.{name}", "") for name in ("horizon", "offset"))
    return max(1, sum(int(days) for days in (steps, offset) if days.isdecimal()))
