"""The trivial baselines on the protocol NIFTY-WF: python benchmarks/nifty_wf.py DATA_DIR

For each of the six folds of `experiment=nifty_wf` the data are prepared and the baselines fitted as
a training's closing table does it; the daily rank ICs of all folds are then one series.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir

from stockformer.config.schema import CONFIG_NAME, config_folder
from stockformer.data.dataset import Data
from stockformer.evaluation.baselines import all_baselines
from stockformer.evaluation.metrics import daily
from stockformer.evaluation.statistics import newey_west
from stockformer.training.evaluate import Evaluator
from stockformer.training.processes import Processes

FOLDS = 6


def fold(number: int, data_dir: str) -> dict[str, pd.Series]:
    """Daily test rank IC of every baseline."""
    lines = ["experiment=nifty_wf", f"split.fold={number}", f"paths.data_dir={data_dir}"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        data = Data.read(compose(CONFIG_NAME, lines))
    rows = data.split.test
    evaluator = Evaluator(data.panel, data.targets, torch.device("cpu"), Processes())
    shape = data.targets.valid[rows].shape
    empty = evaluator.predictions(rows, np.zeros(shape), np.full(shape, 0.5))
    baselines = all_baselines(empty, data.history())
    return {name: daily(p)["rank_ic"] for name, p in baselines.items()}


def main() -> None:
    folds = [fold(number, sys.argv[1]) for number in range(FOLDS)]
    print(f"{'':18}{'rank IC':>9}{'t':>7}{'dates':>7}")
    for name in folds[0]:
        series = pd.concat([f[name] for f in folds])
        test = newey_west(series, horizon=1)
        print(f"{name:18}{test.mean:+9.4f}{test.t:7.2f}{test.n:7d}")


if __name__ == "__main__":
    main()
