"""What makes forecasts of NIFTY-WF better: python -m benchmarks.candidates DATA_DIR

Starts from attention across stocks (`experiment=nifty_attention`) and changes one thing: the loss,
the inputs, the tasks, the way of averaging, the days it learns from, what it is trained on before,
a teacher. The boosted trees (`experiment=nifty_relative`) are changed in the same way, and last the
two are blended. By default on the first three of the six folds with three seeds (--folds, --seeds;
the forecasts of the seeds are averaged; trees have three seeds of their own). Prints the mean daily
rank IC on the test days of these folds, by fold, and the lead over the first variant, paired by
date; nothing is written. --only: these variants. --quick: one fold, one epoch, two factors.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks.nifty_wf import read
from benchmarks.variants import (
    Forecasts,
    Job,
    Variant,
    forecasts,
    mean,
    parser,
    plain,
    run,
    show,
    train,
)
from stockformer.data.dataset import Dataset
from stockformer.data.factors.cross_section import cross_sectional
from stockformer.data.windows import sliding
from stockformer.evaluation.predictions import Predictions, daily
from stockformer.experiment import Experiment, prepare_dataset, read_panel
from stockformer.interface import Batch, Forecast
from stockformer.models.cross_section import CrossSection
from stockformer.models.lightgbm import LightGBM
from stockformer.models.regression import Boosting, boosted_trees

SEEDS = 3
LAST = 4  # epochs whose weights, or forecasts, are averaged
BLOCKS = 4  # of training days; the teacher forecasts each after learning from the others
WEIGHTS = np.linspace(0, 1, 5)  # of the first of two blended models
ATTENTION, TREES = ("experiment=nifty_attention",), ("experiment=nifty_relative",)
RANKS = ("processors=rank",)
CLOSES = "RES1,RES2,RES3,RES5,RES10,RES20,PEER1,PEER5,MOM60,MOM120,MOM240,RESMOM60,RESMOM120"
CLOSES += ",RESMOM240,TOHIGH60,TOHIGH120,TOHIGH240,MBETA60,IVOL20,IVOL60"  # need closes only
State = dict[str, Tensor]


class MarketState(CrossSection):
    """Factors weighted by the market's state, as in MASTER (Li et al. 2024): mean and deviation
    over the stocks of the return of 1, 5 and 20 days."""

    DAYS = (1, 5, 20)

    def __init__(
        self, *, width: int, layers: int, heads: int, dropout: float, horizon: int, factors: int
    ) -> None:
        super().__init__(
            width=width,
            layers=layers,
            heads=heads,
            dropout=dropout,
            horizon=horizon,
            factors=factors,
        )
        self.gate = nn.Linear(2 * len(self.DAYS), factors)

    def forward(self, batch: Batch) -> Forecast:
        spans = [100 * batch.returns[:, -days:].sum(dim=1) / days**0.5 for days in self.DAYS]
        state = torch.stack([each(dim=1) for x in spans for each in (x.mean, x.std)], dim=-1)
        weights = 2 * torch.sigmoid(self.gate(state))  # (B,F), 1 without any effect
        return super().forward(replace(batch, factors=batch.factors * weights[:, None, None]))


def ranks_too(job: Job) -> Forecasts:
    """Each factor as it comes, and as its rank among the stocks of the day."""
    (config, data), (_, ranked) = (job.read(*ATTENTION, *more) for more in ((), RANKS))
    names = data.panel.factor_names
    both = data.panel.with_factors(
        np.concatenate([data.panel.factors, ranked.panel.factors], axis=-1),
        (*names, *(f"rank of {name}" for name in names)),
    )
    windows = copy.copy(data.windows)
    windows.factors = sliding(torch.from_numpy(both.factors), config.dataset.lookback)
    experiment = Experiment(config, replace(data, panel=both, windows=windows))
    train(experiment)
    return forecasts(experiment)


def averaged(job: Job, *, how: Callable[[Experiment, Sequence[State]], Forecasts]) -> Forecasts:
    """From the weights at the end of each of the last epochs."""
    states: list[State] = []
    experiment = Experiment(*job.read(*ATTENTION))
    train(experiment, lambda model: states.append(state_of(model)))
    return how(experiment, states[-LAST:])


def state_of(model: nn.Module) -> State:
    return copy.deepcopy(model.state_dict())


def mean_weights(experiment: Experiment, states: Sequence[State]) -> Forecasts:
    """Of one model with the mean of the weights (Izmailov et al., UAI 2018)."""
    means = {name: torch.stack([each[name] for each in states]).mean(0) for name in states[0]}
    experiment.model.load_state_dict(means)
    return forecasts(experiment)


def mean_forecasts(experiment: Experiment, states: Sequence[State]) -> Forecasts:
    """The mean of the forecasts of all (Huang et al., ICLR 2017, without their restarts)."""
    found = []
    for state in states:
        experiment.model.load_state_dict(state)
        found.append(forecasts(experiment))
    return mean(found)


def refitted(job: Job, *, words: Sequence[str]) -> Forecasts:
    """Chosen on the validation days, then trained again on them as well, for as many epochs, or
    with as many trees."""
    config, data = job.read(*words)
    first = Experiment(config, data)
    epoch = train(first)
    if isinstance(first.model, LightGBM):
        config.model.n_estimators, config.model.choices = int(first.model.used), 1
    else:
        config.scheduler.T_max = config.trainer.max_epoch
        config.trainer.max_epoch = epoch
    days = np.arange(data.split.train[0], data.split.validation[-1] + 1)
    again = prepare_dataset(config, read_panel(config), replace(data.split, train=days))
    second, states = Experiment(config, again), list[State]()
    train(second, lambda model: states.append(state_of(model)))
    second.model.load_state_dict(states[-1])
    return replace(forecasts(first), test=forecasts(second).test)


def from_closes(*, quick: bool) -> str:
    return f"dataset.factors=[{'RES1,PEER5' if quick else CLOSES}]"


def closes_alone(job: Job, *, weights: str = "") -> Forecasts:
    """The factors that need closes only. weights: a folder with weights to start from, by seed."""
    experiment = Experiment(*job.read(*ATTENTION, from_closes(quick=job.quick)))
    if weights:
        state = torch.load(Path(weights) / str(job.seed), weights_only=True)
        experiment.model.load_state_dict(state)
    train(experiment)
    return forecasts(experiment)


def train_on_nasdaq(job: Job, *, into: str) -> None:
    """The weights of attention across the stocks of NASDAQ-1026, trained on 2013 to 2015."""
    words = ("experiment=nasdaq_attention", "trainer.device=cpu", f"seed={job.seed}")
    data = (f"paths.data_dir={job.data_dir}", from_closes(quick=job.quick))
    epochs = f"trainer.max_epoch={1 if job.quick else 4}"
    experiment = Experiment(*read(*words, *data, epochs))
    train(experiment)
    torch.save(state_of(experiment.model), Path(into) / str(job.seed))


def taught(job: Job) -> Forecasts:
    """Half of the target is the forecast of boosted trees that have not seen the day (Hinton,
    Vinyals and Dean 2015)."""
    config, data = job.read(*ATTENTION)
    values = data.targets.values.copy()
    days = data.split.train
    teacher = teacher_forecasts(*job.read(*TREES))
    values[days, 0] = (values[days, 0] + np.nan_to_num(teacher[days])) / 2
    windows = copy.copy(data.windows)
    windows.target = torch.from_numpy(values)
    experiment = Experiment(config, replace(data, windows=windows))
    train(experiment)
    return forecasts(experiment)


def teacher_forecasts(config: DictConfig, data: Dataset) -> np.ndarray:
    """(T, N) in ranks of unit deviation; NaN outside the training days."""
    settings = Boosting(**{each.name: config.model[each.name] for each in fields(Boosting)})
    inputs, target, valid = data.panel.factors, data.targets.values[:, 0], data.targets.valid[:, 0]
    found = np.full(target.shape, np.nan)
    for block in np.array_split(data.split.train, BLOCKS):
        near = np.arange(block[0] - data.targets.span, block[-1] + data.targets.span + 1)
        days = np.setdiff1d(data.split.train, near)
        known = valid[days]
        trees = boosted_trees(inputs[days][known], target[days][known], settings, config.seed)
        rows = inputs[block].reshape(-1, inputs.shape[-1])
        found[block] = np.asarray(trees.predict(rows)).reshape(len(block), -1)
    return cross_sectional(np.where(valid, found, np.nan), "rank", axis=1)


def blended(one: Predictions, other: Predictions, weight: float) -> Predictions:
    """The ranks of the two forecasts among the stocks of a date, that of `one` with `weight`."""
    ranks = [
        cross_sectional(np.where(each.valid, each.prediction, np.nan), "rank", axis=2)
        for each in (one, other)
    ]
    mixed = weight * ranks[0] + (1 - weight) * ranks[1]
    return replace(one, prediction=np.nan_to_num(mixed))


def blend(one: Forecasts, other: Forecasts, *, choose: bool) -> Forecasts:
    """choose: the weight with the best rank IC on the validation days, else equal weights."""
    weight = 0.5
    if choose:
        weight = max(
            WEIGHTS,
            key=lambda w: daily(blended(one.validation, other.validation, w))["rank_ic"].mean(),
        )
    parts = ((one.validation, other.validation), (one.test, other.test))
    return Forecasts(*(blended(*pair, weight) for pair in parts))


def attention(*words: str, model: str = "") -> Variant:
    return partial(plain, words=(*ATTENTION, *words), model=model)


def trees(*words: str) -> Variant:
    return partial(plain, words=(*TREES, *words))


MARKET_STATE = "benchmarks.candidates.MarketState"
PRETRAINED = "the same, from NASDAQ's weights"
VARIANTS: dict[str, Variant] = {
    "attention": attention(),
    "pairwise loss": attention("loss=pairwise"),
    "squared error": attention("loss=squared"),
    "without the second task": attention("loss.classification_weight=0"),
    "five days ahead as tasks": attention("target.horizon=5"),
    "ranks as inputs": attention(*RANKS),
    "z-scores and ranks as inputs": ranks_too,
    "the market's state": attention("dataset.lookback=20", model=MARKET_STATE),
    "Alpha158 alone": attention("dataset.factors=[alpha158]"),
    "mean of the last weights": partial(averaged, how=mean_weights),
    "mean of the last forecasts": partial(averaged, how=mean_forecasts),
    "trained on validation days too": partial(refitted, words=ATTENTION),
    "taught by trees": taught,
    "20 factors from closes": closes_alone,
    PRETRAINED: closes_alone,  # main() names the folder of the weights
    "trees": trees(),
    "trees on z-scores": trees("processors=robust_daily"),
    "trees without interactions": trees(
        "model.num_leaves=2", "model.n_estimators=600", "model.learning_rate=0.1"
    ),
    "trees on three days": trees("model.days=3", "dataset.lookback=3"),
    "trees on validation days too": partial(refitted, words=TREES),
}
BLENDS = {
    "attention and trees": ("attention", "trees", False),
    "attention and trees, by validation": ("attention", "trees", True),
    "both on validation days too": (
        "trained on validation days too",
        "trees on validation days too",
        False,
    ),
}


def main() -> None:
    arguments = parser(__doc__.splitlines()[0], SEEDS).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        variants = VARIANTS | {PRETRAINED: partial(closes_alone, weights=folder)}
        if PRETRAINED in (arguments.only or VARIANTS):
            for seed in range(1 if arguments.quick else arguments.seeds):
                job = Job(0, seed, arguments.data_dir, arguments.quick)
                train_on_nasdaq(job, into=folder)
        found = run(variants, arguments)
    for name, (one, other, choose) in BLENDS.items():
        if one in found and other in found:
            pairs = zip(found[one], found[other])
            found[name] = [blend(*pair, choose=choose) for pair in pairs]
            show(name, found)


if __name__ == "__main__":
    main()
