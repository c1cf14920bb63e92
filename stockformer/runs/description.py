"""Description of a run: its manifest, the log lines at its start, and comparisons of manifests."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from torch import nn

from stockformer.data.reading.quality import Report
from stockformer.models.tabular import Tabular
from stockformer.training.estimate import gib, machine_memory

if TYPE_CHECKING:
    from stockformer.experiment import Experiment

log = logging.getLogger(__name__)

LOOP_ONLY = (
    *("loss", "optimizer", "scheduler"),
    *(f"trainer.{name}" for name in ("max_epoch", "micro_batch_size", "gradient_clip_norm")),
    *(f"trainer.{name}" for name in ("early_stopping", "on_nonfinite", "skip_limit", "keep")),
)
"""Keys, or how they begin, of what changes nothing in a model that is fitted at once."""


def manifest(experiment: Experiment) -> dict[str, Any]:
    """Where a run comes from, so that runs can be compared."""
    config, data = experiment.config, experiment.data
    panel, span = data.panel, data.targets.span
    files = {**panel.sources, **experiment.embedding.sources}
    # A simulated market has no files: its settings define it.
    identity = json.dumps(files, sort_keys=True) + OmegaConf.to_yaml(
        config.dataset.source if not files else {}
    )
    packages = ("torch", "numpy", "pandas", "hydra-core", "omegaconf", "scikit-learn")
    return {
        "kind": "run",  # an evaluation elsewhere and an ensemble write similar folders
        "versions": {name: importlib.metadata.version(name) for name in packages}
        | {"python": platform.python_version()},
        "platform": platform.platform(),
        "dataset": data.name,
        "device": str(experiment.device),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
        "seed": config.seed,
        "tags": list(config.tags),
        "data_hash": hashlib.sha256(identity.encode()).hexdigest(),
        "files": files,
        "warnings": list(data.notes),
        "split": {
            name: {
                "samples": len(signals),
                "first_signal_date": str(panel.dates[signals[0]]),
                "last_signal_date": str(panel.dates[signals[-1]]),
                "last_target_date": str(panel.dates[signals[-1] + span]),
            }
            for name, signals in data.split.parts().items()
        },
    } | experiment.checkpoint_facts()


def log_description(experiment: Experiment, report: Report, overrides: Sequence[str]) -> None:
    """Log a description of the run before it is trained. overrides: of its command line."""
    config, data = experiment.config, experiment.data
    dates, (days, stocks, factors) = data.panel.dates, data.panel.factors.shape
    log.info(
        "%s: %d stocks, %d factors, %d days, %s to %s",
        data.name,
        stocks,
        factors,
        days,
        dates[0],
        dates[-1],
    )
    data.log_findings(report)
    for name, signals in data.split.parts().items():
        first, last = dates[signals[0]], dates[signals[-1]]
        log.info("%-10s %4d samples, signal dates %s to %s", name, len(signals), first, last)
    log.info("model: %s on %s", size_of(experiment.model), experiment.device)
    log.info("memory: %s; this machine has %s", experiment.memory, gib(machine_memory()))
    warn_of_loop_settings(experiment, overrides)
    if isinstance(experiment.model, Tabular):
        return
    settings = config.trainer
    patience = {"early stopping": settings.early_stopping.patience}
    if "patience" in config.scheduler:
        patience["the learning-rate plateau"] = config.scheduler.patience
    for name, epochs in patience.items():
        if epochs >= settings.max_epoch:
            log.info(
                "%s (patience %d) cannot trigger within %d epochs",
                name,
                epochs,
                settings.max_epoch,
            )


def warn_of_loop_settings(experiment: Experiment, overrides: Sequence[str]) -> None:
    """Warn of overrides that change nothing because the model is fitted at once."""
    if not isinstance(experiment.model, Tabular):
        return
    keys = [word.lstrip("+~").partition("=")[0] for word in overrides]
    by_loss = experiment.config.trainer.monitor == "loss"  # it chooses among the candidates
    unused = [k for k in keys if k.startswith(LOOP_ONLY) and not (by_loss and k.startswith("loss"))]
    if unused:
        log.warning(
            "%s: no effect, %s is fitted at once, without a training loop",
            ", ".join(unused),
            type(experiment.model).__name__,
        )


def size_of(model: nn.Module) -> str:
    """In words, for the log."""
    if isinstance(model, Tabular):
        return f"{type(model).__name__}, fitted at once,"
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"


def require_same_data(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ValueError if a resumed run would continue with other data."""
    for name, digest in recorded["files"].items():
        if now["files"].get(name) != digest:
            raise ValueError(f"{name}: not the file that this run started with; start a new run")
    for key in ("data_hash", "split", "factor_names", "tickers"):
        if now[key] != recorded[key]:
            raise ValueError(f"{key} has changed since this run started; start a new run")
    for key in ("threads", "versions"):
        if now[key] != recorded[key]:
            log.warning(
                "%s: %s when the run started, now %s: it continues, but not bit for bit",
                key,
                recorded[key],
                now[key],
            )


def last_day_used(parts: Mapping[str, Mapping[str, str]]) -> str:
    """The last day that a run was fitted on or selected by, of the split in its manifest."""
    return max(parts[name]["last_target_date"] for name in ("train", "validation"))


def same_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two manifests have the same files or, for simulated markets, the same settings.

    A file that only one has read, such as a graph's, is ignored.
    """
    files, others = then["files"], now["files"]
    if not files or not others:
        return bool(then["data_hash"] == now["data_hash"])
    return all(others.get(name, digest) == digest for name, digest in files.items())


def git_commit() -> str:
    """The commit of the code, with `+changes` if the checkout is not clean."""
    folder = Path(__file__).parent
    commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        commit, changes = (
            subprocess.run(["git", *c], cwd=folder, capture_output=True, check=True).stdout.decode(
                errors="replace"
            )
            for c in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return commit.strip() + ("+changes" if changes.strip() else "")
