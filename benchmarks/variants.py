"""Variants of a training on the first folds of NIFTY-WF, each compared with the first one.

What the scripts that list variants share. A variant is a function from a `Job`, a fold and a seed,
to the forecasts of that fold's validation and test days. The seeds' forecasts are averaged; the
daily rank ICs of the folds' test days are one series, paired by date with the first variant's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from torch import nn

from benchmarks.nifty_wf import QUICK, read
from stockformer.config.trust import trust
from stockformer.data.dataset import Dataset
from stockformer.evaluation.predictions import Predictions, daily
from stockformer.evaluation.statistics import newey_west, paired_comparison
from stockformer.experiment import Experiment
from stockformer.runs.folder import RunDir
from stockformer.training.checkpoint import load_checkpoint
from stockformer.training.tensorboard import TensorBoard

FOLDS, PROCESSES = 3, 2


@dataclass(frozen=True)
class Job:
    """One training. data_dir: paths.data_dir; quick: one epoch, two factors, five days."""

    fold: int
    seed: int
    data_dir: str
    quick: bool

    def read(self, *words: str) -> tuple[DictConfig, Dataset]:
        """The configuration of these words on this fold with this seed, and its data."""
        torch.set_num_threads(1)
        quick = ("trainer.max_epoch=1", "dataset.lookback=5", QUICK) if self.quick else ()
        where = (f"split.fold={self.fold}", f"paths.data_dir={self.data_dir}")
        return read(*quick, *where, f"seed={self.seed}", "trainer.device=cpu", *words)


@dataclass(frozen=True)
class Forecasts:
    """Of the first step of the horizon."""

    validation: Predictions
    test: Predictions


Variant = Callable[[Job], Forecasts]
Found = dict[str, list[Forecasts]]
"""For each variant the seeds' mean forecasts, by fold."""


def train(experiment: Experiment, each_epoch: Callable[[nn.Module], None] | None = None) -> int:
    """Train the experiment's model; it then has the weights of its best epoch, which is returned.

    each_epoch: called with the model at the end of each.
    """
    model, days = experiment.model, map(experiment.loader, ("train", "validation"))

    def after_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        if each_epoch is not None:
            each_epoch(model)

    with (
        tempfile.TemporaryDirectory() as folder,
        RunDir.claim(Path(folder) / "run") as run,
        TensorBoard(run.tensorboard_folder) as tensorboard,
    ):
        experiment.loop(run, tensorboard, after_epoch).fit(*days)
        names = experiment.data.panel.factor_names
        return int(load_checkpoint(run.checkpoint("best"), model, names)["epoch"])


def forecasts(experiment: Experiment) -> Forecasts:
    """Of the model as it is."""
    validation, test = (
        experiment.evaluate_part(part).predictions.step(1) for part in ("validation", "test")
    )
    return Forecasts(validation, test)


def plain(job: Job, *, words: Sequence[str], model: str = "") -> Forecasts:
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


def run(variants: Mapping[str, Variant], arguments: argparse.Namespace) -> Found:
    """Train every variant on every fold with every seed; shows a variant when it is trained."""
    folds, seeds = (1, 1) if arguments.quick else (arguments.folds, arguments.seeds)
    chosen = {name: each for name, each in variants.items() if name in (arguments.only or variants)}
    jobs = [
        Job(fold, seed, arguments.data_dir, arguments.quick)
        for fold, seed in product(range(folds), range(seeds))
    ]
    print(f"folds 0 to {folds - 1} of NIFTY-WF, seeds 0 to {seeds - 1}")
    print(f"{'':36}{'rank IC':>9}{'t':>7}{'lead over the first':>21}{'t':>7}{'p':>7}  by fold")
    found: Found = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        waiting = {name: pool.map(each, jobs) for name, each in chosen.items()}
        for name, results in waiting.items():
            done = list(results)
            found[name] = [mean(done[i : i + seeds]) for i in range(0, len(done), seeds)]
            show(name, found)
    return found


def show(name: str, found: Found) -> None:
    """The variant's row, with its lead over the first variant, paired by date."""
    by_fold = [daily(each.test)["rank_ic"] for each in found[name]]
    rank_ic, first = pd.concat(by_fold), next(iter(found))
    test, lead_words = newey_west(rank_ic, horizon=1), " " * 35
    if name != first:
        base = pd.concat([daily(each.test)["rank_ic"] for each in found[first]])
        lead = paired_comparison(rank_ic, base, horizon=1)
        lead_words = f"{lead.mean:+21.4f}{lead.t:7.2f}{lead.p:7.3f}"
    means = " ".join(f"{fold.mean():+.3f}" for fold in by_fold)
    print(f"{name:36}{test.mean:+9.4f}{test.t:7.2f}{lead_words}  {means}", flush=True)


def parser(description: str, seeds: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("data_dir", help="where the data sets lie (paths.data_dir)")
    made.add_argument("--folds", type=int, default=FOLDS)
    made.add_argument("--seeds", type=int, default=seeds)
    made.add_argument("--only", nargs="+", metavar="VARIANT", help="these, the first one included")
    made.add_argument("--quick", action="store_true", help="one fold, one epoch, two factors")
    return made
