"""A run folder as a run would have left it, written by the run's own writers, to read and break."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from small_data import backtest_settings

from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.record import EvaluationRecord
from stockformer.evaluation.summary import summarise
from stockformer.evaluation.trading import BacktestSpec, market_of_returns
from stockformer.runs import folder as run_folder
from stockformer.runs.folder import RunDir

TICKERS = np.array(["AAA", "B-B", "M&M", "<b>x", "360ONE", "NA", "ZZZ"])
CONFIG = (
    "seed: 0\npaths:\n  data_dir: /data/<old> & new\n"
    "optimizer:\n  lr: 0.1\ntarget:\n  horizon: 2\n  offset: 0\ntrainer:\n  monitor: rank_ic\n"
)
RECORDED = {"seed": "seed: 0", "optimizer.lr": "lr: 0.1"}
"""Lines of CONFIG that follow an override."""
OVERRIDES = ["seed=0", "paths.data_dir='/data/<old> & new'"]


def some_predictions(dates: int = 25, seed: int = 0) -> Predictions:
    """Two steps, seven stocks, a little skill, a cell in ten masked."""
    random = np.random.default_rng(seed)
    label = random.normal(0, 0.02, (dates, 2, len(TICKERS)))
    valid = random.random(label.shape) > 0.1
    signal_dates = np.datetime64("2024-03-01") + np.arange(dates)
    start = signal_dates[:, None] + np.arange(2)
    prediction = 0.03 * label + random.normal(0, 0.01, label.shape)
    return Predictions(
        signal_dates=signal_dates,
        target_start=start,
        target_end=start + 1,
        tickers=TICKERS,
        prediction=prediction,
        probability=1 / (1 + np.exp(-50 * prediction)),
        label=np.where(valid, label, np.nan),
        up=valid & (label > 0),
        valid=valid,
    )


def validation_of(predictions: Predictions) -> Predictions:
    """As if the first ten test dates had been the validation."""
    return replace(
        predictions,
        **{
            name: getattr(predictions, name)[:10]
            for name in Predictions.__dataclass_fields__
            if name != "tickers"
        },
    )


def summary(predictions: Predictions) -> EvaluationRecord:
    """The run's judgement, with two baselines, a market to trade on and an oracle."""
    baselines = {
        "zero_return": replace(predictions, prediction=np.zeros_like(predictions.prediction)),
        "reversal_1_day": replace(predictions, prediction=-predictions.prediction),
    }
    dates = predictions.signal_dates[0] + np.arange(len(predictions.signal_dates) + 2)
    returns = np.random.default_rng(1).normal(0, 0.02, (len(dates), len(TICKERS)))
    trading = BacktestSpec(
        market_of_returns(dates, TICKERS, returns, fill="close"),
        backtest_settings(top_k=2, n_drop=1, rebalance_days=2),
        start_offsets=3,
        participation_rate=0.05,
        sectors=np.array(["IT", "Oil & gas", "", "IT", "IT", "IT", "<b>"]),
    )
    notes = ["survivorship: M&M & others", "few dates"]
    judged = summarise(
        predictions,
        baselines,
        trading=trading,
        notes=notes,
        validation=validation_of(predictions),
        targets={"mae": 0.015, "accuracy": 0.52},
        epoch=2,
    )
    return replace(judged, oracle_rank_ic=0.5, first_step_rank_ic=0.01, notes=tuple(notes))


def write_epochs(run: RunDir, epochs: int = 3, rank_ic: float = np.nan) -> None:
    """rank_ic: of the validation, in every epoch."""
    rows = []
    for epoch in range(1, epochs + 1):
        names = ("loss", "regression_loss", "classification_loss")
        row = {f"{part}_{name}": 1 / epoch for part in ("train", "validation") for name in names}
        row |= {"validation_mae": 0.02, "validation_accuracy": 0.5, "validation_rank_ic": rank_ic}
        rows.append({"epoch": epoch} | row | {"learning_rate": 1e-3, "seconds": 1.5})
    run.write_metrics(rows)


def manifest() -> dict[str, object]:
    part = {
        "samples": 25,
        "first_signal_date": "2024-03-01",
        "last_signal_date": "2024-03-25",
        "last_target_date": "2024-03-27",
    }
    return {
        "git_commit": "0123abcd+changes",
        "versions": {"torch": "2.6", "python": "3.11"},
        "warnings": ["survivorship: M&M & others", "contaminated"],
        "split": {"train": part, "test": part},
        "tickers": TICKERS.tolist(),
        "factor_names": ["KLEN", "STD5"],
        "files": {"label.csv": "f00d"},
        "seed": 0,
        "device": "cpu",
        "dataset": "small & old",
        "data_hash": "f00d",
    }


def finished_run(
    path: Path,
    age: float = 0.0,
    *,
    overrides: Sequence[str] = OVERRIDES,
    rank_ic: float = np.nan,
    seed: int = 0,
    dates: int = 25,
) -> Path:
    """A whole run; `age` is how many seconds ago it ended, `rank_ic` its validation's."""
    config = CONFIG
    for word in overrides:
        key, _, value = word.partition("=")
        if key in RECORDED:
            config = config.replace(RECORDED[key], f"{RECORDED[key].partition(':')[0]}: {value}")
    with RunDir.claim(path) as run:
        run.write_config(config, overrides)
        run.write_manifest(manifest())
        write_epochs(run, rank_ic=rank_ic)
        predictions = some_predictions(dates, seed)
        run.write_predictions(predictions.frame())
        judged = summary(predictions)
        assert judged.backtest is not None
        ledger = judged.backtest.ledger
        assert ledger is not None
        run.write_ledger(ledger.trades, ledger.positions, ledger.equity)
        run.write_evaluation(judged.to_json())
    written = run.status_file.stat().st_mtime - age
    os.utime(run.status_file, (written, written))
    return path


def rewrite(path: Path, content: str | bytes) -> None:
    """Put other content into an artefact and keep SHA256SUMS right, as an editor would who can."""
    data = content if isinstance(content, bytes) else content.encode()
    if path.name == "status.json":
        status = json.loads(data)
        status["sha256"] = run_folder._digest({k: v for k, v in status.items() if k != "sha256"})
        path.write_text(json.dumps(status))
    else:
        RunDir(path.parent)._write(path, data)


def leave_out(path: Path) -> None:
    """As if the run had not left this artefact."""
    path.unlink()
    run = RunDir(path.parent)
    run._write_sums({name: sums for name, sums in run._sums().items() if name != path.name})


def failed_run(path: Path, reason: BaseException) -> Path:
    """A run that ended with `reason` in its fourth epoch."""
    with suppress(type(reason)), RunDir.claim(path) as run:
        write_epochs(run)
        raise reason
    return path


def sweep(tree: Path) -> Path:
    """Three jobs that finished, the second best by validation, one that failed, one that runs, one
    that cannot be read and one that left no status."""
    for job, (rate, rank_ic) in enumerate([("1e-3", 0.02), ("1e-4", 0.05), ("<b>", np.nan)]):
        overrides = ["seed=0", f"optimizer.lr={rate}", "model=stockformer_small"]
        finished_run(tree / str(job), overrides=overrides, rank_ic=rank_ic, seed=job)
    failed_run(tree / "3", ValueError("loss is nan on <M&M>; lower optimizer.lr"))
    RunDir.claim(tree / "4").__exit__(None, None, None)
    RunDir(tree / "4").end("running", "")
    rewrite(finished_run(tree / "5") / "evaluation.json", "{")
    (finished_run(tree / "10") / "status.json").unlink()
    return tree
