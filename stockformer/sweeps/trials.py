"""The runs of a folder: what was set, what came of it, what the selected run is worth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stockformer.config.plain_yaml import parse_yaml
from stockformer.evaluation.backtest import excess_returns
from stockformer.evaluation.metrics import MONITORS
from stockformer.evaluation.record import EvaluationRecord
from stockformer.evaluation.statistics import (
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    sharpe_ratio,
)
from stockformer.runs.recorded_run import RecordedRun, folders_under, read_run

UNSET = "default"
SAME_TARGET = ("horizon", "offset", "excess", "median_class")


@dataclass(frozen=True)
class Group:
    """Completed runs that were tested on the same data and dates; only they can be compared.

    rank_ic: test dates by runs. Runs are named as in `Trials`, the best first. horizon: the days a
    target spans.
    """

    label: str
    horizon: int
    runs: list[str]
    rank_ic: pd.DataFrame


@dataclass(frozen=True)
class Trials:
    """All runs under a folder, named by their path in it.

    completed: sorted by the validation metric `monitor`, the best first. The frames have a row a
    completed run, in that order: settings that differ, as text; validation: the metrics of the
    tested epoch; test: those of `RecordedRun.evaluation`. unfinished: the other runs. refused: why
    a folder cannot be read.
    """

    folder: Path
    monitor: str
    completed: dict[str, RecordedRun]
    settings: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    groups: list[Group]
    unfinished: dict[str, RecordedRun]
    refused: dict[str, str]

    @property
    def score(self) -> pd.Series:
        """The validation metric that the runs are sorted by."""
        return self.validation[self.monitor]


NOT_TRAINING = ("paths.", "report", "resume", "hydra")
"""Overrides of these keys do not change how a model is trained."""


@dataclass(frozen=True)
class SelectionBias:
    """What selecting the best of `trials` is worth, by the daily Sharpe ratio, not annualised, of
    its validation forecasts traded after costs, less the universe.

    expected_maximum: what the best of so many trials without skill would show; deflated: the
    probability that the selected one's is more than that.
    """

    trials: int
    selected: str
    sharpe: float
    expected_maximum: float
    deflated: float


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
    if not runs:  # it may hold anything: no page is written there
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:3])
        raise ValueError(
            f"{folder}: holds no run that can be read ({reasons}); name another with run=FOLDER"
        )
    completed = {name: run for name, run in runs.items() if is_complete(run)}
    configs = {name: settings_of(run) for name, run in completed.items()}
    monitor = monitored(configs)
    validation = pd.DataFrame.from_dict(
        {name: tested_epoch(run) for name, run in completed.items()}, orient="index"
    )
    if monitor not in validation:  # nothing but ensembles
        validation[monitor] = math.nan
    if completed:
        order = validation[monitor].sort_values(
            ascending=not MONITORS[monitor].higher_is_better, kind="stable", na_position="last"
        )
        completed = {str(name): completed[str(name)] for name in order.index}
    return Trials(
        folder=folder,
        monitor=monitor,
        completed=completed,
        settings=differing(configs, completed),
        validation=validation.reindex(list(completed)),
        test=pd.DataFrame.from_dict(
            {name: test_figures(run) for name, run in completed.items()}, orient="index"
        ),
        groups=list(grouped(completed, configs)),
        unfinished={name: run for name, run in runs.items() if name not in completed},
        refused=refused,
    )


def is_complete(run: RecordedRun) -> bool:
    """Finished and tested, with the tested epoch's validation metrics unless it is an ensemble."""
    if run.status.state != "finished" or run.evaluation is None:
        return False
    if run.evaluation.epoch is None:
        return True
    return run.metrics is not None and run.evaluation.epoch in run.metrics.index


def settings_of(run: RecordedRun) -> dict[str, str]:
    """Every value of the configuration by dotted key, and the groups that overrides chose."""
    try:
        config = parse_yaml(run.config or "", "config")
    except ValueError:  # the page still shows it, word for word
        config = None
    values = dict(_leaves(config)) if isinstance(config, dict) else {}
    chosen = (override.lstrip("+~").partition("=") for override in run.overrides or ())
    return values | {key: value for key, _, value in chosen}


def monitored(configs: Mapping[str, Mapping[str, str]]) -> str:
    """The validation metric that most runs were selected by."""
    named = Counter(values.get("trainer.monitor", "") for values in configs.values())
    named = Counter({name: count for name, count in named.items() if name in MONITORS})
    return min(named, key=lambda name: (-named[name], name)) if named else "mae"


