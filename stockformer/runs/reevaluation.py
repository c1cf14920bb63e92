"""A trained run judged again: on its own test days, to the bit, or elsewhere; nothing is fitted.

The configuration is the run's own. What the model is made of cannot change; where it is judged can.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stockformer.config.overrides import check_command_line
from stockformer.config.quoting import pasteable
from stockformer.config.recorded import current_overrides, recorded_nodes
from stockformer.config.rules import check_values
from stockformer.config.schema import CONFIG_NAME, config_folder
from stockformer.data.dataset import Data, FittedPreprocessing, read_panel
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.record import plain
from stockformer.evaluation.stored import read_parquet
from stockformer.experiment import Experiment, record_evaluation
from stockformer.runs.folder import RunDir
from stockformer.runs.logs import start_log
from stockformer.runs.typed_json import require
from stockformer.training.checkpoint import FITTED, load_checkpoint, read_checkpoint
from stockformer.training.evaluate import Evaluation

log = logging.getLogger(__name__)

MAY_CHANGE = ("dataset", "split", "paths", "backtest", "trainer.device")
FIXED = ("dataset.lookback", "dataset.calendar", "dataset.factors")
"""What a data set's file says of the model's inputs: it stays as the model was trained."""

UNNAMED = ("paths.", "trainer.device")
"""Changes of where, not of what."""

MOST_THREADS = 1024  # torch crashes where it is asked for very many

NO_GRAPH = {"_target_": "stockformer.data.graph.NoGraph"}


def reevaluate(path: Path, overrides: Sequence[str], into: Path | None = None) -> Path:
    """Judge the best checkpoint of a run folder again; the folder of what was judged.

    Without overrides, or with those that only say where the same data lie, on the run's own test
    days: the recorded metrics must come out again, and nothing is written. With others elsewhere,
    into a folder of its own, by default within the run's.
    Raises ValueError where the metrics are not reproduced, a model cannot be judged there, or a
    file is missing.
    """
    start_log()
    run = RunDir(path)
    run.status()  # refuses what is no run's folder
    run.verify()  # before the work; what is damaged cannot be reproduced
    folder = into or run.evaluations_folder / folder_name(overrides)
    if overrides and folder.exists():
        raise ValueError(f"{folder}: is there already; name another folder with into=FOLDER")
    facts = read_checkpoint(run.checkpoint("best"))[1]
    require(facts, FITTED, str(run.checkpoint("best")))
    manifest = run.read_manifest("threads", "files", "data_hash", "split")
    config = configuration(run, overrides)
    config.graph = NO_GRAPH  # the embedding is in the checkpoint; none is fitted
    panel = read_panel(config)
    require_same_stocks(facts["tickers"], panel.tickers.tolist())
    threads = manifest["threads"]
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"{run.manifest_file}: damaged: {threads} threads")
    torch.set_num_threads(threads)  # sums over other shares round otherwise
    data = Data.prepare(config, panel, fitted=FittedPreprocessing.of(facts))
    experiment = Experiment(config, data)
    load_checkpoint(run.checkpoint("best"), experiment.model, data.panel.factor_names)
    test = experiment.loader("test", alone=True)
    evaluation = experiment.evaluator.evaluate(experiment.model, experiment.loss, test)
    now = experiment.manifest()
    moved = all(line.startswith(UNNAMED) for line in overrides)
    if not overrides or (moved and same_data(manifest, now)):
        require_reproduced(run, manifest, now, evaluation)
        return run.path
    command = f"{pasteable('run', run.path.resolve())} evaluate=true {shlex.join(overrides)}"
    with RunDir.claim(folder) as place:
        place.write_manifest(  # first: settings without it are those of a training
            now
            | {"kind": "evaluation", "graph_last_date": facts["graph_last_date"]}
            | {"command": f"python analyze.py {command}"}
        )
        place.write_config(OmegaConf.to_yaml(config), overrides)
        summary = data.evaluate(evaluation.predictions, facts["epoch"])
        known = overlap(manifest["split"], evaluation.predictions)
        if known:
            log.warning("%s", known)
            summary = replace(summary, verdict=f"{known}. {summary.verdict}")
        notes = (f"evaluated elsewhere: {' '.join(overrides)}", *summary.notes)
        summary = replace(summary, notes=notes)
        record_evaluation(place, evaluation.predictions, summary)
    log.info("evaluated elsewhere: %s; the run's own evaluation is as it was", folder)
    return folder


def configuration(run: RunDir, overrides: Sequence[str] = ()) -> DictConfig:
    """The run's configuration with a few changes, checked like a command line.

    A group that is chosen anew comes from its file; a data set brings its own split. Raises
    ValueError for a change that would make it another model.
    """
    keys = [override.partition("=")[0] for override in overrides]
    for key in keys:
        allowed = any(key == may or key.startswith(f"{may}.") for may in MAY_CHANGE)
        if not allowed or key in FIXED:
            raise ValueError(
                f"{key}: a trained model is judged as it was trained; what can be changed is "
                f"{', '.join(MAY_CHANGE)} (but not {', '.join(FIXED)})"
            )
    chosen = {key for key in keys if key in ("dataset", "split", "backtest", "paths")}
    lines = [*_remembered(run, chosen), *overrides]
    check_command_line(lines, multirun=False)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = compose(CONFIG_NAME, lines)
    try:
        recorded = recorded_nodes(run.read_config()[0])
        config = _overlaid(
            composed, recorded, chosen | ({"split"} if "dataset" in chosen else set())
        )
        for key in keys:
            if key not in chosen:
                OmegaConf.update(config, key, OmegaConf.select(composed, key))
        for key in FIXED:
            OmegaConf.update(config, key, OmegaConf.select(recorded, key))
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (OSError, AttributeError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{run.config_file}: not a run's configuration: {reason}") from error
    check_values(config)
    return config


def require_same_stocks(trained_on: Sequence[str], here: Sequence[str]) -> None:
    """Raises ValueError for others, or another order: each has its row in the model's graph."""
    if list(trained_on) == list(here):
        return
    missing, unknown = (
        sorted(set(a) - set(b)) for a, b in ((trained_on, here), (here, trained_on))
    )
    difference = f"{len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}"
    if not missing and not unknown:
        difference = "the same in another order"
    raise ValueError(
        f"the model's graph has {len(trained_on)} rows, one for each stock it was trained on; here "
        f"are {len(here)} stocks: {difference}. Judge it on the same stocks, or train another"
    )


