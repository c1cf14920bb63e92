"""Reads a run back from the files in its folder, and from nothing else."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import pandas as pd

from stockformer.data.reading.unpacking import read_parquet
from stockformer.evaluation.backtest import Backtest
from stockformer.evaluation.importance import IMPORTANCE, Importance
from stockformer.evaluation.predictions import Predictions, calibration, score
from stockformer.evaluation.record import EvaluationRecord
from stockformer.evaluation.verdict import Verdict
from stockformer.runs import atomic
from stockformer.runs.console import program
from stockformer.runs.folder import TREES, RunDir, runs_under
from stockformer.runs.typed_json import parse_json, require

Content = TypeVar("Content")

REMEDY = "name another run with run=FOLDER, or train this one again"
PREDICTION_COLUMNS = (
    *("signal_date", "target_start", "target_end", "ticker", "step"),
    *("prediction", "probability", "label", "up", "valid"),
)
MANIFEST_KEYS = (
    *("git_commit", "versions", "warnings", "split", "tickers", "factor_names", "files"),
)


LEDGER = {
    "trades": ("date", "ticker", "side", "shares", "price", "value", "cost"),
    "positions": ("date", "ticker", "shares", "close", "value"),
    "equity": (
        *("date", "cash", "value", "account", "net_return", "gross_return", "turnover", "cost"),
        *("slippage", "n_held", "benchmark", "index"),
    ),
}


@dataclass(frozen=True)
class Status:
    """How the run ended, or that it has not; `reason` is empty if it finished."""

    state: str
    reason: str
    time: datetime
    process: int


@dataclass(frozen=True)
class Manifest:
    """Where the run comes from.

    split: a row a part, columns as in `folder.MANIFEST`. files: hashes by name. ensemble_of: the
    folders of an ensemble's runs. facts: all other single values, such as the seed and the device.
    """

    git_commit: str
    versions: dict[str, str]
    warnings: tuple[str, ...]
    split: pd.DataFrame
    tickers: tuple[str, ...]
    factor_names: tuple[str, ...]
    files: dict[str, str]
    ensemble_of: tuple[Path, ...]
    facts: dict[str, str | float]


@dataclass(frozen=True)
class RecordedRun:
    """The contents of a report; None where the run did not get that far."""

    path: Path
    status: Status
    config: str | None
    overrides: tuple[str, ...] | None
    manifest: Manifest | None
    metrics: pd.DataFrame | None
    evaluation: EvaluationRecord | None
    predictions: Predictions | None
    ledger: Backtest | None
    importance: Importance | None = None

    @property
    def name(self) -> str:
        return short_name(self.path)

    @property
    def headline(self) -> str:
        """The first line of every report: the verdict, or why there is none."""
        status, when = self.status, f"{self.status.time:%Y-%m-%d %H:%M}"
        if self.evaluation is not None:
            return self.evaluation.verdict
        state = status.state
        if state == "running" and RunDir(self.path).killed():
            state = "killed"
        elif status.reason.startswith("KeyboardInterrupt"):
            state = "interrupted"
        ended = {
            "running": f"has been running since {when} (process {status.process}).",
            "killed": f"started on {when} and {self.reason}.",
            "interrupted": f"was interrupted on {when}.",
            "pruned": f"was stopped by the search on {when}: {status.reason}",
            "failed": f"failed on {when} with {status.reason}",
            "finished": "finished without a comparison with the baselines.",
        }
        return f"No verdict: the run {ended[state]}"

    @property
    def audit(self) -> tuple[str, str]:
        """The outcome of the look-ahead audit of the same data, settings and code ("passed",
        "FAILED", or another word if it was not run), and when."""
        facts = {} if self.manifest is None else self.manifest.facts
        outcome, _, when = str(facts.get("lookahead_audit", "")).partition(" ")
        return outcome, when

    @property
    def answers(self) -> Verdict | None:
        """The three answers of the evaluation, in view of the audit."""
        return None if self.evaluation is None else self.evaluation.answers.audited(self.audit[0])

    @property
    def reason(self) -> str:
        """Why it is not finished, as far as known; a dead run's lock is free."""
        if self.status.state != "running":
            return self.status.reason
        if RunDir(self.path).killed():
            again = RunDir(self.path).resume_words
            return f"ended without recording it (killed?): {program('train')} {again}"
        return f"process {self.status.process} is running"

    @property
    def comparison(self) -> pd.DataFrame | None:
        """The model and the baselines; only the model if the run was not compared with them."""
        if self.evaluation is not None:
            return self.evaluation.table
        if self.predictions is not None:
            return pd.DataFrame([score(self.predictions)], index=["model"])
        return None


