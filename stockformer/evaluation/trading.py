"""The backtest of an evaluation: returns of the traded forecasts, and their uncertainty.

The test is of the daily excess over the equal-weight universe after costs, paired by date.
The variants trade a day later, or at doubled costs; for rebalancing periods longer than a day also
from each start date within a period. These share market days, so they show a spread, not an
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
    excess_returns,
    figures,
    return_figures,
    sector_exposure,
    topk_dropout,
)
from stockformer.evaluation.money import daily_parts, waterfall
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.record import BacktestResult
from stockformer.evaluation.statistics import Estimate, estimate, p_value

MIN_SIGNALS = 4  # with fewer, a figure may have less than two days of returns
HELD, HELD_SHARE, DROPPED_SHARE = 20, 1 / 3, 1 / 5
WITHOUT_PRICES = (
    "backtest: the data set has no prices, so trades are at closes made of cumulated returns: "
    "a day without a return cannot be traded, price limits and volumes are unknown"
)
NO_SECTOR = "unknown"


@dataclass(frozen=True)
class BacktestSpec:
    """Where, how and how often a signal is traded.

    start_offsets: maximum number of start dates within a rebalancing period. participation_rate:
    share of a day's volume, for the capacity. sectors (N,) str, "" where unknown; None if the data
    set has no sectors. notes: caveats.
    """

    market: Market
    settings: Settings
    start_offsets: int
    participation_rate: float
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
    """A market of daily returns (T, N) only: closes are their cumulative product.

    A day without a return has no close and cannot be traded; its price move is lost. Raises
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

    Raises ValueError if there are fewer stocks than the settings need.
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
    """(S, N) the traded signal: the mean forecast of the steps that can still be earned.

    These are the steps whose target does not start before the trade. If there are none, it is the
    last step, and the model's skill must last longer than its target.
    """
    dates = trading.market.dates
    rows_ahead = np.searchsorted(dates, predictions.target_start[0]) - np.searchsorted(
        dates, predictions.signal_dates[0]
    )
    earned = earned_steps(rows_ahead, trading.settings.delay)
    signal: np.ndarray = predictions.prediction[:, earned].mean(axis=1)
    return signal


def earned_steps(start: np.ndarray, delay: int) -> np.ndarray:
    """(H,) bool: the steps of `signal_of`. start (H,): dates from a signal to its targets."""
    earned: np.ndarray = start >= delay
    earned[-1] |= not earned.any()
    return earned


def trade(predictions: Predictions, trading: BacktestSpec) -> BacktestResult | None:
    """Backtest the forecasts; None with too few signal dates that every variant can trade.

    Raises as `topk_dropout` does.
    """
    market, settings = trading.market, trading.settings
    if _tradable_signals(predictions, trading) < MIN_SIGNALS:
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
        excess={name: estimate(excess_returns(each.equity)) for name, each in ledgers.items()},
        benchmarks=pd.DataFrame(benchmarks).T,
        start_offsets=_over_offsets(signal, predictions, trading),
        sectors=_sector_shares(ledger, trading),
        capacity=_capacity(ledger, trading),
        returns=ledger.equity[["net_return", "benchmark"]],
        waterfall=waterfall(daily_parts(signal, predictions.signal_dates, market, ledger)),
        ledger=ledger,
    )


def daily_returns(predictions: Predictions, trading: BacktestSpec) -> pd.DataFrame | None:
    """net_return, benchmark and turnover of the traded forecasts, by date; None with too few."""
    if _tradable_signals(predictions, trading) < MIN_SIGNALS:
        return None
    ledger = topk_dropout(
        signal_of(predictions, trading),
        predictions.signal_dates,
        trading.market,
        trading.settings,
    )
    return ledger.equity[["net_return", "benchmark", "turnover"]]


def gap_notes(predictions: Predictions, dates: np.ndarray) -> list[str]:
    """Notes on gaps: market dates between two signal dates that have no signal."""
    rows = np.searchsorted(dates, predictions.signal_dates)
    before = np.flatnonzero(np.diff(rows) > 1)
    return [
        f"gap in the test dates: no forecast on {rows[i + 1] - rows[i] - 1} market days between "
        f"{dates[rows[i]]} and {dates[rows[i + 1]]}; the backtest holds nothing during it"
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
    """The figures of the same strategy started on later signal dates of the rebalancing period.

    Each row covers its own dates, from its first trade on; only annual figures are comparable.
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
    """A note if the index is set but has no value on some of `days`."""
    market = trading.market
    if market.index is None:
        return []
    unknown = days[np.isnan(market.index[np.searchsorted(market.dates, days.to_numpy())])]
    if unknown.empty:
        return []
    return [
        f"backtest: not compared with the index, its file lacks {len(unknown)} of {len(days)} "
        f"days, first {unknown[0]:%Y-%m-%d}"
    ]


def doubled_costs(settings: Settings) -> Settings:
    """Twice the costs of both sides and twice the slippage."""
    names = ("buy_cost", "sell_cost", "slippage_basis_points")
    return replace(settings, **{name: 2 * getattr(settings, name) for name in names})


def excess_verdict(excess: Estimate) -> str:
    """Whether trading the forecasts earned more than the universe, after costs."""
    mean, lower, upper = (x / BASIS_POINT for x in (excess.mean, excess.lower, excess.upper))
    start = f"Traded, after costs, minus the equal-weight universe: {mean:+z.1f} basis points a day"
    if excess.few:
        return f"{start} over {excess.n} days, too few to conclude."
    found = {
        1: "more than the universe",
        0: "not significantly different from the universe",
        -1: "less than the universe",
    }[excess.sign]
    smallest = (
        ""
        if excess.sign
        else f"; detectable from {excess.detectable() / BASIS_POINT:.1f} basis points a day"
    )
    return (
        f"{start} (95 % interval {lower:+z.1f} to {upper:+z.1f}, {p_value(excess.p)}, "
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
