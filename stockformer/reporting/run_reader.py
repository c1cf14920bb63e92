"""A run read back from what it left in its folder; nothing else is ever looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from stockformer.evaluation.metrics import Predictions, calibration, score
from stockformer.evaluation.summary import VERSION
from stockformer.reporting.quantities import COMPARED, METRICS
from stockformer.run import RunDir

Content = TypeVar("Content")

TREES = ("outputs", "multirun")
STATES = ("running", "finished", "failed")
PREDICTION_COLUMNS = (
    *("signal_date", "target_start", "target_end", "ticker", "step"),
    *("prediction", "probability", "label", "up", "valid"),
)
EVALUATION_KEYS = (
    *("version", "epoch", "model", "table", "verdict", "targets", "oracle_rank_ic", "notes"),
    *("first_step_rank_ic", "statistics", "daily", "backtest"),
)
MANIFEST_KEYS = (
    *("git_commit", "versions", "warnings", "split", "tickers", "factor_names", "files"),
)
SPLIT_COLUMNS = ("samples", "first_signal_date", "last_signal_date", "last_target_date")


@dataclass(frozen=True)
class Status:
    """How the run ended, or that it has not; `reason` is empty unless it failed."""

    state: str
    reason: str
    time: datetime
    process: int


@dataclass(frozen=True)
class Manifest:
    """Where the run comes from.

    split: a row a part, columns `SPLIT_COLUMNS`. files: hashes by name. facts: every single value
    beside what has a name here: the seed, the device, ...
    """

    git_commit: str
    versions: dict[str, str]
    warnings: tuple[str, ...]
    split: pd.DataFrame
    tickers: tuple[str, ...]
    factor_names: tuple[str, ...]
    files: dict[str, str]
    facts: dict[str, str | float]


@dataclass(frozen=True)
class Target:
    """A figure that was hoped for, what came of it, and whether that was enough."""

    name: str
    value: float
    met: bool


@dataclass(frozen=True)
class FinalEvaluation:
    """evaluation.json: the best epoch on the test dates, beside the baselines.

    table: a row a contestant, the model first; columns as in `COMPARED`, and others.
    oracle_rank_ic: what the best forecaster could reach, known for simulated markets only.
    epoch: the one that was tested; None for an ensemble.
    """

    epoch: int | None
    model: dict[str, float]
    table: pd.DataFrame
    verdict: str
    targets: tuple[Target, ...]
    oracle_rank_ic: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RecordedRun:
    """Everything a report is made of; None where the run did not get that far."""

    path: Path
    status: Status
    config: str | None
    overrides: tuple[str, ...] | None
    manifest: Manifest | None
    metrics: pd.DataFrame | None
    evaluation: FinalEvaluation | None
    predictions: Predictions | None

    @property
    def name(self) -> str:
        """The folder as a person would look for it: its name and its two parents'."""
        return "/".join(self.path.resolve().parts[-3:])

    @property
    def headline(self) -> str:
        """What comes first in every report: the verdict, or why there is none."""
        status, when = self.status, f"{self.status.time:%Y-%m-%d %H:%M}"
        if self.evaluation is not None:
            return self.evaluation.verdict
        if status.state == "running":
            return (
                f"No verdict: the run has been going since {when} (process {status.process}), or "
                "was stopped without a chance to say so."
            )
        if status.reason.startswith("KeyboardInterrupt"):
            return f"No verdict: the run was interrupted on {when}."
        if status.state == "failed":
            return f"No verdict: the run failed on {when} with {status.reason}"
        return "No verdict: the run finished without a comparison with the baselines."

    @property
    def comparison(self) -> pd.DataFrame | None:
        """The model beside the baselines; alone where the run was not compared with them."""
        if self.evaluation is not None:
            return self.evaluation.table
        if self.predictions is not None:
            return pd.DataFrame([score(self.predictions)], index=["model"])
        return None


def newest_run(folder: Path) -> Path:
    """The run under `folder` whose status was written last. Raises ValueError where there is none.

    Of runs that ended in the same instant it is the last by name.
    """
    runs = [run for tree in TREES for run in runs_under(folder / tree)]
    if not runs:
        raise ValueError(
            f"no run found under {' or '.join(str(folder / tree) for tree in TREES)}; train one "
            "with python train.py, or name a run folder with run=FOLDER"
        )
    return max(runs, key=lambda run: (RunDir(run).status_file.stat().st_mtime_ns, run))


def runs_under(tree: Path) -> list[Path]:
    """Every run folder in the tree, sorted; but not what lies within a run, judged elsewhere."""
    runs = {file.parent for file in tree.rglob(RunDir(tree).status_file.name)}
    return sorted(run for run in runs if runs.isdisjoint(run.parents))


def read_run(path: Path) -> RecordedRun:
    """Raises ValueError naming the folder or file that is missing, foreign or damaged."""
    run = RunDir(path)
    if not path.is_dir():
        raise ValueError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}")
    status = _read(run.status_file, _status)
    if status is None:
        inside = runs_under(path)
        hint = f"it holds {len(inside)}, such as run={inside[-1]}" if inside else "name another"
        raise ValueError(f"{path}: not a run folder ({run.status_file.name} is missing); {hint}")
    return RecordedRun(
        path=path,
        status=status,
        config=_read(run.config_file, Path.read_text),
        overrides=_read(run.overrides_file, _overrides),
        manifest=_read(run.manifest_file, _manifest),
        metrics=_read(run.metrics_file, _metrics),
        evaluation=_read(run.evaluation_file, _evaluation),
        predictions=_read(run.predictions_file, _predictions),
    )


