"""TopK-dropout backtest: what a signal would have earned after costs, and its ledger.

The strategy is qlib's `TopkDropoutStrategy` (qlib 0.9.7). The signal at the close of t is traded on
a later bar, by default the next. Holdings are not rebalanced to equal weight; they drift. A stock
without a price is valued at its last close.

T dates of the market, N stocks, S signal dates, D dates of the backtest. Money is in the currency
of the prices, returns and costs are fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import empyrical
import numpy as np
import pandas as pd

TRADING_DAYS = 252  # a year, as empyrical counts them
BASIS_POINT = 1e-4


@dataclass(frozen=True)
class Market:
    """Where and at what price one could trade.

    dates (T,) datetime64[D]; tickers (N,); close (T, N), NaN where not traded; fill (T, N): the
    price of a trade on that date, the close or the open; tradable (T, N) bool: traded
    that day and not locked at a price limit.
    volume (T, N): shares traded, for `capacity`. index (T,): closes of a market index, NaN where
    unknown. member (T, N) bool: whether a stock may be bought on a signal of that date, and counts
    in the benchmark; None: always.
    """

    dates: np.ndarray
    tickers: np.ndarray
    close: np.ndarray
    fill: np.ndarray
    tradable: np.ndarray
    volume: np.ndarray | None = None
    index: np.ndarray | None = None
    member: np.ndarray | None = None

    def __post_init__(self) -> None:
        cells = (len(self.dates), len(self.tickers))
        for name in ("close", "fill", "tradable", "volume", "index", "member"):
            array = getattr(self, name)
            expected = cells[:1] if name == "index" else cells
            if array is not None and array.shape != expected:
                raise ValueError(f"market: {name} has shape {array.shape}, expected {expected}")
        if not (np.isfinite(self.fill) & np.isfinite(self.close))[self.tradable].all():
            raise ValueError("market: a tradable stock has no close or no price to fill at")

    @cached_property
    def mark(self) -> np.ndarray:
        """(T, N) the price that holdings are valued at: each stock's last known close."""
        return _carried_forward(self.close)

    @cached_property
    def choosable(self) -> np.ndarray:
        """(T, N) bool: stocks that a signal of that date may buy: traded, and a member."""
        known = np.isfinite(self.close)
        return known if self.member is None else known & self.member


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the signal is traded.

    top_k stocks are held and up to n_drop replaced every rebalance_days signal dates, `delay`
    market dates after the signal. risk_degree of the cash is spread over the buys. buy_cost and
    sell_cost are fractions of the traded value; slippage moves the fill price against the trade.
    """

    top_k: int
    n_drop: int
    rebalance_days: int
    delay: int
    capital: float
    risk_degree: float
    buy_cost: float
    sell_cost: float
    slippage_basis_points: float

    def __post_init__(self) -> None:
        rules = {
            "top_k": self.top_k >= 1,
            "n_drop": self.n_drop >= 1,
            "rebalance_days": self.rebalance_days >= 1,
            "delay": self.delay >= 0,
            "capital": self.capital > 0,
            "buy_cost": 0 <= self.buy_cost < 1,
            "sell_cost": 0 <= self.sell_cost < 1,
            "slippage_basis_points": 0 <= self.slippage_basis_points < 1 / BASIS_POINT,
            "risk_degree": 0 < self.risk_degree * (1 + self.buy_cost) <= 1,
        }
        for name, holds in rules.items():
            if not holds:
                raise ValueError(f"backtest: {name} = {getattr(self, name)} is out of range")


@dataclass(frozen=True)
class Backtest:
    """One run's ledger.

    trades: one row a trade; date, ticker, side, shares, price (slippage included), value, cost.
    positions: one row a stock held after the day's trades; date, ticker, shares, close, value.
    equity, by date, without the dates in gaps of the signals: account = cash + value; net_return =
    account / previous account - 1; gross_return = net_return + cost + slippage; turnover (bought
    and sold value), cost and slippage as fractions of the previous account; n_held; benchmark:
    return of the equal-weight universe; index: return of the market index, NaN without one.
    """

    settings: Settings
    trades: pd.DataFrame
    positions: pd.DataFrame
    equity: pd.DataFrame


def dropout(
    signal: np.ndarray,
    held: np.ndarray,
    top_k: int,
    n_drop: int,
    sellable: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The stocks TopK-dropout sells and buys, as indices, the best buy first.

    signal, held, sellable (N,); sellable None: all. Ties go to the earlier stock. A stock whose
    signal is NaN is never bought and ranks last when held. The candidates are the best n_drop +
    top_k - |held| stocks not held; a held stock among the worst n_drop of candidates and sellable
    holdings is sold. A holding that is not sellable would else be the worst each day, and nothing
    would ever be sold.
    """
    ranked = np.argsort(-signal, kind="stable")
    n_held = int(held.sum())
    candidates = ranked[~held[ranked] & np.isfinite(signal[ranked])]
    candidates = candidates[: max(0, n_drop + top_k - n_held)]
    union = held.copy() if sellable is None else held & sellable
    union[candidates] = True
    worst = ranked[union[ranked]][-n_drop:]
    sell = worst[held[worst]]
    return sell, candidates[: max(0, len(sell) + top_k - n_held)]


