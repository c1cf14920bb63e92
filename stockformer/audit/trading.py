"""Audits the backtest: trades use only known data, at possible times, at that day's price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from stockformer.evaluation import trading as evaluated
from stockformer.evaluation.backtest import BASIS_POINT, Market, Settings, topk_dropout
from stockformer.experiment import Experiment, backtest_spec
from stockformer.training.evaluate import Evaluator
from stockformer.training.processes import Processes


def trading_faults(experiment: Experiment) -> Iterator[str]:
    """Sentences on faults, from a backtest of random signals on the test days."""
    data = experiment.data
    trading, rows = backtest_spec(experiment.config, data), data.split.test
    market, settings = trading.market, trading.settings
    rows = rows[rows + settings.delay < len(market.dates)]
    if len(rows) < 4:
        return
    random = np.random.default_rng(0)
    signal, dates = random.normal(size=(len(rows), len(market.tickers))), market.dates[rows]
    member = random.random(market.close.shape) < 0.8
    member = member if market.member is None else market.member & member
    market = replace(market, member=member)

    def trades(other: np.ndarray, where: Market) -> pd.DataFrame:
        return topk_dropout(other, dates, where, settings).trades

    base = trades(signal, market)
    if base.empty:
        return
    middle = len(rows) // 2
    known = pd.Timestamp(market.dates[rows[middle] + settings.delay])
    changed = signal.copy()
    changed[middle:] = random.normal(size=changed[middle:].shape)
    if not _before(base, known).equals(_before(trades(changed, market), known)):
        yield (
            f"backtest: trades before {known:%Y-%m-%d} change with signals that are traded from "
            f"then on (backtest.delay={settings.delay})"
        )
    # A trade buys members of the signal date, whatever the members are on the day of the trade.
    after_signal = np.arange(len(market.dates)) > rows[middle]
    other_members = replace(market, member=np.where(after_signal[:, None], ~member, member))
    later = known + pd.Timedelta(days=1)
    if not _before(base, later).equals(_before(trades(signal, other_members), later)):
        yield "backtest: purchases depend on membership after the signal date"
    garbled = _other_future(market, int(rows[middle] + settings.delay), random)
    if not _before(base, later).equals(_before(trades(signal, garbled), later)):
        yield "backtest: trades change with prices of later days"
    yield from _price_faults(experiment, base, settings)
    yield from _signal_faults(experiment, rows)


def _price_faults(
    experiment: Experiment, trades: pd.DataFrame, settings: Settings
) -> Iterator[str]:
    """Check that each trade is at the configured price of its own date in the panel."""
    data, fill = experiment.data, experiment.config.backtest.fill.value
    if not data.panel.prices:
        return
    prices = data.panel.prices[fill]
    rows = np.searchsorted(data.panel.dates, trades["date"].to_numpy().astype("datetime64[D]"))
    stocks = pd.Index(data.panel.tickers).get_indexer(pd.Index(trades["ticker"]))
    side = np.where(trades["side"] == "buy", 1.0, -1.0)
    expected = prices[rows, stocks] * (1 + side * settings.slippage_basis_points * BASIS_POINT)
    wrong = ~np.isclose(trades["price"], expected, rtol=1e-9) & np.isfinite(expected)
    if wrong.any():
        first = trades.iloc[int(np.argmax(wrong))]
        yield (
            f"backtest: {first['ticker']} is traded on {first['date']:%Y-%m-%d} at "
            f"{first['price']:.6g}, not at that day's {fill}"
        )


def _signal_faults(experiment: Experiment, rows: np.ndarray) -> Iterator[str]:
    """Check that the traded signal does not depend on the realised targets."""
    data = experiment.data
    trading = backtest_spec(experiment.config, data)
    random, shape = np.random.default_rng(1), data.targets.valid[rows].shape
    evaluator = Evaluator(data.panel, data.targets, torch.device("cpu"), Processes())
    predictions = evaluator.predictions(rows, random.normal(size=shape), np.full(shape, 0.5))

    def signal(label: np.ndarray, valid: np.ndarray) -> np.ndarray:
        realised = replace(predictions, label=label, up=label > 0, valid=valid)
        return evaluated.signal_of(realised, trading)

    one, other = (signal(random.normal(size=shape), random.random(shape) < 0.5) for _ in range(2))
    if not np.array_equal(one, other):
        yield "backtest: the traded signal depends on the realised targets"


def _before(trades: pd.DataFrame, date: pd.Timestamp) -> pd.DataFrame:
    return trades[trades["date"] < date].reset_index(drop=True)


def _other_future(market: Market, row: int, random: np.random.Generator) -> Market:
    late = (np.arange(len(market.dates)) > row)[:, None]
    moved = np.exp(random.normal(0, 0.5, market.close.shape))
    return replace(
        market,
        close=np.where(late, market.close * moved, market.close),
        fill=np.where(late, market.fill * moved, market.fill),
    )