def final_evaluation(data: dict[str, Any]) -> FinalEvaluation:
    """The content of evaluation.json, checked. Raises ValueError or TypeError."""
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']}, but this code reads {VERSION}")
    _require_keys(data, EVALUATION_KEYS)
    for row in data["table"]:
        _require_keys(row, ("name", "rank_ic", "mae", "accuracy"))
    for target in data["targets"]:
        _require_keys(target, ("name", "value", "met"))
    oracle = data["oracle_rank_ic"]
    return FinalEvaluation(
        epoch=None if data["epoch"] is None else int(data["epoch"]),
        model=_numbers(data["model"], METRICS),
        table=pd.DataFrame(
            [_numbers(row, COMPARED) for row in data["table"]],
            index=[str(row["name"]) for row in data["table"]],
        ),
        verdict=str(data["verdict"]),
        targets=tuple(
            Target(str(t["name"]), _number(t["value"]), bool(t["met"])) for t in data["targets"]
        ),
        oracle_rank_ic=None if oracle is None else float(oracle),
        notes=tuple(map(str, data["notes"])),
    )


def predictions_from(frame: pd.DataFrame) -> Predictions:
    """The inverse of `Predictions.frame`. Raises ValueError where a cell is missing or doubled."""
    _require_keys(frame.columns, PREDICTION_COLUMNS)
    frame = frame.sort_values(["signal_date", "step", "ticker"])
    dates, steps, tickers = (frame[name].unique() for name in ("signal_date", "step", "ticker"))
    shape = len(dates), len(steps), len(tickers)
    doubled = frame.duplicated(["signal_date", "step", "ticker"]).any()
    if not len(frame) or len(frame) != math.prod(shape) or doubled:
        raise ValueError("not exactly one row for each signal date, step and ticker")
    cells = {
        name: frame[name].to_numpy(kind).reshape(shape)
        for name, kind in zip(
            PREDICTION_COLUMNS[5:], (float, float, float, bool, bool), strict=True
        )
    }
    start, end = (
        frame[name].to_numpy("datetime64[D]").reshape(shape)[..., 0]
        for name in ("target_start", "target_end")
    )
    return Predictions(
        signal_dates=frame["signal_date"].to_numpy("datetime64[D]").reshape(shape)[:, 0, 0],
        target_start=start,
        target_end=end,
        tickers=frame["ticker"].to_numpy(str)[: shape[2]],
        **cells,
    )


def _read(path: Path, parse: Callable[[Path], Content]) -> Content | None:
    """What `parse` makes of the file; None where the run did not write it."""
    if not path.exists():
        return None
    try:
        return parse(path)
    except (ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: damaged, or not written by train.py ({reason}); name another run with "
            "run=FOLDER, or train this one again"
        ) from error


def _object(path: Path, keys: Collection[str]) -> dict[str, Any]:
    """A JSON object that has these keys."""
    data = json.loads(path.read_text())
    if not isinstance(data, dict):
        raise ValueError(f"a {type(data).__name__} where an object was expected")
    _require_keys(data, keys)
    return data


def _require_keys(given: Collection[str], keys: Collection[str]) -> None:
    missing = [key for key in keys if key not in given]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")


def _number(value: float | None) -> float:
    """JSON has no NaN: null stands for it."""
    return math.nan if value is None else float(value)


def _numbers(given: dict[str, Any], known: Collection[str]) -> dict[str, float]:
    """Those of the given numbers that a report has a name for."""
    return {name: _number(given[name]) for name in known if name in given}


def _status(path: Path) -> Status:
    data = _object(path, ("state", "reason", "time", "process"))
    if data["state"] not in STATES:
        raise ValueError(f"state {data['state']!r} is none of {', '.join(STATES)}")
    time = datetime.fromisoformat(data["time"])
    return Status(data["state"], str(data["reason"]), time, int(data["process"]))


def _overrides(path: Path) -> tuple[str, ...]:
    data = json.loads(path.read_text())
    if not isinstance(data, list):
        raise ValueError(f"a {type(data).__name__} where a list was expected")
    return tuple(map(str, data))


def _manifest(path: Path) -> Manifest:
    data = _object(path, MANIFEST_KEYS)
    for part in dict(data["split"]).values():
        _require_keys(part, SPLIT_COLUMNS)
    facts = {
        key: value
        for key, value in data.items()
        if key not in MANIFEST_KEYS and isinstance(value, (str, int, float))
    }
    return Manifest(
        git_commit=str(data["git_commit"]),
        versions=dict(data["versions"]),
        warnings=tuple(map(str, data["warnings"])),
        split=pd.DataFrame.from_dict(data["split"], orient="index"),
        tickers=tuple(map(str, data["tickers"])),
        factor_names=tuple(map(str, data["factor_names"])),
        files=dict(data["files"]),
        facts=facts,
    )


def _metrics(path: Path) -> pd.DataFrame:
    """Indexed by epoch; every other column is a number an epoch."""
    frame = pd.read_csv(path)
    _require_keys(frame.columns, ("epoch", "train_loss", "validation_loss", "learning_rate"))
    if frame.empty:
        raise ValueError("no epoch in it")
    return frame.astype(float).astype({"epoch": int}).set_index("epoch")


def _evaluation(path: Path) -> FinalEvaluation:
    return final_evaluation(_object(path, ("version",)))


def _predictions(path: Path) -> Predictions:
    predictions = predictions_from(pd.read_parquet(path))
    calibration(predictions)  # refuses what is not finite, and what is no probability
    return predictions