def topk_dropout(
    signal: np.ndarray,
    signal_dates: np.ndarray,
    market: Market,
    settings: Settings,
    offset: int = 0,
) -> Backtest:
    """Trade a signal (S, N) at the given dates; higher is better, NaN means no signal.

    The first rebalancing is on the signal date at `offset`, then one every rebalance_days signal
    dates. A stock that was not traded, or no member, on the signal date has no signal. A trade that
    is not possible on its day is skipped: a sale is decided again at the next rebalancing, the cash
    of a buy is kept. The ledger runs from the first rebalancing to the trade date of the last
    signal; signals whose trade date is after the market's end are ignored. In a gap (market dates
    without a signal between two signal dates) nothing is held: on the trade date of the last signal
    before the gap everything is sold, a locked stock at its last close, and the ledger continues
    after it. Raises ValueError if no signal is left or the labels do not fit the market.
    """
    days, traded, cash = _trade(signal, signal_dates, market, settings, offset)
    dates = pd.DatetimeIndex(market.dates[days], name="date")
    shares = np.cumsum(traded, axis=0)
    _, price, value, cost = _filled(days, traded, market, settings)
    side = np.where(traded > 0, "buy", "sell")
    amounts = {"side": side, "shares": np.abs(traded), "price": price, "value": value, "cost": cost}
    mark = market.mark[days]
    held = {"shares": shares, "close": mark, "value": shares * np.where(shares > 0, mark, 0.0)}
    return Backtest(
        settings=settings,
        trades=_cells(amounts, traded != 0, dates, market.tickers),
        positions=_cells(held, shares > 0, dates, market.tickers),
        equity=_equity(days, traded, cash, market, settings),
    )


def figures(equity: pd.DataFrame) -> dict[str, float]:
    """Performance of a `Backtest.equity`, after costs.

    Those of `return_figures`; annual_excess_return: the mean of net_return minus benchmark times
    252; annual_information_ratio: its daily ratio times sqrt(252); turnover and cost (slippage
    included): daily means. index_total_return is NaN unless the index covers all dates.
    """
    excess = excess_returns(equity)
    values = {
        "n_dates": len(equity),
        **return_figures(equity["net_return"]),
        "turnover": equity["turnover"].mean(),
        "cost": (equity["cost"] + equity["slippage"]).mean(),
        "benchmark_total_return": empyrical.cum_returns_final(equity["benchmark"]),
        "annual_excess_return": excess.mean() * TRADING_DAYS,
        "annual_information_ratio": _ratio(empyrical.sharpe_ratio, excess),
        "index_total_return": np.prod(1 + equity["index"].to_numpy()) - 1,
    }
    return {name: float(value) for name, value in values.items()}


def excess_returns(equity: pd.DataFrame) -> pd.Series:
    """By date, the return after costs minus that of the equal-weight universe."""
    excess: pd.Series = equity["net_return"] - equity["benchmark"]
    return excess


