"""The pages of one run and of many: python benchmarks/report.py [--folder FOLDER] [--runs 1000]

Makes complete run folders of 60 test days x 200 stocks, 200 of them by default, each with settings
of its own, with the package's own writers, under FOLDER (kept, and used again) or a temporary one.
Times analyze.py from its start to its end, imports included, and prints how large the pages are and
after how long Chromium can use them: the page is loaded, its script has run, and the figures of the
first screen, if there are any, are drawn; also how long the leaderboard takes to filter and to
sort. --quick: 2 runs.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from omegaconf import DictConfig, OmegaConf

from stockformer.config.schema import config_folder
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.summary import summarise
from stockformer.evaluation.trading import BacktestSpec, market_of_returns
from stockformer.experiment import backtest_settings
from stockformer.runs.folder import RunDir

ROOT = Path(__file__).parents[1]
BACKTEST = config_folder() / "backtest" / "default.yaml"
RUNS, DAYS, STOCKS, EPOCHS = 200, 60, 200, 20
RATES, DROPOUTS, WIDTHS = ("1e-3", "3e-4", "1e-4", "3e-5"), ("0.0", "0.1", "0.2"), ("64", "128")
TARGETS = {"run": (8.0, 2.0, 1.0), "leaderboard": (10.0, 6.0, 1.5)}
"""Seconds to write, MB, seconds until usable."""
OPENED = 5
"""Times that a page is opened; the median counts."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ON_SCREEN = """[...document.querySelectorAll('.plot')]
  .filter((plot) => plot.getBoundingClientRect().top < innerHeight).length"""
MOST_SECONDS = 0.2  # to filter or to sort
ACTIONS = {
    "filter": "find.value = `1e-${turn}`; find.dispatchEvent(new Event('input', {bubbles: true}))",
    "sort": "document.querySelectorAll('#board thead button')[turn + 2].click()",
}
TIMED = """([script, turn]) => {
  const find = document.querySelector('input[type=search]');
  const started = performance.now();
  new Function('find', 'turn', script)(find, turn);
  document.getElementById('board').getBoundingClientRect(); // the layout counts
  return performance.now() - started;
}"""
CONFIG = """seed: {seed}
optimizer:
  lr: {rate}
  weight_decay: {decay}
model:
  dropout: {dropout}
  width: {width}
target:
  horizon: 1
  offset: 0
trainer:
  monitor: rank_ic
"""
DATES = np.busday_offset("2024-01-01", np.arange(DAYS + 2), roll="forward")
TICKERS = np.array([f"S{i:03d}" for i in range(STOCKS)])
RETURNS = np.random.default_rng(0).normal(0.0004, 0.02, (DAYS + 2, STOCKS))


def predictions(skill: float, random: np.random.Generator) -> Predictions:
    """Forecasts of the next day's return with about that rank IC, a cell in twenty masked."""
    label = RETURNS[1 : DAYS + 1, None]
    noise = random.normal(0, 0.02, label.shape)
    prediction = 0.1 * (skill * label + np.sqrt(1 - skill**2) * noise)
    valid = random.random(label.shape) > 0.05
    return Predictions(
        signal_dates=DATES[:DAYS],
        target_start=DATES[:DAYS, None],
        target_end=DATES[1 : DAYS + 1, None],
        tickers=TICKERS,
        prediction=prediction,
        probability=1 / (1 + np.exp(-100 * prediction)),
        label=label,
        up=label > 0,
        valid=valid,
    )


