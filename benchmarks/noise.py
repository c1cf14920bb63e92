"""How often noise is called skill: python -m benchmarks.noise DATA_FOLDER [SETS] [--quick]

On the real NIFTY-200 (folder `nifty200` and `nifty200_phase5` in DATA_FOLDER): every test window of
the protocol NIFTY-WF, all of them as one, a ratio split and the prepared inputs. SETS (200) sets of
forecasts that know nothing a window and kind: scores drawn anew each date, the same with a drift
that all stocks share, scores a stock keeps for good, constants. Then what a planted signal of rank
IC 0.03 is called, how often a sweep of noise gets a deflated Sharpe ratio over 0.95, and how often
the interval of the excess return covers what such noise earns on average. Some 15 minutes.
--quick: one window, two factors, without LightGBM.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from scipy.stats import norm

from benchmarks.nifty_wf import FOLDS, constant_predictions, read, read_fold
from stockformer.data.dataset import Dataset
from stockformer.evaluation.backtest import excess_returns, topk_dropout
from stockformer.evaluation.baselines import all_baselines
from stockformer.evaluation.comparison import (
    Comparison,
    best_constant,
    compare_days,
    levels,
    verdict,
)
from stockformer.evaluation.inputs import baseline_inputs
from stockformer.evaluation.predictions import Predictions, daily, join, rank_stability
from stockformer.evaluation.statistics import deflated_sharpe_ratio, estimate, sharpe_ratio
from stockformer.evaluation.trading import BacktestSpec, excess_verdict, signal_of
from stockformer.experiment import backtest_spec

SPREAD = 0.005  # of forecasts across stocks: a fraction, as the models here have it
DRIFT = 0.001  # standard deviation of the drift that a set of forecasts shares
PLANTED = 0.03  # rank IC
SWEEPS = (2, 5, 10, 20, 50)
CLAIMS = ("better than chance", " beats ", ": more than the universe")
"""The words by which a sentence claims skill, in verdict, level forecasts and trading."""

Forecast = Callable[[np.random.Generator, Predictions], np.ndarray]


@dataclass(frozen=True)
class Window:
    """Test dates, what the baselines say of them, and where they are traded."""

    name: str
    empty: Predictions
    baselines: dict[str, Predictions]
    trading: BacktestSpec


def noise(random: np.random.Generator, window: Predictions) -> np.ndarray:
    return random.normal(0, SPREAD, window.prediction.shape)


def drifting(random: np.random.Generator, window: Predictions) -> np.ndarray:
    return noise(random, window) + random.normal(0, DRIFT)


def kept(random: np.random.Generator, window: Predictions) -> np.ndarray:
    """A score a stock for good."""
    stocks = window.prediction.shape[2]
    return np.broadcast_to(random.normal(0, SPREAD, stocks), window.prediction.shape)


def constant(random: np.random.Generator, window: Predictions) -> np.ndarray:
    return np.full(window.prediction.shape, random.normal(0, DRIFT))


def planted(random: np.random.Generator, window: Predictions) -> np.ndarray:
    """Scores whose correlation with each date's outcome is `PLANTED` on average."""
    label = np.where(window.valid, window.label, np.nan)
    ranks = pd.DataFrame(label.reshape(-1, label.shape[-1])).rank(axis=1, pct=True).to_numpy() - 0.5
    known = np.nan_to_num(ranks).reshape(label.shape) * np.sqrt(12)
    own = random.normal(0, 1, label.shape)
    return SPREAD * (PLANTED * known + np.sqrt(1 - PLANTED**2) * own)


KINDS: dict[str, Forecast] = {
    "noise": noise,
    "noise + drift": drifting,
    "constants": constant,
    "kept scores": kept,
}


def window(name: str, read: tuple[DictConfig, Dataset], quick: bool) -> Window:
    config, data = read
    empty = constant_predictions(data)
    baselines = all_baselines(empty, baseline_inputs(data), with_lightgbm=not quick)
    return Window(name, empty, baselines, backtest_spec(config, data))


def windows(folder: str, quick: bool) -> Iterator[Window]:
    folds = [
        window(f"NIFTY-WF fold {number}", read_fold(number, folder, quick), quick)
        for number in range(1 if quick else FOLDS)
    ]
    yield from folds
    joined = {name: join([f.baselines[name] for f in folds]) for name in folds[0].baselines}
    yield Window("NIFTY-WF, all", join([f.empty for f in folds]), joined, folds[-1].trading)
    if quick:
        return
    paths = f"paths.data_dir={folder}"
    yield window("ratio", read("dataset=nifty200", "split=ratio", paths), quick)
    yield window("phase5", read("dataset=nifty200_phase5", paths), quick)


def forecasts(window: Window, kind: Forecast, seed: int) -> Predictions:
    forecast = kind(np.random.default_rng(seed), window.empty)
    deviation = np.nanstd(window.empty.label)
    probability = norm.cdf(forecast / deviation)
    return replace(window.empty, prediction=forecast, probability=probability)


