"""The trivial baselines on the protocol NIFTY-WF: python -m benchmarks.nifty_wf DATA_DIR [--quick]

For each of the six folds of `experiment=nifty_wf` the data are prepared and the baselines fitted as
a training's closing table does it; the daily rank ICs of all folds are then one series. --quick:
one fold, two factors, without LightGBM.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from stockformer.config.hydra_lines import VERSION_BASE
from stockformer.config.schema import CONFIG_NAME, config_folder
from stockformer.data.dataset import Dataset
from stockformer.evaluation.baselines import all_baselines
from stockformer.evaluation.inputs import baseline_inputs
from stockformer.evaluation.predictions import Predictions, daily
from stockformer.evaluation.statistics import newey_west
from stockformer.experiment import read_dataset
from stockformer.training.evaluate import Evaluator
from stockformer.training.processes import Processes

FOLDS = 6
QUICK = "dataset.factors=[KMID,ROC5]"


def read(*overrides: str) -> tuple[DictConfig, Dataset]:
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
        config = compose(CONFIG_NAME, list(overrides))
    return config, read_dataset(config)


def read_fold(number: int, data_dir: str, quick: bool) -> tuple[DictConfig, Dataset]:
    fold = ("experiment=nifty_wf", f"split.fold={number}", f"paths.data_dir={data_dir}")
    return read(*fold, *([QUICK] if quick else []))


def constant_predictions(data: Dataset) -> Predictions:
    """Zero returns on the test dates, which tell the baselines what to forecast."""
    rows = data.split.test
    evaluator = Evaluator(data.panel, data.targets, torch.device("cpu"), Processes())
    shape = data.targets.valid[rows].shape
    return evaluator.predictions(rows, np.zeros(shape), np.full(shape, 0.5))


def daily_rank_ics(data: Dataset, quick: bool) -> dict[str, pd.Series]:
    """Daily test rank IC of every baseline."""
    baselines = all_baselines(
        constant_predictions(data), baseline_inputs(data), with_lightgbm=not quick
    )
    return {name: daily(predictions)["rank_ic"] for name, predictions in baselines.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="The trivial baselines on NIFTY-WF.")
    parser.add_argument("data_dir", help="where nifty200 lies (paths.data_dir)")
    parser.add_argument("--quick", action="store_true", help="one fold, two factors, no LightGBM")
    arguments = parser.parse_args()
    quick, folds = arguments.quick, range(1 if arguments.quick else FOLDS)
    rank_ics = [daily_rank_ics(read_fold(n, arguments.data_dir, quick)[1], quick) for n in folds]
    print(f"{'':18}{'rank IC':>9}{'t':>7}{'dates':>7}")
    for name in rank_ics[0]:
        test = newey_west(pd.concat([fold[name] for fold in rank_ics]), horizon=1)
        print(f"{name:18}{test.mean:+9.4f}{test.t:7.2f}{test.n:7d}")


if __name__ == "__main__":
    main()