def require_reproduced(
    run: RunDir, then: Mapping[str, Any], now: Mapping[str, Any], evaluation: Evaluation
) -> None:
    """Say that every recorded test metric came out again; ValueError names those that did not."""
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
        "reproduced to the bit: all %d recorded test metrics and %s predictions",
        *(len(recorded), f"{len(known):,}"),
    )


def same_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two manifests are of the same files; of simulated markets, of the same settings.

    A file that only one has read, as a graph's, does not count.
    """
    files, others = then["files"], now["files"]
    if not files or not others:
        return bool(then["data_hash"] == now["data_hash"])
    return all(others.get(name, digest) == digest for name, digest in files.items())


def overlap(parts: Mapping[str, Mapping[str, str]], predictions: Predictions) -> str:
    """What is to be said first where test dates lie before the end of what a run was fitted on."""
    last = max(parts[name]["last_target_date"] for name in ("train", "validation"))
    dates = predictions.signal_dates
    known = dates[dates < np.datetime64(last)]
    if not len(known):
        return ""
    return (
        f"Not out of sample: {len(known)} of {len(dates)} test dates, {known[0]} to {known[-1]}, "
        f"lie before {last}, the end of the days the model was fitted on and chosen by"
    )


def folder_name(overrides: Sequence[str]) -> str:
    """The overrides as a file name: split.fold=1,backtest.top_k=10."""
    named = [line for line in overrides if not line.startswith(UNNAMED)] or list(overrides)
    return re.sub(r"[^\w.=,+-]+", "-", ",".join(named))[:120]


def _remembered(run: RunDir, chosen: set[str]) -> list[str]:
    """What the run's command line asked for, but for groups chosen anew, and for a search."""
    lines = current_overrides(run.read_config()[1])
    dropped = {*chosen, "search"}
    return [line for line in lines if re.split("[.=]", line.lstrip("+"))[0] not in dropped]


def _overlaid(composed: DictConfig, recorded: Any, but: set[str]) -> DictConfig:
    """The recorded nodes over the composed ones; keys that are new since are as composed."""
    config = composed.copy()
    OmegaConf.set_struct(config, False)  # maps of free keys, such as project targets
    for name, node in recorded.items():
        if name in but:
            continue
        typed = (
            isinstance(config[name], DictConfig) and OmegaConf.get_type(config[name]) is not dict
        )
        config[name] = OmegaConf.merge(config[name], node) if typed else node
    return config


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is other than when the run was made, as far as it is known."""
    keys = ("git_commit", "device", "platform", "threads", "versions")
    changed = [key.replace("_", " ") for key in keys if then.get(key) != now.get(key)]
    changed += [] if same_data(then, now) else ["the data"]
    return f"Other than then: {', '.join(changed) or 'nothing that is recorded'}"
