"""How long an evaluation takes: python benchmarks/evaluation.py [--quick]

Evaluates random forecasts as train.py evaluates a finished run: metrics, statistics, baselines
(but LightGBM) on 22 factors, and the backtest with its variants. Small: 60 test days x 200 stocks
after 440 training days; large: 1,250 x 1,000 after 500. Each in a process of its own, for its peak
memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from typing import cast

import numpy as np
from omegaconf import DictConfig, OmegaConf

from stockformer.config.schema import config_folder
from stockformer.evaluation.baselines import BaselineInputs, all_baselines
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.record import EvaluationRecord
from stockformer.evaluation.summary import summarise
from stockformer.evaluation.trading import BacktestSpec, market_of_prices
from stockformer.experiment import backtest_settings

BACKTEST = config_folder() / "backtest" / "default.yaml"
FACTORS = 22
# Training days, test days, stocks.
SIZES = {"quick": (100, 30, 50), "small": (440, 60, 200), "large": (500, 1250, 1000)}
TARGETS = {"quick": (5.0, 2.0), "small": (5.0, 2.0), "large": (60.0, 2.0)}  # seconds, GiB


def material(
    train: int, test: int, stocks: int
) -> tuple[Predictions, BaselineInputs, BacktestSpec]:
    """Random prices and factors, and forecasts with a little skill."""
    random = np.random.default_rng(0)
    days = train + test + 2
    dates = np.datetime64("2015-01-01") + np.arange(days)
    tickers = np.array([f"S{stock:04d}" for stock in range(stocks)])
    returns = random.normal(0, 0.02, (days, stocks))
    returns[random.random(returns.shape) < 0.01] = np.nan
    label = np.full((days, 1, stocks), np.nan)
    label[:-1, 0] = returns[1:]
    valid = np.isfinite(label)
    rows = np.arange(train, train + test)
    forecast = 0.05 * np.nan_to_num(label[rows]) + random.normal(0, 0.02, (test, 1, stocks))
    predictions = Predictions(
        signal_dates=dates[rows],
        target_start=dates[rows][:, None],
        target_end=dates[rows + 1][:, None],
        tickers=tickers,
        prediction=forecast,
        probability=1 / (1 + np.exp(-50 * forecast)),
        label=label[rows],
        up=np.nan_to_num(label[rows]) > 0,
        valid=valid[rows],
    )
    history = BaselineInputs(
        dates=dates,
        tickers=tickers,
        returns=returns,
        factors=random.standard_normal((days, stocks, FACTORS), dtype=np.float32),
        label=label,
        up=np.nan_to_num(label) > 0,
        valid=valid,
        training_days=np.arange(20, train - 1),
    )
    close = 100 * np.cumprod(1 + np.nan_to_num(returns), axis=0)
    close[np.isnan(returns)] = np.nan
    prices = {"close": close, "high": close * 1.01, "low": close * 0.99}
    prices["volume"] = np.full_like(close, 1e6)
    market = market_of_prices(dates, tickers, prices, fill="close", tradable=np.isfinite(close))
    sectors = np.array([f"sector {stock % 12}" for stock in range(stocks)])
    settings = backtest_settings(cast(DictConfig, OmegaConf.load(BACKTEST)), stocks)
    trading = BacktestSpec(
        market, settings, start_offsets=20, participation_rate=0.05, sectors=sectors
    )
    return predictions, history, trading


def evaluated(
    predictions: Predictions, history: BaselineInputs, trading: BacktestSpec
) -> EvaluationRecord:
    baselines = all_baselines(predictions, history, with_lightgbm=False)
    return summarise(predictions, baselines, trading=trading, notes=())


def measure(size: str) -> None:
    """Print seconds and GiB of one evaluation in this process."""
    given = material(*SIZES[size])
    started = time.perf_counter()
    summary = evaluated(*given)
    seconds = time.perf_counter() - started
    assert summary.backtest is not None
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description="How long an evaluation takes.")
    parser.add_argument("--quick", action="store_true", help="a quick size instead")
    parser.add_argument("--row", choices=SIZES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        measure(arguments.row)
        return
    print(
        f"{'':8}{'days':>7}{'stocks':>8}{'seconds':>10}{'target':>8}{'peak GiB':>10}{'target':>8}"
    )
    for size in ("quick",) if arguments.quick else ("small", "large"):
        command = [sys.executable, __file__, "--row", size]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, gib = map(float, output.split())
        (_, days, stocks), (most_seconds, most_gib) = SIZES[size], TARGETS[size]
        reached = "yes" if seconds < most_seconds and gib < most_gib else "NO"
        print(
            f"{size:8}{days:7,}{stocks:8,}{seconds:10.2f}{most_seconds:8.0f}{gib:10.2f}"
            f"{most_gib:8.0f}   {reached}"
        )


if __name__ == "__main__":
    main()
