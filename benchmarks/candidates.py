"""What makes forecasts of NIFTY-WF better: python -m benchmarks.candidates DATA_DIR

Starts from attention across stocks (`experiment=nifty_attention`) and changes one thing: the loss,
the inputs, the tasks, the way of averaging, the days it learns from, what it is trained on before,
a teacher, the exposures of its forecasts. The boosted trees (`experiment=nifty_relative`) are
changed in the same way, and last the two are blended. By default on the first three of the six
folds with three seeds (--folds, --seeds; the forecasts of the seeds are averaged; trees have three
seeds of their own). Prints the mean daily rank IC on the test days of these folds, by fold, and the
lead over what was changed, paired by date; nothing is written. --only: these variants. --quick: one
fold, one epoch, two factors.
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
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from benchmarks.nifty_wf import read
from benchmarks.variants import (
    QUICK,
    Forecasts,
    Job,
    Variant,
    forecasts,
    mean,
    parser,
    run,
    show,
    train,
    train_variant,
    wanted,
)
from stockformer.config.schema import config_folder
from stockformer.data.dataset import Dataset
from stockformer.data.factors.cross_section import cross_sectional
from stockformer.data.windows import sliding
from stockformer.evaluation.predictions import Predictions, daily
from stockformer.experiment import Experiment, prepare_dataset, read_panel
from stockformer.interface import Batch, Forecast
from stockformer.models.cross_section import CrossSection
from stockformer.models.lightgbm import LightGBM
from stockformer.models.master import MARKET_STATUS, market_status
from stockformer.models.regression import Boosting, boosted_trees

SEEDS = 3
AVERAGED_EPOCHS = 4  # the last ones; their weights, or forecasts
NASDAQ_EPOCHS = 4  # half of the experiment's, for time
BLOCKS = 4  # of training days; the teacher forecasts each after learning from the others
BLEND_WEIGHTS = np.linspace(0, 1, 5)  # of the first of two blended models
ATTENTION, TREES = ("experiment=nifty_attention",), ("experiment=nifty_relative",)
RANKS = ("processors=rank",)
State = dict[str, Tensor]
Average = Callable[[Experiment, Sequence[State]], Forecasts]


class MarketState(CrossSection):
    """Factors weighted by the market's state as in MASTER, by a sigmoid instead of its softmax."""

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
        self.gate = nn.Linear(MARKET_STATUS, factors)

    def forward(self, batch: Batch) -> Forecast:
        weights = 2 * torch.sigmoid(self.gate(market_status(batch)))  # (B,F), 1 without any effect
        return super().forward(replace(batch, factors=batch.factors * weights[:, None, None]))


def with_rank_inputs(job: Job) -> Forecasts:
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


def averaged_epochs(job: Job, *, how: Average) -> Forecasts:
    """Forecasts from the weights at the end of each of the last epochs."""
    states: list[State] = []
    experiment = Experiment(*job.read(*ATTENTION))
    train(experiment, lambda model: states.append(state_of(model)))
    return how(experiment, states[-AVERAGED_EPOCHS:])


def state_of(model: nn.Module) -> State:
    return copy.deepcopy(model.state_dict())


def mean_weights(experiment: Experiment, states: Sequence[State]) -> Forecasts:
    """Forecasts of one model with the mean of the weights (Izmailov et al., UAI 2018)."""
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


def factors_of_closes() -> str:
    """The factors of NASDAQ-1026, which has closes only."""
    experiment = OmegaConf.load(config_folder() / "experiment" / "nasdaq_attention.yaml")
    return f"dataset.factors=[{','.join(experiment.dataset.factors)}]"


def fine_tuned(job: Job, *, weights: str) -> Forecasts:
    """weights: a folder with those to start from, by seed."""
    experiment = Experiment(*job.read(*ATTENTION, factors_of_closes()))
    experiment.model.load_state_dict(torch.load(Path(weights) / str(job.seed), weights_only=True))
    train(experiment)
    return forecasts(experiment)


def train_on_nasdaq(job: Job, *, into: str) -> None:
    """The weights of attention across the stocks of NASDAQ-1026, trained on 2013 to 2015."""
    torch.set_num_threads(1)
    words = ("experiment=nasdaq_attention", "trainer.device=cpu", f"seed={job.seed}")
    data = (f"paths.data_dir={job.data_dir}", f"trainer.max_epoch={NASDAQ_EPOCHS}")
    experiment = Experiment(*read(*words, *data, *(QUICK if job.quick else ())))
    train(experiment)
    torch.save(state_of(experiment.model), Path(into) / str(job.seed))