def return_figures(returns: pd.Series) -> dict[str, float]:
    """Performance of daily returns, by empyrical.

    annual_return compounds to 252 days; annual_sharpe and annual_sortino are daily ratios times
    sqrt(252), without a risk-free rate, NaN where returns do not vary; max_drawdown is negative;
    calmar: annual_return over the drawdown.
    """
    return {
        "total_return": float(empyrical.cum_returns_final(returns)),
        "annual_return": float(empyrical.annual_return(returns)),
        "annual_volatility": float(empyrical.annual_volatility(returns)),
        "annual_sharpe": _ratio(empyrical.sharpe_ratio, returns),
        "annual_sortino": _ratio(empyrical.sortino_ratio, returns),
        "max_drawdown": float(empyrical.max_drawdown(returns)),
        "calmar": float(empyrical.calmar_ratio(returns)),
    }


def sector_exposure(backtest: Backtest, sectors: Mapping[str, str]) -> pd.DataFrame:
    """Share of the account in each sector, dates by sectors; the rest is cash.

    Raises ValueError for a held ticker without a sector.
    """
    positions = backtest.positions
    unknown = sorted(set(positions["ticker"]) - set(sectors))
    if unknown:
        raise ValueError(f"sector_exposure: no sector for {unknown}")
    sector = positions["ticker"].map(sectors).rename("sector")
    value = positions.groupby(["date", sector])["value"].sum().unstack(fill_value=0)
    return value.reindex(backtest.equity.index, fill_value=0.0).div(
        backtest.equity["account"], axis=0
    )


def capacity(backtest: Backtest, market: Market, participation_rate: float) -> dict[str, float]:
    """The capital at which trades reach that share of their day's volume.

    Trades grow in proportion to the capital. all_trades: the largest capital at which every trade
    stays within the share; most_trades: 95 % of them. Raises ValueError without volume.
    """
    if market.volume is None:
        raise ValueError("capacity: the market has no volumes")
    trades = backtest.trades
    rows = np.searchsorted(market.dates, trades["date"].to_numpy().astype("datetime64[D]"))
    stocks = pd.Index(market.tickers).get_indexer(pd.Index(trades["ticker"]))
    allowed = np.nan_to_num(market.volume[rows, stocks]) * participation_rate
    capital = backtest.settings.capital * allowed / trades["shares"].to_numpy()
    return {"all_trades": float(capital.min()), "most_trades": float(np.quantile(capital, 0.05))}


def universe_returns(market: Market) -> np.ndarray:
    """(T,) daily return of the equal-weight universe, the benchmark; 0 on the first date."""
    returns = _equal_weight_return(market, np.arange(len(market.dates)))
    returns[0] = 0.0
    return returns


def largest_imbalance(backtest: Backtest) -> float:
    """Largest disagreement between the frames on a day, as a fraction of the starting capital.

    Cash is recomputed from the trades, holdings from the running sum of trades and the account from
    cash, shares and closes; each must equal the ledger's value.
    """
    trades, positions, equity = backtest.trades, backtest.positions, backtest.equity
    bought = trades["shares"].where(trades["side"] == "buy", -trades["shares"])
    spent = (bought * trades["price"] + trades["cost"]).groupby(trades["date"]).sum()
    cash = backtest.settings.capital - spent.reindex(equity.index, fill_value=0.0).cumsum()
    value = (positions["shares"] * positions["close"]).groupby(positions["date"]).sum()
    account = cash + value.reindex(equity.index, fill_value=0.0)
    held = positions.pivot(index="date", columns="ticker", values="shares")
    running = bought.groupby([trades["date"], trades["ticker"]]).sum().unstack()
    held, running = (frame.reindex(equity.index) for frame in (held, running))
    missing_shares = (held.fillna(0.0) - running.fillna(0.0).cumsum()).abs().max()
    gaps = (
        (cash - equity["cash"]).abs().max(),
        (account - equity["account"]).abs().max(),
        (missing_shares * positions.groupby("ticker")["close"].max()).max(),
    )
    return float(max(gaps) / backtest.settings.capital)