def newest_run(folder: Path) -> Path:
    """The run under `folder` whose status was written last. Raises ValueError if there is none.

    Of runs that ended at the same instant it is the last by name.
    """
    runs = [run for tree in TREES for run in runs_under(folder / tree)]
    if not runs:
        raise ValueError(
            f"no run found under {' or '.join(str(folder / tree) for tree in TREES)}; train one "
            f"with {program('train')}, or name a run folder with run=FOLDER"
        )
    return max(runs, key=lambda run: (RunDir(run).status_file.lstat().st_mtime_ns, run))


def is_run(folder: Path) -> bool:
    return RunDir(folder).status_file.exists()


def short_name(folder: Path) -> str:
    """A folder's name with its two parents' names."""
    return str(Path(*folder.resolve().parts[-3:]))


def folders_under(tree: Path) -> list[Path]:
    """Every folder in the tree that a run wrote to, with or without a status; sorted."""
    run = RunDir(tree)
    marks = {file.name for file in (run.status_file, run.config_file, run.metrics_file)}
    found = []
    for folder, inside, files in os.walk(tree):
        if marks.intersection(files):
            found.append(Path(folder))
            inside.clear()  # folders within a run's folder belong to the run
    return sorted(found, key=_by_number)


def read_run(path: Path, large_files: bool = True) -> RecordedRun:
    """Raises ValueError naming the folder or file that is missing, foreign or damaged.

    Without large_files the forecasts and the ledger are not read.
    """
    run = RunDir(path)
    if not path.is_dir():
        raise ValueError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}")
    if not os.path.lexists(run.status_file):
        raise ValueError(
            f"{path}: not a run folder ({run.status_file.name} is missing), nor one that holds "
            "runs; name another with run=FOLDER"
        )
    try:
        atomic.require_plain_files(path)
        status = _status(run)
        run.require_whole()
    except ValueError as error:
        raise ValueError(f"{error}; {REMEDY}") from error
    evaluation = _read(run, run.evaluation_file, _evaluation)
    return RecordedRun(
        path=path,
        status=status,
        config=_read(run, run.config_file, bytes.decode),
        overrides=_read(run, run.overrides_file, _overrides),
        manifest=_read(run, run.manifest_file, lambda _: _manifest(run)),
        metrics=_read(run, run.metrics_file, _metrics),
        evaluation=evaluation,
        predictions=_read(run, run.predictions_file, _predictions) if large_files else None,
        ledger=_ledger(run, evaluation) if large_files else None,
        importance=_importance(run) if large_files else None,
    )


def read_ledger(content: bytes, table: str) -> pd.DataFrame:
    """A table of the ledger, by its name in LEDGER; tickers are always text.

    Raises ValueError or TypeError for anything else.
    """
    frame = pd.read_csv(
        io.BytesIO(content),
        dtype={"ticker": str},
        keep_default_na=False,
        na_values=[""],
        parse_dates=["date"],
        date_format="%Y-%m-%d",
    )
    require_keys(frame.columns, LEDGER[table])
    if frame["date"].isna().any() or not pd.api.types.is_datetime64_dtype(frame["date"]):
        raise ValueError("an invalid date")
    numbers = frame.columns.difference(["date", "ticker", "side"])
    return frame.astype(dict.fromkeys(numbers, float))


def require_keys(given: Collection[str], keys: Collection[str]) -> None:
    missing = [key for key in keys if key not in given]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}")


