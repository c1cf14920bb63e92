"""What a model's forecasts would have earned: the backtest of an evaluation, and how sure that is.

What is tested is the daily excess over the equal-weight universe after costs, paired by date.
Beside it stand trading a day later and doubled costs; for rebalancing periods longer than a day
also the start dates within a period, which share market days and so are a spread, not an
uncertainty.
S signal dates, H steps of the horizon, T dates of the market, N stocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from stockformer.evaluation.backtest import (
    BASIS_POINT,
    Backtest,
    Market,
    Settings,
    capacity,
    figures,
    return_figures,
    sector_exposure,
    topk_dropout,
)
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.record import BacktestResult
from stockformer.evaluation.statistics import Estimate, estimate, p_value

FEWEST_SIGNALS = 4  # below, there are no two days of returns for every figure
HELD, HELD_SHARE, DROPPED_SHARE = 20, 1 / 3, 1 / 5
WITHOUT_PRICES = (
    "backtest: the data set has no prices, so trades are at closes made of cumulated returns: "
    "a day without a return cannot be traded, price limits and volumes are not known"
)
NO_SECTOR = "unknown"


@dataclass(frozen=True)
class BacktestSpec:
    """Where, how and how often a signal is traded.

    start_offsets: start dates within a rebalancing period, at most. participation_rate: share of a
    day's volume, for the capacity. sectors (N,) str, "" where unknown; None if nobody knows them.
    notes: what to bear in mind.
    """

    market: Market
    settings: Settings
    start_offsets: int = 20
    participation_rate: float = 0.05
    sectors: np.ndarray | None = None
    notes: Sequence[str] = field(default=())


def market_of_prices(
    dates: np.ndarray,
    tickers: np.ndarray,
    prices: Mapping[str, np.ndarray],
    *,
    fill: str,
    tradable: np.ndarray,
    index: np.ndarray | None = None,
    member: np.ndarray | None = None,
) -> Market:
    """A market of prices (T, N) by field; `close` is needed, and `open` where it is the fill.

    tradable (T, N) bool: of `Panel`. Raises ValueError where the fill's price is missing.
    """
    if fill not in prices:
        raise ValueError(
            f"backtest.fill={fill}: the data set has no such price, only {', '.join(prices)}"
        )
    close = prices["close"]
    return Market(
        dates=dates,
        tickers=tickers,
        close=close,
        fill=prices[fill],
        tradable=tradable & np.isfinite(prices[fill]),
        volume=prices.get("volume"),
        index=index,
        member=member,
    )


def market_of_returns(
    dates: np.ndarray,
    tickers: np.ndarray,
    returns: np.ndarray,
    *,
    fill: str,
    index: np.ndarray | None = None,
    member: np.ndarray | None = None,
) -> Market:
    """A market where only daily returns (T, N) are known: closes are their cumulated product.

    A day without a return has no close and cannot be traded; the move over it is lost. Raises
    ValueError for a fill that is not the close.
    """
    if fill != "close":
        raise ValueError(f"backtest.fill={fill}: the data set has returns only; use close")
    known = np.isfinite(returns)
    close = np.where(known, np.cumprod(1 + np.where(known, returns, 0.0), axis=0), np.nan)
    return Market(
        dates=dates,
        tickers=tickers,
        close=close,
        fill=close,
        tradable=known,
        index=index,
        member=member,
    )


def sizes(top_k: int | None, n_drop: int | None, stocks: int) -> tuple[int, int]:
    """How many stocks to hold and to replace at most; None scales with their number.

    Raises ValueError where the stocks are too few for what was asked for.
    """
    held = top_k or max(1, min(HELD, int(stocks * HELD_SHARE)))
    dropped = n_drop or max(1, int(held * DROPPED_SHARE))
    if held + dropped > stocks:
        raise ValueError(
            f"backtest.top_k={held}, backtest.n_drop={dropped}: together at most the "
            f"{stocks} stocks of the data set; null chooses sizes that fit"
        )
    return held, dropped


def signal_of(predictions: Predictions, trading: BacktestSpec) -> np.ndarray:
    """(S, N) what is traded on: the mean forecast of the steps that can still be earned.

    Those whose target does not start before the trade; where that is none, the last step, and the
    skill of the model must outlast its target.
    """
    dates, delay = trading.market.dates, trading.settings.delay
    rows_ahead = np.searchsorted(dates, predictions.target_start[0]) - np.searchsorted(
        dates, predictions.signal_dates[0]
    )
    earned = rows_ahead >= delay
    earned[-1] |= not earned.any()
    signal: np.ndarray = predictions.prediction[:, earned].mean(axis=1)
    return signal


def trade(predictions: Predictions, trading: BacktestSpec) -> BacktestResult | None:
    """Backtest the forecasts; None with too few signal dates that every variant can trade.

    Raises as `topk_dropout` does.
    """
    market, settings = trading.market, trading.settings
    if _tradable_signals(predictions, trading) < FEWEST_SIGNALS:
        return None
    signal = signal_of(predictions, trading)
    variants = {
        "base": settings,
        "one_day_later": replace(settings, delay=settings.delay + 1),
        "doubled_costs": doubled_costs(settings),
    }
    ledgers = {
        name: topk_dropout(signal, predictions.signal_dates, market, variant)
        for name, variant in variants.items()
    }
    ledger = ledgers["base"]
    benchmarks = {"universe": return_figures(ledger.equity["benchmark"])}
    if ledger.equity["index"].notna().all():
        benchmarks["index"] = return_figures(ledger.equity["index"])
    return BacktestResult(
        settings=settings,
        figures=pd.DataFrame({name: figures(each.equity) for name, each in ledgers.items()}).T,
        excess={name: estimate(excess_returns(each)) for name, each in ledgers.items()},
        benchmarks=pd.DataFrame(benchmarks).T,
        start_offsets=_over_offsets(signal, predictions, trading),
        sectors=_sector_shares(ledger, trading),
        capacity=_capacity(ledger, trading),
        returns=ledger.equity[["net_return", "benchmark"]],
        ledger=ledger,
    )


def daily_returns(predictions: Predictions, trading: BacktestSpec) -> pd.DataFrame | None:
    """By date net_return and benchmark of the forecasts, traded as set; None with too few dates."""
    if _tradable_signals(predictions, trading) < FEWEST_SIGNALS:
        return None
    ledger = topk_dropout(
        signal_of(predictions, trading),
        predictions.signal_dates,
        trading.market,
        trading.settings,
    )
    return ledger.equity[["net_return", "benchmark"]]


def excess_returns(ledger: Backtest) -> pd.Series:
    """By date, the return after costs less that of the equal-weight universe."""
    excess: pd.Series = ledger.equity["net_return"] - ledger.equity["benchmark"]
    return excess


def holes(predictions: Predictions, dates: np.ndarray) -> list[str]:
    """What is to be said of market dates between two signal dates that have no signal."""
    rows = np.searchsorted(dates, predictions.signal_dates)
    before = np.flatnonzero(np.diff(rows) > 1)
    return [
        f"hole in the test dates: no forecast on {rows[i + 1] - rows[i] - 1} market days between "
        f"{dates[rows[i]]} and {dates[rows[i + 1]]}; the backtest holds nothing over it"
        for i in before
    ]


def _tradable_signals(predictions: Predictions, trading: BacktestSpec) -> int:
    """Signal dates that have a date to trade on in every variant."""
    market, delay = trading.market, trading.settings.delay
    trade_rows = np.searchsorted(market.dates, predictions.signal_dates) + delay + 1
    return int((trade_rows < len(market.dates)).sum())


def _over_offsets(
    signal: np.ndarray, predictions: Predictions, trading: BacktestSpec
) -> pd.DataFrame | None:
    """The figures of the same strategy begun on later signal dates of the rebalancing period.

    Each row covers its own dates, from its first trade on; compare the annual figures.
    """
    settings = trading.settings
    if settings.rebalance_days == 1:
        return None
    most = min(
        trading.start_offsets, settings.rebalance_days, _tradable_signals(predictions, trading) // 2
    )
    rows = {}
    for offset in range(most):
        ledger = topk_dropout(
            signal, predictions.signal_dates, trading.market, settings, offset=offset
        )
        rows[offset] = figures(ledger.equity)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("offset")


def gaps_of_index(days: pd.Index, trading: BacktestSpec) -> list[str]:
    """What is to be said of an index that was given, and is not known on all of `days`."""
    market = trading.market
    if market.index is None:
        return []
    unknown = days[np.isnan(market.index[np.searchsorted(market.dates, days.to_numpy())])]
    if unknown.empty:
        return []
    return [
        f"backtest: no index to compare with, its file lacks {len(unknown)} of {len(days)} days, "
        f"first {unknown[0]:%Y-%m-%d}"
    ]


def doubled_costs(settings: Settings) -> Settings:
    """Twice the costs of both sides and twice the slippage."""
    names = ("buy_cost", "sell_cost", "slippage_basis_points")
    return replace(settings, **{name: 2 * getattr(settings, name) for name in names})


def excess_verdict(excess: Estimate) -> str:
    """Whether trading the forecasts earned more than the universe, after costs."""
    mean, lower, upper = (x / BASIS_POINT for x in (excess.mean, excess.lower, excess.upper))
    start = f"Traded, after costs, less the equal-weight universe: {mean:+.1f} basis points a day"
    if excess.few:
        return f"{start} over {excess.n} days, too few to tell."
    found = {
        1: "more than the universe",
        0: "not told apart from the universe",
        -1: "less than the universe",
    }[excess.sign]
    smallest = (
        ""
        if excess.sign
        else f"; it takes {excess.detectable() / BASIS_POINT:.1f} basis points a day to tell"
    )
    return (
        f"{start} (95 % interval {lower:+.1f} to {upper:+.1f}, {p_value(excess.p)}, "
        f"{excess.n} days): {found}{smallest}."
    )


def _sector_shares(ledger: Backtest, trading: BacktestSpec) -> dict[str, float] | None:
    if trading.sectors is None:
        return None
    names = (str(name) or NO_SECTOR for name in trading.sectors)
    shares = sector_exposure(ledger, dict(zip(trading.market.tickers, names)))
    return {str(name): float(share) for name, share in shares.mean().items()}


def _capacity(ledger: Backtest, trading: BacktestSpec) -> dict[str, float] | None:
    if trading.market.volume is None or ledger.trades.empty:
        return None
    return capacity(ledger, trading.market, trading.participation_rate)