def tested_epoch(run: RecordedRun) -> dict[str, float]:
    """The validation metrics of the epoch that was tested; an ensemble has none."""
    epoch = _evaluation(run).epoch
    if run.metrics is None or epoch is None:
        return {}
    row, part = run.metrics.loc[epoch].astype(float).to_dict(), "validation_"
    names = [str(name) for name in row if str(name).startswith(part)]
    return {name.removeprefix(part): row[name] for name in names}


def objective_values(folder: Path, objectives: Sequence[str]) -> dict[str, float]:
    """Of a finished run, on the validation days; NaN if undefined. Raises ValueError if damaged.

    objectives: names of `metrics.OBJECTIVES`.
    """
    run = read_run(folder, large_files=False)
    if not is_complete(run):
        raise ValueError(f"{folder}: finished without a test")
    values = tested_epoch(run)
    returns = _evaluation(run).validation
    if returns is not None and "turnover" in returns:
        values["turnover"] = float(returns["turnover"].mean())
    return {name: values.get(name, math.nan) for name in objectives}


def test_figures(run: RecordedRun) -> dict[str, float]:
    """The model's metrics, the t of its rank IC, and its backtest's figures where it has one."""
    record = _evaluation(run)
    t = float(record.table["rank_ic_t"].iloc[0]) if "rank_ic_t" in record.table else math.nan
    base = {} if record.backtest is None else record.backtest.figures.loc["base"].to_dict()
    return dict(record.scores) | {"rank_ic_t": t} | {str(name): base[name] for name in base}


def differing(
    configs: Mapping[str, Mapping[str, str]], names: Mapping[str, RecordedRun]
) -> pd.DataFrame:
    """The overridden settings that are not the same in every run; rows as in `names`."""
    requested = (
        override.lstrip("+~").partition("=")[0]
        for run in names.values()
        for override in run.overrides or ()
    )
    overridden = sorted({key for key in requested if not key.startswith(NOT_TRAINING)})
    columns = {key: [configs[name].get(key, UNSET) for name in names] for key in overridden}
    varied = {key: column for key, column in columns.items() if len(set(column)) > 1}
    return pd.DataFrame(varied, index=list(names))


def grouped(
    completed: Mapping[str, RecordedRun], configs: Mapping[str, Mapping[str, str]]
) -> Iterator[Group]:
    """The completed runs by what they were tested on, the largest group first."""
    by_key: dict[tuple[str, ...], list[str]] = {}
    for name, run in completed.items():
        by_key.setdefault(_tested_on(run, configs[name]), []).append(name)
    labels: Counter[str] = Counter()
    for key, names in sorted(by_key.items(), key=lambda item: -len(item[1])):
        label = f"{key[0]}, {key[1]} to {key[2]}" if key[0] else "of unknown origin"
        labels[label] += 1
        yield Group(
            label=label if labels[label] == 1 else f"{label} ({labels[label]})",
            horizon=_horizon(configs[names[0]]),
            runs=names,
            rank_ic=pd.DataFrame({n: _evaluation(completed[n]).daily["rank_ic"] for n in names}),
        )


def selection_bias(trials: Trials, group: Group) -> SelectionBias | None:
    """Of the group's best trial by validation; None where none has validation returns that vary.

    Every completed trial of the family counts, whatever it was tested on: a setting edited between
    two sweeps does not make fewer of them.
    """
    count = sum(_evaluation(run).epoch is not None for run in trials.completed.values())
    excess = {name: validation_excess(run) for name, run in trials.completed.items()}
    sharpes = pd.Series({n: sharpe_ratio(e) for n, e in excess.items() if e is not None}).dropna()
    known = [name for name in tried(trials, group).index if name in sharpes]
    if not known:
        return None
    selected, all_sharpes = str(known[0]), sharpes.to_numpy(float)
    returns = excess[selected]
    assert returns is not None
    return SelectionBias(
        trials=count,
        selected=selected,
        sharpe=float(sharpes[selected]),
        expected_maximum=expected_maximum_sharpe(all_sharpes, count),
        deflated=deflated_sharpe_ratio(returns, all_sharpes, count),
    )


def validation_excess(run: RecordedRun) -> pd.Series | None:
    """By date, the traded validation forecasts' return after costs less the universe's."""
    returns = _evaluation(run).validation
    return None if returns is None else excess_returns(returns)


def tried(trials: Trials, group: Group) -> pd.Series:
    """The validation metric of the group's trials; an ensemble of trials is none."""
    names = [name for name in group.runs if _evaluation(trials.completed[name]).epoch is not None]
    return trials.score.loc[names]


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "null" if value is None else str(value)


def _tested_on(run: RecordedRun, settings: Mapping[str, str]) -> tuple[str, ...]:
    """Data set, first and last test date, hash of the data, and what the target is."""
    if run.manifest is None or "test" not in run.manifest.split.index:
        return ("", "", "")
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
