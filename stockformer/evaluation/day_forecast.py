"""The forecast of one day, and the trades that a portfolio needs after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stockformer.evaluation.backtest import BASIS_POINT, Market, Settings, rebalance

HOLDINGS = ["ticker", "shares"]


@dataclass(frozen=True)
class DayForecast:
    """What runs forecast at the close of `asof`.

    quantity, event: what is forecast, and what the probability is of. targets: (start, end) of each
    step that the signal is the mean of. stocks: a row a stock, the best first; columns ticker,
    rank, signal (the traded forecast return, a fraction), probability (of "up"), rank_before (the
    day before's, NaN without one), and prediction_1, probability_1, ... of each step; without those
    that are masked. masked: by ticker, why there is no forecast. influence: by ticker the inputs
    that moved its signal most, as (name, part of the signal). settings: of the portfolio.
    past: whether the targets are over. has_prices: whether `market` has prices, not only returns.
    sources: the runs.
    """

    asof: np.datetime64
    quantity: str
    event: str
    before: np.datetime64
    targets: tuple[tuple[np.datetime64, np.datetime64], ...]
    stocks: pd.DataFrame
    masked: Mapping[str, str]
    influence: Mapping[str, Sequence[tuple[str, float]]]
    settings: Settings
    market: Market
    past: bool
    has_prices: bool
    sources: tuple[Path, ...]
    notes: tuple[str, ...]


def trades(day: DayForecast, holdings: Mapping[str, float], cash: float) -> pd.DataFrame:
    """What TopK-dropout would trade if it rebalanced after `day`, at its closes.

    holdings: shares by ticker. Columns side, ticker, shares, price (slippage included), value,
    cost; sales first. A stock without a price that day cannot be sold. Raises ValueError for a
    ticker that the model does not know, and for data without prices.
    """
    market, settings = day.market, day.settings
    if not day.has_prices:
        raise ValueError("holdings=, cash=: the data set has returns only, no prices to trade at")
    row = int(np.searchsorted(market.dates, day.asof))
    tickers = market.tickers.tolist()
    unknown = sorted(set(holdings) - set(tickers))
    if unknown:
        raise ValueError(f"holdings: {unknown[0]} is not a stock of the model; sell it yourself")
    shares = np.array([holdings.get(ticker, 0.0) for ticker in tickers])
    signal = day.stocks.set_index("ticker")["signal"].reindex(tickers).to_numpy()
    at_close = Market(
        dates=market.dates,
        tickers=market.tickers,
        close=market.close,
        fill=market.close,
        tradable=np.isfinite(market.close),
    )
    traded, _ = rebalance(
        signal, shares, cash, market=at_close, signal_row=row, row=row, settings=settings
    )
    slippage = settings.slippage_basis_points * BASIS_POINT
    price = market.close[row] * (1 + np.sign(traded) * slippage)
    stocks = np.flatnonzero(traded)
    stocks = stocks[np.argsort(traded[stocks] > 0, kind="stable")]
    value = np.abs(traded[stocks]) * price[stocks]
    cost = np.where(traded[stocks] > 0, settings.buy_cost, settings.sell_cost)
    return pd.DataFrame(
        {
            "side": np.where(traded[stocks] > 0, "buy", "sell"),
            "ticker": market.tickers[stocks],
            "shares": np.abs(traded[stocks]),
            "price": price[stocks],
            "value": value,
            "cost": value * cost,
        }
    )


def without_price(day: DayForecast) -> list[str]:
    """The stocks that were not traded on the day."""
    row = int(np.searchsorted(day.market.dates, day.asof))
    tickers: list[str] = day.market.tickers[~np.isfinite(day.market.close[row])].tolist()
    return tickers


def read_holdings(path: Path) -> dict[str, float]:
    """Shares by ticker, from a CSV file with the columns ticker and shares.

    Raises ValueError naming the file and what is wrong with it.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except OSError as error:
        raise ValueError(f"holdings={path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(
            f"holdings={path}: not a CSV file with the columns {', '.join(HOLDINGS)}: {error}"
        ) from error
    if not set(HOLDINGS) <= set(frame.columns):
        raise ValueError(
            f"holdings={path}: needs the columns {', '.join(HOLDINGS)}; it has "
            f"{', '.join(map(str, frame.columns))}"
        )
    held: dict[str, float] = {}
    for line, (ticker, text) in enumerate(zip(frame["ticker"], frame["shares"]), start=2):
        try:
            shares = float(text)
        except ValueError:
            shares = np.nan
        where = f"holdings={path}, line {line}"
        if not ticker or ticker in held:
            raise ValueError(f"{where}: ticker {ticker!r} {'occurs twice' if ticker else 'empty'}")
        if not 0 <= shares < np.inf:
            raise ValueError(f"{where}: shares {text!r} of {ticker}: not a number of at least 0")
        held[ticker] = shares
    return held
