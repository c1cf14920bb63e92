"""Which published parts of Stockformer earn their place: python -m benchmarks.ablation DATA_DIR

Trains `model=stockformer_small` on `experiment=nifty_wf` with all its parts, and again without one
of them: the wavelet split (both encoders get the returns as they are), the dual encoder (attention
over days alone, on the returns as they are, and no fusion), the graph, the calendar, the second
task. By default on the first three of the six folds with one seed (--folds, --seeds; the forecasts
of several seeds are averaged). Prints the mean daily rank IC on the test days of these folds, by
fold, and the lead of all parts over each variant, paired by date; nothing is written. DATA_DIR:
paths.data_dir. --quick: one fold, one epoch, two factors, five days.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.nifty_wf import QUICK, read
from stockformer.config.trust import trust
from stockformer.evaluation.predictions import Predictions, daily
from stockformer.evaluation.statistics import newey_west, paired_comparison
from stockformer.experiment import Experiment
from stockformer.interface import Batch, Forecast
from stockformer.models.stockformer import DualEncoderLayer, Stockformer, mix_days
from stockformer.runs.folder import RunDir
from stockformer.training.checkpoint import load_checkpoint
from stockformer.training.tensorboard import TensorBoard

FOLDS, SEEDS, PROCESSES = 3, 1, 2


class WithoutWavelet(Stockformer):
    """Both encoders get the returns as they are."""

    def forward(self, batch: Batch) -> Forecast:
        returns = batch.returns
        return self.forecast(returns, returns, batch.trend, batch.factors, batch.calendar)


class OneEncoder(WithoutWavelet):
    """Attention over days and across stocks alone, without the convolution and the fusion; their
    weights stay unused."""

    def forecast(
        self, low: Tensor, high: Tensor, trend: Tensor, factors: Tensor, calendar: Tensor
    ) -> Forecast:
        time = self.time_embedding(calendar)
        state = self.embed_low(self.window(low, trend, factors))
        for layer in self.layers:
            assert isinstance(layer, DualEncoderLayer)
            state = layer.temporal_low(state, time[: self.lookback])
            state = state + layer.spatial_low(state, self.graph)
        state = mix_days(state, self.days_low) + time[self.lookback :]
        returns = self.head_return.in_full_precision(state).squeeze(-1).transpose(0, 1)
        logits = self.head_class.in_full_precision(state).transpose(0, 1)
        return Forecast(returns=returns, logits=logits, returns_low=returns, logits_low=logits)


# Another class of model, or another setting.
VARIANTS: dict[str, type[Stockformer] | str | None] = {
    "all parts": None,
    "without the wavelet": WithoutWavelet,
    "one encoder, no wavelet": OneEncoder,
    "without the graph": "graph=none",
    "without the calendar": "model.calendar_slots=[1,1]",
    "without the second task": "loss.classification_weight=0",
}


def tested(job: tuple[str, int, int, str, bool]) -> Predictions:
    """The test forecasts of the best epoch of a variant, fold and seed."""
    variant, fold, seed, data_dir, quick = job
    torch.set_num_threads(1)
    changed = VARIANTS[variant]
    words = ["experiment=nifty_wf", "model=stockformer_small", f"split.fold={fold}"]
    words += [f"seed={seed}", f"paths.data_dir={data_dir}", "trainer.device=cpu"]
    words += [QUICK, "trainer.max_epoch=1", "dataset.lookback=5"] if quick else []
    config, data = read(*words, *([changed] if isinstance(changed, str) else []))
    if isinstance(changed, type):  # a command line cannot name a class
        trust(["benchmarks"])
        config.model["_target_"] = f"benchmarks.ablation.{changed.__name__}"
    experiment = Experiment(config, data)
    with (
        tempfile.TemporaryDirectory() as folder,
        RunDir.claim(Path(folder) / "run") as run,
        TensorBoard(run.tensorboard_folder) as tensorboard,
    ):
        trainer = experiment.trainer(run, tensorboard)
        trainer.fit(experiment.loader("train"), experiment.loader("validation"))
        load_checkpoint(run.checkpoint("best"), experiment.model, data.panel.factor_names)
        return experiment.evaluate_part("test").predictions


def rank_ic_of(runs: list[Predictions]) -> pd.Series:
    """By date, of the mean of the seeds' forecasts on one fold."""
    mean = np.mean([run.prediction for run in runs], axis=0)
    return daily(replace(runs[0], prediction=mean))["rank_ic"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", help="where nifty200 lies (paths.data_dir)")
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--quick", action="store_true", help="one fold, one epoch, two factors")
    arguments = parser.parse_args()
    folds, seeds = (1, 1) if arguments.quick else (arguments.folds, arguments.seeds)
    jobs = list(product(VARIANTS, range(folds), range(seeds)))
    full = [(*job, arguments.data_dir, arguments.quick) for job in jobs]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        found = dict(zip(jobs, pool.map(tested, full)))
    print(f"model=stockformer_small, folds 0 to {folds - 1} of NIFTY-WF, seeds 0 to {seeds - 1}")
    print(f"{'':26}{'rank IC':>9}{'t':>7}{'lead of all parts':>17}{'t':>7}{'p':>7}  by fold")
    whole: pd.Series | None = None
    for variant in VARIANTS:
        by_fold = [
            rank_ic_of([found[variant, fold, seed] for seed in range(seeds)])
            for fold in range(folds)
        ]
        rank_ic = pd.concat(by_fold)
        test, said = newey_west(rank_ic, horizon=1), f"{'':31}"
        if whole is None:
            whole = rank_ic
        else:
            lead = paired_comparison(whole, rank_ic, horizon=1)
            said = f"{lead.mean:+17.4f}{lead.t:7.2f}{lead.p:7.3f}"
        means = " ".join(f"{fold.mean():+.3f}" for fold in by_fold)
        print(f"{variant:26}{test.mean:+9.4f}{test.t:7.2f}{said}  {means}")


if __name__ == "__main__":
    main()