def write_run(folder: Path, number: int) -> None:
    """A run that has ended, as train.py leaves it."""
    random = np.random.default_rng(number)
    rate, dropout, width = (names[number % len(names)] for names in (RATES, DROPOUTS, WIDTHS))
    skill = 0.05 - 0.02 * RATES.index(rate) + random.normal(0, 0.01)
    forecast = predictions(skill, random)
    zero = replace(forecast, prediction=np.zeros_like(forecast.prediction))
    market = market_of_returns(DATES, TICKERS, RETURNS, fill="close")
    settings = backtest_settings(cast(DictConfig, OmegaConf.load(BACKTEST)), STOCKS)
    trading = BacktestSpec(
        market, replace(settings, rebalance_days=2), start_offsets=20, participation_rate=0.05
    )
    decay = f"{number}e-6"
    overrides = [f"optimizer.lr={rate}", f"model.dropout={dropout}", f"model.width={width}"]
    overrides.append(f"optimizer.weight_decay={decay}")
    with RunDir.claim(folder) as run:
        config = CONFIG.format(seed=number, rate=rate, decay=decay, dropout=dropout, width=width)
        run.write_config(config, [*overrides, f"seed={number}"])
        run.write_manifest(manifest(number))
        rows = []
        for epoch in range(1, EPOCHS + 1):
            parts = [f"{p}_{n}" for p in ("train", "validation") for n in ("loss", "mae")]
            row = dict.fromkeys(parts, 0.02 + 0.1 / epoch)
            noise = random.normal(0, 0.003)
            row |= {"validation_rank_ic": skill * epoch / EPOCHS + noise, "learning_rate": 1e-3}
            rows.append({"epoch": epoch, "seconds": 60.0} | row)
        run.write_metrics(rows)
        run.write_predictions(forecast.frame())
        judged = summarise(forecast, {"zero_return": zero}, trading=trading, notes=["synthetic"])
        assert judged.backtest is not None
        ledger = judged.backtest.ledger
        assert ledger is not None
        run.write_ledger(ledger.trades, ledger.positions, ledger.equity)
        run.write_evaluation(replace(judged, epoch=EPOCHS).to_json())


def manifest(number: int) -> dict[str, object]:
    first, last, target = DATES[0], DATES[DAYS - 1], DATES[DAYS]
    names = ("samples", "first_signal_date", "last_signal_date", "last_target_date")
    part = dict(zip(names, (DAYS, str(first), str(last), str(target))))
    return {
        **{"git_commit": "0", "versions": {}, "warnings": [], "split": {"test": part}},
        **{"tickers": TICKERS.tolist(), "factor_names": ["KLEN"], "files": {}},
        **{"seed": number, "dataset": "synthetic", "data_hash": "0"},
    }


def measure(what: str, folder: Path, page: Path) -> None:
    """Print seconds and size next to their targets."""
    started = time.perf_counter()
    command = [sys.executable, "analyze.py", f"run={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds, size = time.perf_counter() - started, page.stat().st_size / 1e6
    most_seconds, most_size, most_until_usable = TARGETS[what]
    usable = until_usable(page)
    reached = seconds < most_seconds and size < most_size and not (usable >= most_until_usable)
    print(
        f"{what:12}{seconds:6.1f} s (under {most_seconds:.0f}){size:7.2f} MB (under {most_size:g})"
        f"{usable:7.2f} s until usable (under {most_until_usable:g})   {'yes' if reached else 'NO'}"
    )


def browser_path() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def until_usable(page: Path) -> float:
    """Seconds from asking Chromium for the page until it can be used; NaN without Chromium."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (only of the extra dev)

    path = browser_path()
    if path is None:
        return math.nan
    seconds = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(OPENED + 1):  # the first starts the browser's processes
            tab = browser.new_page(viewport={"width": 1440, "height": 900})
            started = time.perf_counter()
            tab.goto(page.as_uri())
            on_screen = tab.evaluate(ON_SCREEN)
            for _ in range(1000):
                if tab.evaluate("document.querySelectorAll('.plot .main-svg').length") >= on_screen:
                    break
            seconds.append(time.perf_counter() - started)
            tab.close()
        browser.close()
    return statistics.median(seconds[1:])


def interaction(page: Path) -> None:
    """Print how long the leaderboard takes to filter and to sort, the longest of five times."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (only of the extra dev)

    path = browser_path()
    if path is None:
        return
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.goto(page.as_uri())
        for what, script in ACTIONS.items():
            longest = max(opened.evaluate(TIMED, [script, turn]) for turn in range(5)) / 1000
            reached = "yes" if longest < MOST_SECONDS else "NO"
            print(f"{what:12}{longest:6.3f} s (under {MOST_SECONDS})   {reached}")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="How long the pages of runs take.")
    parser.add_argument("--folder", type=Path, help="where the runs are, or are to be")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"how many; default {RUNS}")
    parser.add_argument("--quick", action="store_true", help="2 runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary) / "sweep").resolve()
        for number in range(2 if arguments.quick else arguments.runs):
            if not (folder / str(number) / "evaluation.json").exists():
                write_run(folder / str(number), number)
        measure("run", folder / "0", folder / "0/report.html")
        measure("leaderboard", folder, folder / "leaderboard.html")
        interaction(folder / "leaderboard.html")


if __name__ == "__main__":
    main()
