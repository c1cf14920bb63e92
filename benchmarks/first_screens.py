"""Pages of four prepared runs, to check that a first screen says whether to use the model:
python benchmarks/first_screens.py FOLDER

The runs: skilled, without skill, leaked, significantly worse than a baseline, on one synthetic
market with a persistent signal. Writes their folders and reports, and with Chromium the first
screen of each as FOLDER/NAME.png. Show one for ten seconds to somebody who has never seen the page,
and ask whether to use the model. EXPECTED has the right answers.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path
from typing import cast

import numpy as np
from omegaconf import DictConfig, OmegaConf

from stockformer.config.schema import config_folder
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.summary import summarise
from stockformer.evaluation.trading import BacktestSpec, market_of_returns
from stockformer.experiment import backtest_settings
from stockformer.reporting.report import write_report
from stockformer.runs.folder import RunDir
from stockformer.runs.recorded_run import read_run

EXPECTED = {
    "skilled": "Usable",
    "no_skill": "Do not use",
    "leaked": "Do not use",
    "worse": "Do not use",
}
"""How the headline of each page begins."""
DAYS, STOCKS, EPOCHS = 250, 80, 10
PERSISTENCE, VOLATILITY, SKILL = 0.97, 0.015, 0.15
"""Of the signal from day to day; of a return; share of a return's variance that is signal, root."""
CONFIG = "seed: 0\ntarget:\n  horizon: 1\n  offset: 0\ntrainer:\n  monitor: rank_ic\n"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def market() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dates (T,), returns (T, N), and the part of the next day's return that can be known."""
    random = np.random.default_rng(3)
    dates = np.busday_offset("2024-01-01", np.arange(DAYS + 2), roll="forward")
    signal = np.empty((DAYS + 2, STOCKS))
    signal[0] = random.normal(size=STOCKS)
    for day in range(1, DAYS + 2):
        news = random.normal(size=STOCKS) * np.sqrt(1 - PERSISTENCE**2)
        signal[day] = PERSISTENCE * signal[day - 1] + news
    noise = random.normal(size=signal.shape)
    returns = 0.0003 + VOLATILITY * noise
    returns[1:] += SKILL * VOLATILITY * signal[:-1]
    return dates, returns, SKILL * VOLATILITY * signal


def predictions(forecast: np.ndarray, dates: np.ndarray, returns: np.ndarray) -> Predictions:
    """Forecasts (days, stocks) of the next day's return."""
    label = returns[1 : DAYS + 1, None]
    return Predictions(
        signal_dates=dates[:DAYS],
        target_start=dates[:DAYS, None],
        target_end=dates[1 : DAYS + 1, None],
        tickers=np.array([f"S{stock:03d}" for stock in range(STOCKS)]),
        prediction=forecast[:, None],
        probability=1 / (1 + np.exp(-forecast[:, None] / VOLATILITY)),
        label=label,
        up=label > 0,
        valid=np.ones(label.shape, bool),
    )


def write_run(folder: Path, name: str) -> None:
    """A run that has ended, as train.py leaves it."""
    dates, returns, known = market()
    random = np.random.default_rng(7)
    noise = SKILL * VOLATILITY * random.normal(size=(3, DAYS, STOCKS))
    known, label = known[:DAYS], returns[1 : DAYS + 1]
    forecast = {
        "skilled": known + 1.5 * noise[0],
        "no_skill": noise[0],
        "leaked": 0.3 * label + noise[0],
        "worse": 3 * noise[0],
    }[name]
    learnable = 0.0 if name == "no_skill" else 0.3  # by a baseline
    baselines = {
        "zero_return": np.zeros_like(forecast),
        "training_mean": np.full_like(forecast, 0.0003),
        "reversal_1_day": -0.02 * returns[:DAYS],
        "ridge": 0.5 * learnable * known + noise[1],
        "lightgbm": learnable * known + noise[2],
    }
    scored = predictions(forecast, dates, returns)
    others = {each: predictions(values, dates, returns) for each, values in baselines.items()}
    settings = cast(DictConfig, OmegaConf.load(config_folder() / "backtest" / "default.yaml"))
    trading = BacktestSpec(
        market_of_returns(dates, scored.tickers, returns, fill="close"),
        backtest_settings(settings, STOCKS),
        start_offsets=20,
        participation_rate=0.05,
    )
    judged = summarise(scored, others, trading=trading, notes=[], epoch=EPOCHS)
    assert judged.backtest is not None
    ledger = judged.backtest.ledger
    assert ledger is not None
    with RunDir.claim(folder) as run:
        run.write_config(CONFIG, [])
        run.write_manifest(manifest(scored))
        losses = ("train_loss", "validation_loss")
        epochs = range(1, EPOCHS + 1)
        run.write_metrics([{"epoch": n} | dict.fromkeys(losses, 1 / n) for n in epochs])
        run.write_predictions(scored.frame())
        run.write_ledger(ledger.trades, ledger.positions, ledger.equity)
        run.write_evaluation(judged.to_json())


def manifest(scored: Predictions) -> dict[str, object]:
    first, last, target = scored.signal_dates[0], scored.signal_dates[-1], scored.target_end[-1, 0]
    names = ("samples", "first_signal_date", "last_signal_date", "last_target_date")
    part = dict(zip(names, (DAYS, str(first), str(last), str(target))))
    return {
        **{"git_commit": "0", "versions": {}, "warnings": [], "split": {"test": part}},
        **{"tickers": scored.tickers.tolist(), "factor_names": ["KLEN"], "files": {}},
        "lookahead_audit": "passed on 2026-01-01",
        **{"seed": 0, "dataset": "synthetic", "data_hash": "0"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="First screens of four prepared runs.")
    parser.add_argument("folder", type=Path, help="a new folder for runs, reports and pictures")
    folder = parser.parse_args().folder.resolve()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    for name, begins in EXPECTED.items():
        write_run(folder / name, name)
        run = read_run(folder / name)
        page = write_report(run, None)
        assert run.answers is not None
        headline = run.answers.headline
        wrong = "" if headline.startswith(begins) else "NOT AS EXPECTED: "
        print(f"{name:10}{wrong}{headline}")
        if browser is not None:
            picture = folder / f"{name}.png"
            size = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1440,900")
            command = [browser, *size, "--virtual-time-budget=9000", f"--screenshot={picture}"]
            subprocess.run([*command, page.as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main()