def distilled(job: Job) -> Forecasts:
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
    """The z-scores of the two forecasts among the stocks of a date, that of `one` with `weight`."""
    scores = [
        cross_sectional(np.where(each.valid, each.prediction, np.nan), "zscore", axis=2)
        for each in (one, other)
    ]
    mixed = weight * scores[0] + (1 - weight) * scores[1]
    return replace(one, prediction=np.nan_to_num(mixed))


def blend(one: Forecasts, other: Forecasts, *, choose: bool) -> Forecasts:
    """choose: the weight with the best rank IC on the validation days, else equal weights."""
    weight = 0.5
    if choose:
        weight = max(
            BLEND_WEIGHTS,
            key=lambda w: daily(blended(one.validation, other.validation, w))["rank_ic"].mean(),
        )
    parts = ((one.validation, other.validation), (one.test, other.test))
    return Forecasts(*(blended(*pair, weight) for pair in parts))


def attention(*words: str, model: str = "") -> Variant:
    return partial(train_variant, words=(*ATTENTION, *words), model=model)


def trees(*words: str) -> Variant:
    return partial(train_variant, words=(*TREES, *words))


BASE, BASE_TREES, CLOSES = "attention", "trees", "20 factors from closes"
ON_ATTENTION: dict[str, Variant] = {
    "pairwise loss": attention("loss=pairwise"),
    "squared error": attention("loss=squared"),
    "without the second task": attention("loss.classification_weight=0"),
    "five days ahead as tasks": attention("target.horizon=5"),
    "ranks as inputs": attention(*RANKS),
    "z-scores and ranks as inputs": with_rank_inputs,
    "the market's state": attention(
        "dataset.lookback=20", model="benchmarks.candidates.MarketState"
    ),
    "Alpha158 alone": attention("dataset.factors=[alpha158]"),
    "mean of the last weights": partial(averaged_epochs, how=mean_weights),
    "mean of the last forecasts": partial(averaged_epochs, how=mean_forecasts),
    "trained on validation days too": partial(refitted, words=ATTENTION),
    "distilled from trees": distilled,
    "without common factors": attention("neutralise=components"),
    CLOSES: attention(factors_of_closes()),
}
ON_TREES: dict[str, Variant] = {
    "trees on z-scores": trees("processors=robust_daily"),
    "trees without interactions": trees(
        "model.num_leaves=2", "model.n_estimators=600", "model.learning_rate=0.1"
    ),
    "trees on three days": trees("model.days=3", "dataset.lookback=3"),
    "trees on Alpha158 alone": trees("dataset.factors=[alpha158]"),
    "trees on validation days too": partial(refitted, words=TREES),
    "trees without common factors": trees("neutralise=components"),
}
BY_VALIDATION = "attention and trees, by validation"
PRETRAINED = "the same, from NASDAQ's weights"
BLENDS = {
    "attention and trees": (BASE, BASE_TREES),
    BY_VALIDATION: (BASE, BASE_TREES),
    "both on validation days too": (
        "trained on validation days too",
        "trees on validation days too",
    ),
}
VARIANTS = {BASE: attention(), **ON_ATTENTION, BASE_TREES: trees(), **ON_TREES}
NEEDS = {
    **dict.fromkeys((*ON_ATTENTION, BASE_TREES), (BASE,)),
    **dict.fromkeys(ON_TREES, (BASE_TREES,)),
    PRETRAINED: (CLOSES,),
    **BLENDS,
}


def main() -> None:
    every = [*VARIANTS, PRETRAINED, *BLENDS]
    arguments = parser(__doc__.splitlines()[0], every, SEEDS).parse_args()
    names = wanted(arguments, every, NEEDS)
    variants = {name: VARIANTS[name] for name in names if name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        if PRETRAINED in names:
            for seed in range(1 if arguments.quick else arguments.seeds):
                job = Job(0, seed, arguments.data_dir, arguments.quick)
                train_on_nasdaq(job, into=folder)
            variants[PRETRAINED] = partial(fine_tuned, weights=folder)
        found = run(variants, arguments, NEEDS)
    for name in names:
        if name in BLENDS:
            one, other = (found[part] for part in BLENDS[name])
            choose = name == BY_VALIDATION
            found[name] = [blend(*pair, choose=choose) for pair in zip(one, other)]
            show(name, found, NEEDS)


if __name__ == "__main__":
    main()
