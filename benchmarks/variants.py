"""Variants of a training on the first folds of NIFTY-WF, each compared with what it varies.

What the scripts that list variants share. A variant is a function from a `Job`, a fold and a seed,
to the forecasts of that fold's validation and test days. The seeds' forecasts are averaged; the
daily rank ICs of the folds' test days are one series, paired by date with another variant's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from torch import nn

from benchmarks.nifty_wf import read
from stockformer.config.trust import trust
from stockformer.data.dataset import Dataset
from stockformer.evaluation.predictions import Predictions, daily
from stockformer.evaluation.statistics import newey_west, paired_comparison
from stockformer.experiment import Experiment
from stockformer.runs.folder import RunDir
from stockformer.training.checkpoint import load_checkpoint
from stockformer.training.tensorboard import TensorBoard

FOLDS, PROCESSES = 3, 2
QUICK = ("trainer.max_epoch=1", "dataset.lookback=5", "dataset.factors=[RES1,PEER5]")


@dataclass(frozen=True)
class Job:
    """One training. data_dir: paths.data_dir; quick: with the settings `QUICK`."""

    fold: int
    seed: int
    data_dir: str
    quick: bool

    def read(self, *words: str) -> tuple[DictConfig, Dataset]:
        """The configuration of these words on this fold with this seed, and its data."""
        torch.set_num_threads(1)
        own = (f"split.fold={self.fold}", f"paths.data_dir={self.data_dir}", f"seed={self.seed}")
        return read(*words, *own, "trainer.device=cpu", *(QUICK if self.quick else ()))


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of the first step of the horizon."""

    validation: Predictions
    test: Predictions


Variant = Callable[[Job], Forecasts]
FoldForecasts = dict[str, list[Forecasts]]
"""For each variant the seeds' mean forecasts, by fold."""
Needs = Mapping[str, Sequence[str]]
"""The variants that others need: the first is the one that a variant's lead is over."""


def train(experiment: Experiment, each_epoch: Callable[[nn.Module], None] | None = None) -> int:
    """Train the experiment's model, and give it the weights of its best epoch; that epoch's number.

    each_epoch: called with the model at the end of each.
    """
    model, loaders = experiment.model, map(experiment.loader, ("train", "validation"))

    def after_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        if each_epoch is not None:
            each_epoch(model)

    with (
        tempfile.TemporaryDirectory() as folder,
        RunDir.claim(Path(folder) / "run") as run,
        TensorBoard(run.tensorboard_folder) as tensorboard,
    ):
        experiment.build_trainer(run, tensorboard, after_epoch).fit(*loaders)
        names = experiment.data.panel.factor_names
        return int(load_checkpoint(run.checkpoint("best"), model, names)["epoch"])


def forecasts(experiment: Experiment) -> Forecasts:
    """Forecasts of the experiment's model with its present weights."""
    validation, test = (
        experiment.evaluate_part(part).predictions.step(1) for part in ("validation", "test")
    )
    return Forecasts(validation, test)


def train_variant(job: Job, *, words: Sequence[str], model: str = "") -> Forecasts:
    """A training with these words. model: a class of the benchmarks, by its dotted name."""
    config, data = job.read(*words)
    if model:  # a command line cannot name it
        trust(["benchmarks"])
        config.model["_target_"] = model
    experiment = Experiment(config, data)
    train(experiment)
    return forecasts(experiment)


def mean(several: Sequence[Forecasts]) -> Forecasts:
    """The mean of forecasts on the same days."""
    first = several[0]
    parts = {
        part: replace(
            getattr(first, part),
            prediction=np.mean([getattr(each, part).prediction for each in several], axis=0),
        )
        for part in ("validation", "test")
    }
    return Forecasts(**parts)


def wanted(arguments: argparse.Namespace, names: Iterable[str], needs: Needs) -> list[str]:
    """The names that the command line asks for, with what they need, in the order of `names`.

    Raises SystemExit if there is no folder of data to train them on.
    """
    if not Path(arguments.data_dir).is_dir():
        raise SystemExit(f"error: {arguments.data_dir}: no such folder")
    found = set(arguments.only or names)
    while more := {each for name in found for each in needs.get(name, ())} - found:
        found |= more
    return [name for name in names if name in found]


def run(
    variants: Mapping[str, Variant], arguments: argparse.Namespace, needs: Needs
) -> FoldForecasts:
    """Train every variant on every fold with every seed; shows a variant when it is trained."""
    folds, seeds = (1, 1) if arguments.quick else (arguments.folds, arguments.seeds)
    jobs = [
        Job(fold, seed, arguments.data_dir, arguments.quick)
        for fold, seed in product(range(folds), range(seeds))
    ]
    what = "; QUICK, no result: " + " ".join(QUICK) if arguments.quick else ""
    print(f"folds 0 to {folds - 1} of NIFTY-WF, seeds 0 to {seeds - 1}{what}")
    print(f"{'':36}{'rank IC':>9}{'t':>7}{'lead':>9}{'t':>7}{'p':>7}  by fold (lead over)")
    found: FoldForecasts = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        waiting = {name: pool.map(each, jobs) for name, each in variants.items()}
        for name, results in waiting.items():
            done = list(results)
            found[name] = [mean(done[i : i + seeds]) for i in range(0, len(done), seeds)]
            show(name, found, needs)
    return found


def show(name: str, found: FoldForecasts, needs: Needs) -> None:
    """The variant's row, with its lead over the variant that it varies, paired by date."""
    by_fold = [daily(each.test)["rank_ic"] for each in found[name]]
    rank_ic = pd.concat(by_fold)
    test, lead_words, over = newey_west(rank_ic, horizon=1), " " * 23, ""
    if name in needs:
        base = pd.concat([daily(each.test)["rank_ic"] for each in found[needs[name][0]]])
        lead, over = paired_comparison(rank_ic, base, horizon=1), f" ({needs[name][0]})"
        lead_words = f"{lead.mean:+9.4f}{lead.t:7.2f}{lead.p:7.3f}"
    means = " ".join(f"{fold.mean():+.3f}" for fold in by_fold)
    print(f"{name:36}{test.mean:+9.4f}{test.t:7.2f}{lead_words}  {means}{over}", flush=True)


def parser(description: str, names: Sequence[str], seeds: int) -> argparse.ArgumentParser:
    """The command line of a script that lists variants."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("data_dir", help="where the data sets lie (paths.data_dir)")
    found.add_argument("--folds", type=int, default=FOLDS)
    found.add_argument("--seeds", type=int, default=seeds)
    found.add_argument(
        "--only", nargs="+", metavar="VARIANT", choices=names, help="these, and what they vary"
    )
    found.add_argument("--quick", action="store_true", help="one fold, epoch and seed, two factors")
    return found
