"""The tables of a portfolio report, from daily returns and a ledger. Returns are fractions."""

from __future__ import annotations

import empyrical
import numpy as np
import pandas as pd

from stockformer.evaluation.backtest import Backtest


def wealth(returns: pd.Series) -> pd.Series:
    """Value of 1 invested at the start, after each date."""
    return (1 + returns).cumprod()


def drawdown(returns: pd.Series) -> pd.Series:
    """Loss from the highest wealth so far, the start included; never above 0."""
    grown = wealth(returns)
    return grown / grown.cummax().clip(lower=1.0) - 1


def drawdowns(returns: pd.Series, longest: int = 5) -> pd.DataFrame:
    """The deepest drawdowns, a row each.

    start: the first date below the peak; trough: the date of the largest loss; end: the first date
    back at the peak, NaT if never; days: days below the peak; depth: the largest loss.
    """
    depth = drawdown(returns)
    below = depth < 0
    episode = (below & ~below.shift(fill_value=False)).cumsum()
    rows = []
    for _, spell in depth[below].groupby(episode[below]):
        after = depth.index[depth.index > spell.index[-1]]
        end = after[0] if len(after) else pd.NaT
        rows.append((spell.index[0], spell.idxmin(), end, len(spell), float(spell.min())))
    table = pd.DataFrame(rows, columns=["start", "trough", "end", "days", "depth"])
    return table.sort_values("depth", kind="stable").head(longest).reset_index(drop=True)


def by_month(returns: pd.Series) -> pd.DataFrame:
    """Compounded return, years by months 1 to 12 and `year`; NaN for a month without a day."""
    dates = pd.DatetimeIndex(returns.index)
    grown = (1 + returns).groupby([dates.year, dates.month]).prod() - 1
    table = grown.unstack().reindex(columns=range(1, 13))
    return table.assign(year=(1 + returns).groupby(dates.year).prod() - 1)


def rolling_sharpe(returns: pd.Series, window: int) -> pd.Series:
    """Annualised Sharpe ratio, without a risk-free rate, of the last `window` days."""
    rolling: pd.Series = empyrical.roll_sharpe_ratio(returns, window=window)
    return rolling.reindex(returns.index).where(np.isfinite)


def invested(ledger: Backtest) -> pd.Series:
    """Share of the account held in stocks, by date; the rest is cash."""
    value = ledger.positions.groupby("date")["value"].sum()
    return value.reindex(ledger.equity.index, fill_value=0.0) / ledger.equity["account"]


NOTHING, BOUGHT, HELD, SOLD = range(4)
"""Of `actions`."""


def actions(ledger: Backtest, tickers: np.ndarray) -> np.ndarray:
    """(D, N) uint8 what the backtest did with each stock on each date of its ledger.

    HELD: held before and after; NOTHING: neither held nor traded.
    """
    places = pd.Index(tickers)
    done = np.full((len(ledger.equity), len(places)), NOTHING, np.uint8)

    def cells(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        days = ledger.equity.index.get_indexer(pd.Index(frame["date"]))
        return days, places.get_indexer(pd.Index(frame["ticker"]))

    done[cells(ledger.positions)] = HELD
    sides = ledger.trades["side"]
    for side, code in (("buy", BOUGHT), ("sell", SOLD)):
        done[cells(ledger.trades[sides == side])] = code
    return done


def profit_by_stock(ledger: Backtest) -> pd.DataFrame:
    """Profit of each stock after costs; open positions are valued at their last close.

    By ticker, the largest first: profit (a fraction of the starting capital), trades, days held.
    """
    trades, positions = ledger.trades, ledger.positions
    flow = trades["value"].where(trades["side"] == "sell", -trades["value"]) - trades["cost"]
    last = positions[positions["date"] == ledger.equity.index[-1]].groupby("ticker")["value"].sum()
    traded = flow.groupby(trades["ticker"])
    table = pd.DataFrame({"profit": traded.sum(), "trades": traded.size()})
    table["profit"] = (table["profit"] + last.reindex(table.index, fill_value=0.0)) / (
        ledger.settings.capital
    )
    held = positions.groupby("ticker").size().reindex(table.index, fill_value=0)
    return table.assign(days=held).sort_values("profit", ascending=False, kind="stable")
