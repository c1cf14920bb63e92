"""Evaluates a trained run again: on its own test days, bit for bit, or elsewhere."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from stockformer.config.quoting import pasteable
from stockformer.data.reading.unpacking import read_parquet
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.record import plain
from stockformer.experiment import Experiment, evaluate, record_evaluation
from stockformer.runs.console import program
from stockformer.runs.description import last_day_used, manifest, same_data
from stockformer.runs.folder import RunDir
from stockformer.runs.logs import start_log
from stockformer.runs.reopen import reopen
from stockformer.training.evaluate import Evaluation

log = logging.getLogger(__name__)

UNNAMED = ("paths.", "trainer.device")
"""Settings of where the data are, which do not change the evaluation."""


def reevaluate(
    path: Path, overrides: Sequence[str], into: Path | None = None, *, importance: bool = False
) -> Path:
    """Evaluate the best checkpoint of a run folder again; returns the folder of the evaluation.

    Without overrides, or with only paths of the same data, on the run's own test days: the recorded
    metrics must be reproduced, and nothing is written. With others elsewhere, into a new folder, by
    default within the run's. importance: also compute what moved the forecasts, into that folder.
    Raises ValueError if the metrics are not reproduced, the model cannot be evaluated there, or a
    file is missing.
    """
    start_log()
    run = RunDir(path)
    folder = into or run.evaluations_folder / folder_name(overrides)
    if overrides and folder.exists():
        raise ValueError(f"{folder}: already exists; name another folder with into=FOLDER")
    trained = reopen(path, overrides)
    experiment = trained.experiment()
    evaluation = experiment.evaluate_part("test")
    now = manifest(experiment)
    moved = all(line.startswith(UNNAMED) for line in overrides)
    if not overrides or (moved and same_data(trained.manifest, now)):
        require_reproduced(run, trained.manifest, now, evaluation)
        if importance:
            record_importance(run, experiment, evaluation)
        return run.path
    facts, predictions = trained.facts, evaluation.predictions
    command = f"{pasteable('run', run.path.resolve())} {shlex.join(overrides)}"
    with RunDir.claim(folder) as place:
        place.write_manifest(  # first: a folder with settings but no manifest is a training
            now
            | {"kind": "evaluation", "graph_last_date": facts["graph_last_date"]}
            | {"command": f"{program('evaluate')} {command}"}
        )
        place.write_config(OmegaConf.to_yaml(trained.config), overrides)
        record = evaluate(trained.config, experiment.data, predictions, epoch=facts["epoch"])
        warning = overlap(trained.manifest["split"], predictions)
        if warning:
            log.warning("%s", warning)
            record = replace(record, verdict=f"{warning}. {record.verdict}")
        notes = (f"evaluated elsewhere: {' '.join(overrides)}", *record.notes)
        record_evaluation(place, predictions, replace(record, notes=notes))
        if importance:
            record_importance(place, experiment, evaluation)
    log.info("evaluated elsewhere: %s; the run's own evaluation is unchanged", folder)
    return folder


def record_importance(run: RunDir, experiment: Experiment, evaluation: Evaluation) -> None:
    """Compute what moved the forecasts of the test days, and write it to `run`."""
    found = experiment.importance(evaluation.predictions.horizon)
    run.write_importance(plain(found.to_json()))
    log.info("what moved the forecasts: %s", run.importance_file)


def require_reproduced(
    run: RunDir, then: Mapping[str, Any], now: Mapping[str, Any], evaluation: Evaluation
) -> None:
    """Log that every recorded test metric is reproduced; ValueError names those that are not."""
    recorded = run.read_json(run.evaluation_file, {"model": {str: (float, None)}})["model"]
    again = plain(evaluation.metrics)
    different = [
        f"{name} {value} recorded, {again.get(name)} now"
        for name, value in recorded.items()
        if value != again.get(name)
    ]
    known = read_parquet(run.read(run.predictions_file), str(run.predictions_file))
    frame = evaluation.predictions.frame()
    same = known.equals(frame[known.columns].astype(known.dtypes))
    if different or not same:
        what = "; ".join(different[:3]) or "the metrics agree, single predictions do not"
        raise ValueError(f"{run.path}: not reproduced: {what}. {_changes(then, now)}")
    log.info(
        "reproduced bit for bit: all %d recorded test metrics and %s predictions",
        len(recorded),
        f"{len(known):,}",
    )


def overlap(parts: Mapping[str, Mapping[str, str]], predictions: Predictions) -> str:
    """A warning if test dates are before the end of the days a run was fitted on; else empty."""
    last = last_day_used(parts)
    dates = predictions.signal_dates
    known = dates[dates < np.datetime64(last)]
    if not len(known):
        return ""
    return (
        f"Not out of sample: {len(known)} of {len(dates)} test dates, {known[0]} to {known[-1]}, "
        f"are before {last}, the end of the days the model was fitted on and selected by"
    )


def folder_name(overrides: Sequence[str]) -> str:
    """The overrides as a file name: split.fold=1,backtest.top_k=10."""
    named = [line for line in overrides if not line.startswith(UNNAMED)] or list(overrides)
    return re.sub(r"[^\w.=,+-]+", "-", ",".join(named))[:120]


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs from when the run was made, as far as it is recorded."""
    keys = ("git_commit", "device", "platform", "threads", "versions")
    changed = [key.replace("_", " ") for key in keys if then.get(key) != now.get(key)]
    changed += [] if same_data(then, now) else ["the data"]
    return f"Changed since then: {', '.join(changed) or 'nothing that is recorded'}"
