"""Reopens a trained run: its configuration, its weights and its fitted preprocessing.

Evaluations elsewhere use this; ensembles use its configuration. That is the run's own: the model
cannot change, only the data that it is evaluated on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stockformer.config.build import check_config
from stockformer.config.overrides import check_command_line, without_hydra
from stockformer.config.recorded import current_overrides, recorded_nodes
from stockformer.data.dataset import FittedPreprocessing
from stockformer.data.panel import Panel
from stockformer.experiment import Experiment, prepare_dataset, read_panel
from stockformer.runs.folder import RunDir
from stockformer.runs.typed_json import require
from stockformer.training.checkpoint import (
    FITTED,
    load_checkpoint,
    read_checkpoint,
    require_same_stocks,
)

MAY_CHANGE = ("dataset", "split", "paths", "backtest", "trainer.device", "config_dir")
FIXED = ("dataset.lookback", "dataset.calendar", "dataset.factors")
"""Keys of a data set that define the model's inputs: they stay as the model was trained."""

MAX_THREADS = 1024  # torch crashes with very many

NO_GRAPH = {"_target_": "stockformer.data.graph.NoGraph"}


@dataclass(frozen=True)
class ReopenedRun:
    """A trained run. manifest: as recorded. facts: those of its best checkpoint."""

    run: RunDir
    config: DictConfig
    manifest: dict[str, Any]
    facts: dict[str, Any]

    def experiment(self, panel: Panel | None = None, rows: slice | None = None) -> Experiment:
        """The run's model with its weights, on the data of `config`; nothing is fitted.

        panel: what `read_panel` made of them, perhaps changed. rows: as in `prepare_dataset`.
        Raises ValueError if the model cannot be used there: other stocks or factors.
        """
        panel = read_panel(self.config) if panel is None else panel
        require_same_stocks(self.facts["tickers"], panel.tickers.tolist())
        torch.set_num_threads(self.manifest["threads"])  # another number would round differently
        fitted = FittedPreprocessing.of(self.facts)
        data = prepare_dataset(self.config, panel, fitted=fitted, rows=rows)
        experiment = Experiment(self.config, data)
        names = experiment.data.panel.factor_names
        load_checkpoint(self.run.checkpoint("best"), experiment.model, names)
        return experiment


def reopen(path: Path, overrides: Sequence[str] = ()) -> ReopenedRun:
    """The run in folder `path`, complete and undamaged, with changes of the data.

    Raises ValueError if it is no run's folder, damaged, or a change would give another model.
    """
    run = RunDir(path)
    run.status()  # raises if it is no run's folder
    kind = run.read_manifest().get("kind", "run")  # version 0.1 had no other kind
    if kind != "run":
        raise ValueError(f"{path}: an {kind}, which has no weights of its own; name a trained run")
    run.verify()  # before the work; damaged files cannot be reproduced
    facts = read_checkpoint(run.checkpoint("best"))[1]
    require(facts, FITTED, str(run.checkpoint("best")))
    manifest = run.read_manifest("threads", "files", "data_hash", "split")
    if not 1 <= manifest["threads"] <= MAX_THREADS:
        raise ValueError(f"{run.manifest_file}: damaged: {manifest['threads']} threads")
    config = configuration(run, overrides)
    config.graph = NO_GRAPH  # the embedding is in the checkpoint; none is fitted
    return ReopenedRun(run, config, manifest, facts)


def configuration(run: RunDir, overrides: Sequence[str] = ()) -> DictConfig:
    """The run's configuration with changes, checked like a command line.

    A newly chosen group comes from its file; a data set has its own split. Raises ValueError for a
    change that would give another model.
    """
    keys = [override.partition("=")[0] for override in overrides]
    for key in keys:
        allowed = any(key == may or key.startswith(f"{may}.") for may in MAY_CHANGE)
        if not allowed or key in FIXED:
            raise ValueError(
                f"{key}: a trained model is evaluated as it was trained; you can change only "
                f"{', '.join(MAY_CHANGE)} (but not {', '.join(FIXED)})"
            )
    chosen = {key for key in keys if key in ("dataset", "split", "backtest", "paths")}
    lines = [*_remembered(run, chosen), *overrides]
    composed = without_hydra(check_command_line(lines, multirun=False))
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
    check_config(config)
    return config


def _remembered(run: RunDir, chosen: set[str]) -> list[str]:
    """The run's command line, without newly chosen groups and the words of a search."""
    lines = current_overrides(run.read_config()[1])
    dropped = {*chosen, "search"}
    return [line for line in lines if re.split("[.=]", line.lstrip("+"))[0] not in dropped]


def _overlaid(composed: DictConfig, recorded: Any, but: set[str]) -> DictConfig:
    """The composed nodes overridden by the recorded ones; newer keys keep the composed value."""
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
