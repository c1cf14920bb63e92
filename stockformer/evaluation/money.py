"""From signal to money: where the excess return of the forecasts' top k goes.

The daily excess over the equal-weight universe, split into parts that add up exactly.
S signal dates, D dates of the backtest, N stocks. Returns are fractions.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from stockformer.evaluation.backtest import Backtest, Market
from stockformer.evaluation.statistics import Estimate, estimate

PARTS = ("day_0", "delay", "holding", "cash", "costs")
NET = "net"


def daily_parts(
    signal: np.ndarray, signal_dates: np.ndarray, market: Market, ledger: Backtest
) -> pd.DataFrame:
    """The parts of each day's net excess, by date of the ledger; they add up to `net`.

    signal (S, N): that the ledger traded from its first date on. A date of the ledger earns from
    what the signal traded on the date before, so the first date, and the first after a gap, have
    only costs.
    day_0: excess of the day's top k, equally weighted, bought at the signal's close and held to the
    next one; delay: the same top k from the trade's price to that of a day later, less day_0;
    holding: what the portfolio's stocks earned before costs, less that top k: dropout keeps older
    picks, rebalancing may be rarer, and weights drift; cash: the universe's return that the share
    in cash missed; costs: with slippage.
    """
    equity, k = ledger.equity, ledger.settings.top_k
    rows = np.searchsorted(market.dates, signal_dates)[: len(equity)]
    choosable = np.where(market.choosable[rows], signal[: len(equity)], np.nan)
    weights = top_k_weights(choosable, k)
    trade_rows = rows + ledger.settings.delay
    fill = np.where(market.tradable, market.fill, market.mark)
    starts = np.append(True, np.diff(trade_rows) > 1)  # of the ledger, and after a gap
    earns = np.flatnonzero(~starts)
    day_0, delayed = np.zeros(len(rows)), np.zeros(len(rows))
    before = earns - 1
    day_0[earns] = _excess(weights[before], market, market.mark, rows[before])
    delayed[earns] = _excess(weights[before], market, fill, trade_rows[before])
    share = (equity["value"] / equity["account"]).to_numpy()
    invested = np.where(starts, share, np.append(0.0, share[:-1]))
    net = (equity["net_return"] - equity["benchmark"]).to_numpy()
    costs = -(equity["cost"] + equity["slippage"]).to_numpy()
    cash = -(1 - invested) * equity["benchmark"].to_numpy()
    parts = {
        "day_0": day_0,
        "delay": delayed - day_0,
        "holding": net - costs - cash - delayed,
        "cash": cash,
        "costs": costs,
        NET: net,
    }
    return pd.DataFrame(parts, index=equity.index)


def waterfall(parts: pd.DataFrame) -> dict[str, Estimate]:
    """The estimate of each of `daily_parts`; the means of `PARTS` add up to that of `net`."""
    return {str(name): estimate(series) for name, series in parts.items()}


def top_k_weights(signal: np.ndarray, k: int) -> np.ndarray:
    """(S, N) equal weights of the k highest of each date; ties go to the earlier stock.

    Fewer than k where fewer are known; zero where none is.
    """
    place = np.argsort(np.argsort(-signal, axis=1, kind="stable"), axis=1)
    chosen = (place < k) & np.isfinite(signal)
    weights: np.ndarray = chosen / np.maximum(chosen.sum(axis=1, keepdims=True), 1)
    return weights


def _excess(weights: np.ndarray, market: Market, price: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(S,) weighted return from `price` on these rows to the next, less the universe's."""
    returns = price[rows + 1] / price[rows] - 1
    known = np.isfinite(returns) & np.isfinite(market.close[rows + 1])
    if market.member is not None:
        known &= market.member[rows]
    returns = np.nan_to_num(returns)
    universe = (returns * known).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    earned: np.ndarray = (weights * returns).sum(axis=1)
    return np.where(weights.any(axis=1), earned - universe, 0.0)
