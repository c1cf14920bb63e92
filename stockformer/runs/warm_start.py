"""A training that starts from another run's weights (`init_from=RUN`), on later days."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockformer.models.tabular import Tabular
from stockformer.runs.description import last_day_used
from stockformer.runs.folder import RunDir
from stockformer.training.checkpoint import load_checkpoint, require_same_stocks

if TYPE_CHECKING:
    from stockformer.experiment import Experiment

log = logging.getLogger(__name__)


def start_from(path: Path, experiment: Experiment) -> dict[str, Any]:
    """Load the best weights of the run in `path`, with its graph; returns facts for the manifest.

    Raises ValueError if it has other stocks, factors or another model, or was fitted or selected on
    days that this run validates or tests on: its result would not be out of sample.
    """
    if isinstance(experiment.model, Tabular):
        raise ValueError(f"init_from={path}: this model is fitted at once, so no weights start it")
    run = RunDir(path)
    if not run.checkpoint("best").exists():
        raise ValueError(f"init_from={path}: not the folder of a run with a best epoch")
    used = last_day_used(run.read_manifest("split")["split"])
    data = experiment.data
    first = str(data.panel.dates[data.split.validation[0]])
    if used > first:
        raise ValueError(
            f"init_from={path}: fitted and selected on days up to {used}; this run validates from "
            f"{first} on, so its result would not be out of sample"
        )
    facts = load_checkpoint(run.checkpoint("best"), experiment.model, data.panel.factor_names)
    require_same_stocks(facts["tickers"], data.panel.tickers.tolist())
    experiment.embedding = replace(experiment.embedding, last_date=facts["graph_last_date"])
    log.info("starting from the weights of %s, epoch %d", path, facts["epoch"])
    return {"run": str(path.resolve()), "id": facts.get("run", ""), "epoch": facts["epoch"]}
