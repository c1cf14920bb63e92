"""The trivial baselines on the protocol NIFTY-WF: python benchmarks/nifty_wf.py DATA_DIR

For each of the six folds of `experiment=nifty_wf` the data are prepared and the baselines fitted as
a training's closing table does it; the daily rank ICs of all folds are then one series.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir

from stockformer.config import CONFIG_NAME, config_folder
from stockformer.dataset import Data
from stockformer.evaluation.baselines import all_baselines
from stockformer.evaluation.metrics import Predictions, daily
from stockformer.evaluation.statistics import newey_west

FOLDS = 6


def fold(number: int, data_dir: str) -> dict[str, pd.Series]:
    """Daily test rank IC of every baseline."""
    lines = ["experiment=nifty_wf", f"split.fold={number}", f"paths.data_dir={data_dir}"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        data = Data.read(compose(CONFIG_NAME, lines))
    rows, targets, dates = data.split.test, data.targets, data.panel.dates
    shape = targets.valid[rows].shape
    empty = Predictions(
        signal_dates=dates[rows],
        target_start=dates[rows[:, None] + targets.start],
        target_end=dates[rows[:, None] + targets.end],
        tickers=data.panel.tickers,
        prediction=np.zeros(shape),
        probability=np.full(shape, 0.5),
        label=np.where(targets.valid, targets.returns, np.nan)[rows],
        up=targets.up[rows],
        valid=targets.valid[rows],
    )
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