def claims(window: Window, predictions: Predictions, days: dict[str, pd.DataFrame]) -> list[bool]:
    """Whether verdict, level forecasts and trading claim skill."""
    compared = compare_days(
        daily(predictions), days, predictions.horizon, rank_stability(predictions).mean()
    )
    said = [verdict(compared), levels(compared), traded(window, predictions, compared)]
    return [words in sentence for words, sentence in zip(CLAIMS, said, strict=True)]


def traded(window: Window, predictions: Predictions, compared: Comparison) -> str:
    if not compared.own.n:
        return ""  # what ranks nothing is not traded
    return excess_verdict(estimate(excess(window, predictions)))


def excess(window: Window, predictions: Predictions, free: bool = False) -> pd.Series:
    """By date; free: without costs."""
    trading = window.trading
    settings = trading.settings
    if free:
        settings = replace(settings, buy_cost=0.0, sell_cost=0.0)
    signal = signal_of(predictions, trading)
    ledger = topk_dropout(signal, predictions.signal_dates, trading.market, settings)
    return excess_returns(ledger.equity)


def false_claims(every: list[Window], sets: int) -> None:
    print(f"\nSets of {sets} that a sentence claims skill for (%): any, ranking, level, trading")
    print(f"{'':18}" + "".join(f"{kind:>24}" for kind in KINDS))
    total = dict.fromkeys(KINDS, 0.0)
    for each in every:
        fixed = {**each.baselines, "best_constant": best_constant(each.empty)}
        days = {name: daily(predictions) for name, predictions in fixed.items()}
        cells = []
        for kind, forecast in KINDS.items():
            found = np.array(
                [claims(each, forecasts(each, forecast, seed), days) for seed in range(sets)]
            )
            total[kind] += found.any(axis=1).mean() / len(every)
            shares = [found.any(axis=1).mean(), *found.mean(axis=0)]
            cells.append(" ".join(f"{100 * share:5.1f}" for share in shares))
        print(f"{each.name:18}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    print(f"{'mean, any':18}" + "".join(f"{100 * total[kind]:24.1f}" for kind in KINDS))


def power(whole: Window, sets: int) -> None:
    days = {name: daily(p) for name, p in whole.baselines.items()}
    days["best_constant"] = daily(best_constant(whole.empty))
    found = [claims(whole, forecasts(whole, planted, seed), days)[0] for seed in range(sets)]
    print(
        f"\nA planted rank IC of {PLANTED} over {len(whole.empty.signal_dates)} dates is claimed "
        f"in {np.mean(found):.1%} of {sets} sets (target 80 %)"
    )


def sweeps(each: Window, sets: int) -> None:
    """The selected run is the best by the Sharpe ratio itself, the hardest case."""
    for free in (False, True):
        pool = [
            excess(each, forecasts(each, noise, seed), free)
            for seed in range(max(*SWEEPS, 2 * sets))
        ]
        ratios = np.array([sharpe_ratio(one) for one in pool])
        random = np.random.default_rng(0)
        shares = {}
        for trials in SWEEPS:
            over = 0
            for _ in range(sets):
                chosen = random.choice(len(pool), trials, replace=False)
                best = chosen[np.argmax(ratios[chosen])]
                over += deflated_sharpe_ratio(pool[best], ratios[chosen]) > 0.95
            shares[trials] = over / sets
        told = ", ".join(f"{trials}: {share:.1%}" for trials, share in shares.items())
        costs = "without costs" if free else "after costs"
        print(f"{each.name}, {costs}, deflated Sharpe ratio over 0.95 by trials: {told}")


def coverage(each: Window, sets: int) -> None:
    pool = [excess(each, forecasts(each, noise, seed)) for seed in range(2 * sets)]
    truth = float(np.mean([one.mean() for one in pool]))
    tests = [estimate(one) for one in pool]
    covered = np.mean([test.lower <= truth <= test.upper for test in tests])
    print(
        f"{each.name}: 95 % intervals of the excess over {tests[0].n} days cover the mean of noise "
        f"in {covered:.1%} of {len(pool)} (target 92 to 97 %)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="How often noise is called skill.")
    parser.add_argument("data_dir", help="where nifty200 and nifty200_phase5 lie (paths.data_dir)")
    parser.add_argument(
        "sets", nargs="?", type=int, default=200, help="forecasts a window and kind"
    )
    parser.add_argument("--quick", action="store_true", help="one fold, two factors, no LightGBM")
    arguments = parser.parse_args()
    sets, every = arguments.sets, list(windows(arguments.data_dir, arguments.quick))
    whole = next(each for each in every if each.name.endswith("all"))
    print("Coverage")
    for each in every:
        coverage(each, sets)
    print("\nSweeps of noise (target: at most 5 %)")
    for each in (whole,) if arguments.quick else (whole, every[0], every[-1]):
        sweeps(each, sets)
    power(whole, sets)
    false_claims(every, sets)


if __name__ == "__main__":
    main()