def _signal_rows(
    signal: np.ndarray, signal_dates: np.ndarray, market: Market, settings: Settings
) -> np.ndarray:
    """(S,) rows of the market, one for each signal date."""
    expected = (len(signal_dates), len(market.tickers))
    if signal.shape != expected:
        raise ValueError(f"backtest: signal has shape {signal.shape}, expected {expected}")
    if settings.top_k + settings.n_drop > len(market.tickers):
        raise ValueError(
            f"backtest: top_k + n_drop = {settings.top_k + settings.n_drop} must be at most the"
            f" {len(market.tickers)} stocks to choose from"
        )
    if not (np.diff(signal_dates) > np.timedelta64(0, "D")).all():
        raise ValueError("backtest: signal dates are not strictly increasing")
    known = np.isin(signal_dates, market.dates)
    if not known.all():
        raise ValueError(f"backtest: signal date {signal_dates[~known][0]} is not in the market")
    return np.searchsorted(market.dates, signal_dates)


def _trade(
    signal: np.ndarray, signal_dates: np.ndarray, market: Market, settings: Settings, offset: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the market (D,), shares traded on each (D, N), sales negative, and the cash (D,)."""
    rows = _signal_rows(signal, signal_dates, market, settings)
    signal_at = dict(zip(rows + settings.delay, range(len(rows)), strict=True))
    trade_rows = [row for row in signal_at if row < len(market.dates)][offset:]
    if offset < 0 or not trade_rows:
        raise ValueError(f"backtest: none of {len(rows)} signals can be traded at offset {offset}")
    rebalanced = set(trade_rows[:: settings.rebalance_days])
    days = np.array(trade_rows)  # one for each signal: without gaps, all market dates in between
    last_before_gap = set(days[:-1][np.diff(days) > 1])
    traded = np.zeros((len(days), len(market.tickers)))
    cash = np.full(len(days), settings.capital)
    shares = np.zeros(len(market.tickers))
    for day, row in enumerate(days):
        cash[day] = cash[day - 1] if day else settings.capital
        if row in last_before_gap:
            traded[day], cash[day] = _sell_all(shares, cash[day], market, row, settings)
            shares = np.zeros_like(shares)
        elif row in rebalanced:
            choosable = market.choosable[row - settings.delay]
            tradable_signal = np.where(choosable, signal[signal_at[row]], np.nan)
            traded[day], cash[day] = rebalance(
                tradable_signal,
                shares,
                cash[day],
                market=market,
                signal_row=row - settings.delay,
                row=row,
                settings=settings,
            )
            shares = shares + traded[day]
    return days, traded, cash


def rebalance(
    signal: np.ndarray,
    shares: np.ndarray,
    cash: float,
    *,
    market: Market,
    signal_row: int,
    row: int,
    settings: Settings,
) -> tuple[np.ndarray, float]:
    """Shares traded (N,), sales negative, and the cash left, on the date at `row` of the market.

    A holding that was not traded on the signal date, at `signal_row`, is not among those to sell.
    """
    slippage = settings.slippage_basis_points * BASIS_POINT
    sellable = np.isfinite(market.close[signal_row])
    sell, buy = dropout(signal, shares > 0, settings.top_k, settings.n_drop, sellable)
    sell_now, buy_now = (stocks[market.tradable[row, stocks]] for stocks in (sell, buy))
    fill = market.fill[row]
    traded = np.zeros_like(shares)
    traded[sell_now] = -shares[sell_now]
    cash += shares[sell_now] @ fill[sell_now] * (1 - slippage) * (1 - settings.sell_cost)
    # The cash for a stock that cannot be bought today is kept, as in qlib.
    budget = cash * settings.risk_degree / max(1, len(buy))
    traded[buy_now] = budget / (fill[buy_now] * (1 + slippage))
    return traded, cash - budget * len(buy_now) * (1 + settings.buy_cost)


def _sell_all(
    shares: np.ndarray, cash: float, market: Market, row: int, settings: Settings
) -> tuple[np.ndarray, float]:
    """Sell all holdings: shares traded (N,) and the cash afterwards."""
    held = shares > 0
    price = _fill_price(market, row)[held] * (1 - settings.slippage_basis_points * BASIS_POINT)
    proceeds = float(shares[held] @ price) * (1 - settings.sell_cost)
    return np.where(held, -shares, 0.0), cash + proceeds


def _fill_price(market: Market, rows: np.ndarray | int) -> np.ndarray:
    """The fill price on those rows; the last close where a stock is not traded."""
    return np.where(market.tradable[rows], market.fill[rows], market.mark[rows])


def _equity(
    days: np.ndarray, traded: np.ndarray, cash: np.ndarray, market: Market, settings: Settings
) -> pd.DataFrame:
    """The account by date, from rows of the market (D,), trades (D, N) and cash (D,)."""
    shares = np.cumsum(traded, axis=0)
    fill, price, traded_value, cost = _filled(days, traded, market, settings)
    value = (shares * np.where(shares > 0, market.mark[days], 0.0)).sum(axis=1)
    account = cash + value
    previous = np.concatenate(([settings.capital], account[:-1]))
    net_return = account / previous - 1
    costs = cost.sum(axis=1) / previous
    slippage = (np.abs(traded) * np.abs(price - fill)).sum(axis=1) / previous
    return pd.DataFrame(
        {
            "account": account,
            "cash": cash,
            "value": value,
            "net_return": net_return,
            "gross_return": net_return + costs + slippage,
            "turnover": traded_value.sum(axis=1) / previous,
            "cost": costs,
            "slippage": slippage,
            "n_held": (shares > 0).sum(axis=1),
            "benchmark": _equal_weight_return(market, days),
            "index": _index_return(market, days),
        },
        index=pd.DatetimeIndex(market.dates[days], name="date"),
    )


def _filled(
    days: np.ndarray, traded: np.ndarray, market: Market, settings: Settings
) -> tuple[np.ndarray, ...]:
    """For each trade (D, N): the market's price, the price paid, the value traded and its cost."""
    # A stock that is not traded may have no fill price.
    fill = np.where(traded != 0, _fill_price(market, days), 0.0)
    price = fill * (1 + np.sign(traded) * settings.slippage_basis_points * BASIS_POINT)
    value = np.abs(traded) * price
    cost = value * np.where(traded > 0, settings.buy_cost, settings.sell_cost)
    return fill, price, value, cost


def _cells(
    columns: dict[str, np.ndarray], where: np.ndarray, dates: pd.DatetimeIndex, tickers: np.ndarray
) -> pd.DataFrame:
    """One row for each selected cell (D, N): its date, ticker and value in each column."""
    day, stock = np.nonzero(where)
    labels = {"date": dates[day], "ticker": tickers[stock]}
    return pd.DataFrame(labels | {name: values[day, stock] for name, values in columns.items()})


def _equal_weight_return(market: Market, days: np.ndarray) -> np.ndarray:
    """(D,) mean return of yesterday's members that are traded that day.

    On the first day, and the first after a gap, from the fill to the close.
    """
    start = np.where(_first_days(days)[:, None], market.fill[days], market.mark[days - 1])
    returns = market.close[days] / start - 1
    known = np.isfinite(returns)
    if market.member is not None:
        known &= market.member[np.maximum(days - 1, 0)]
    return np.where(known, returns, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def _ratio(ratio: Callable[[pd.Series], float], returns: pd.Series) -> float:
    """A ratio to the standard deviation of daily returns; NaN where they do not vary."""
    return float(ratio(returns)) if len(returns) > 1 and np.ptp(returns) > 0 else np.nan


def _index_return(market: Market, days: np.ndarray) -> np.ndarray:
    """(D,) return of the index; 0 on the first day, and on the first after a gap."""
    if market.index is None:
        return np.full(len(days), np.nan)
    index_return = market.index[days] / market.index[days - 1] - 1
    return np.where(_first_days(days), 0.0, index_return)


def _first_days(days: np.ndarray) -> np.ndarray:
    """(D,) whether the previous day is outside the backtest."""
    return np.diff(days, prepend=-2) > 1


def _carried_forward(prices: np.ndarray) -> np.ndarray:
    """Each stock's last known price; NaN before its first."""
    return pd.DataFrame(prices).ffill().to_numpy()