def predictions_from(frame: pd.DataFrame) -> Predictions:
    """The inverse of `Predictions.frame`. Raises ValueError for a missing or duplicate cell."""
    require_keys(frame.columns, PREDICTION_COLUMNS)
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


def _by_number(folder: Path) -> tuple[tuple[int, str], ...]:
    """A sort key that puts job 10 after job 9."""
    return tuple((int(part) if part.isdecimal() else -1, part) for part in folder.parts)


def _read(run: RunDir, path: Path, parse: Callable[[bytes], Content]) -> Content | None:
    """The parsed file, which must be unchanged since the run; None if there is no such file."""
    if not path.exists():
        return None
    try:
        content = run.read(path)
    except ValueError as error:
        raise ValueError(f"{error}; {REMEDY}") from error
    try:
        return parse(content)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        # Any error that an invalid file may cause while it is parsed.
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: damaged, or not written by train.py ({reason}); {REMEDY}"
        ) from error


def _ledger(run: RunDir, evaluation: EvaluationRecord | None) -> Backtest | None:
    """The backtest's ledger; None without all of its files, or without its settings."""
    if evaluation is None or evaluation.backtest is None or not run.equity_file.exists():
        return None
    settings = evaluation.backtest.settings
    trades, positions, equity = (
        _read(run, file, partial(read_ledger, table=file.stem))
        for file in (run.trades_file, run.positions_file, run.equity_file)
    )
    if trades is None or positions is None or equity is None:
        return None
    return Backtest(settings, trades, positions, equity.set_index("date"))


def _importance(run: RunDir) -> Importance | None:
    """What moved the forecasts; None if it was not computed."""
    if not run.importance_file.exists():
        return None
    try:
        return Importance.from_json(run.read_importance(IMPORTANCE))
    except ValueError as error:
        again = f"{program('evaluate')} run={run.path} importance=true"
        raise ValueError(f"{error}; {again} makes it anew") from error


def _status(run: RunDir) -> Status:
    data = run.status()
    require(data, {"reason": str, "time": str, "process": int}, str(run.status_file))
    try:
        time = datetime.fromisoformat(data["time"])
    except ValueError as error:
        raise ValueError(f"{run.status_file}: damaged: {error}") from error
    return Status(data["state"], data["reason"], time, data["process"])


def _overrides(content: bytes) -> tuple[str, ...]:
    return tuple(parse_json(content, [str], "overrides"))


def _evaluation(content: bytes) -> EvaluationRecord:
    return EvaluationRecord.from_json(parse_json(content, {"version": int}, "evaluation"))


def _manifest(run: RunDir) -> Manifest:
    data = run.read_manifest(*MANIFEST_KEYS)
    facts = {
        key: value
        for key, value in data.items()
        if key not in MANIFEST_KEYS and isinstance(value, (str, int, float))
    }
    return Manifest(
        git_commit=data["git_commit"],
        versions=data["versions"],
        warnings=tuple(data["warnings"]),
        split=pd.DataFrame.from_dict(data["split"], orient="index"),
        tickers=tuple(data["tickers"]),
        factor_names=tuple(data["factor_names"]),
        files=data["files"],
        ensemble_of=tuple(map(Path, data.get("ensemble_of", ()))),
        facts=facts,
    )


def _metrics(content: bytes) -> pd.DataFrame:
    """metrics.csv by epoch; every other column is numeric."""
    frame = pd.read_csv(io.BytesIO(content))
    require_keys(frame.columns, ("epoch", "train_loss", "validation_loss"))
    if frame.empty:
        raise ValueError("no epoch in it")
    frame = frame.astype(float).astype({"epoch": int}).set_index("epoch")
    if not (frame.index.is_monotonic_increasing and frame.index.is_unique):
        raise ValueError("epochs are not in order")
    return frame


def _predictions(content: bytes) -> Predictions:
    predictions = predictions_from(read_parquet(content, "predictions"))
    calibration(predictions)  # raises for numbers that are not finite, or are no probabilities
    return predictions
