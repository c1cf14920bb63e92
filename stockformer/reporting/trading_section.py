"""The backtest in detail: its figures, and its ledger by day, month and stock."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from stockformer.evaluation import returns
from stockformer.evaluation.backtest import BASIS_POINT, Backtest, largest_imbalance
from stockformer.evaluation.quantities import EARNED, Quantity, format_count
from stockformer.evaluation.record import BacktestResult
from stockformer.reporting import tables, trading_figures
from stockformer.reporting.page import Plot, Section
from stockformer.reporting.tables import Table
from stockformer.runs.recorded_run import RecordedRun

TITLE = "Backtest in detail"
PERCENT = Quantity("return", "%", 1, around_zero=True, percent=True)
WINDOWS = (63, 21)
"""Days of a rolling ratio: the first window that fits twice into the dates."""
FEW_DAYS = 252
SECTORS = "The rest is cash. Good: no sector so large that it decides the result."


def section(run: RecordedRun, traded: BacktestResult) -> Section:
    """The figures with variants and benchmarks, and details of the ledger."""
    plots, remarks = by_day(traded, run.ledger), []
    if run.ledger is None:
        remarks.append(f"The ledger is incomplete ({run.path.name}/equity.csv and others).")
    else:
        plots += ledger_plots(run.ledger)
        remarks.append(
            "Cash and holdings recomputed from the trades agree with the account to "
            f"{largest_imbalance(run.ledger):.0e} of the capital."
        )
    if traded.start_offsets is not None:
        plots.append(
            Plot(
                "Excess return by start date",
                trading_figures.by_start_date(
                    traded.start_offsets, "annual_excess_return", "annual excess (%)"
                ),
                "Over the universe, of the same strategy started on each signal date of its first "
                "rebalancing period. Dashed: the median. If the bars have both signs, the result "
                "depends on the start date. They share market days, so agreement is weak evidence.",
            )
        )
    if traded.sectors:
        plots.append(Plot("Sectors", trading_figures.sectors(traded.sectors), SECTORS))
    details = [] if run.ledger is None else from_ledger(run.ledger)
    days = len(traded.returns)
    rough = f"Annual figures from {format_count(days, 'day')} are rough."
    lead = rough if days < FEW_DAYS else ""
    return Section(TITLE, lead, [earned(traded)], remarks, plots, details=details)


def earned(traded: BacktestResult) -> Table:
    """A row a figure; a column for the run, each variant and each benchmark."""
    columns = pd.concat([traded.figures, traded.benchmarks]).to_dict("index")
    rows = []
    for name, quantity in EARNED.items():
        cells = [column.get(name, float("nan")) for column in columns.values()]
        rows.append((quantity.title, *map(quantity.format, cells), quantity.unit))
    names = [variant(name) for name in columns]
    return Table(("figure", *names, "unit"), rows, words=(0, len(names) + 1))


def by_day(traded: BacktestResult, ledger: Backtest | None) -> list[Plot]:
    """Drawdown and returns by day; an index, if there is one, needs the ledger."""
    net, universe = traded.returns["net_return"], traded.returns["benchmark"]
    both = {"after costs": net, "universe": universe}
    if ledger is not None and ledger.equity["index"].notna().all():
        both["index"] = ledger.equity["index"]
    plots = [
        Plot(
            "Drawdown",
            trading_figures.lines(
                _each(returns.drawdown, both), "below the peak (%)", ".1%", fill=True
            ),
            "Good: shallow, and back at 0 before long; deeper than the universe is a risk that the "
            "return has to pay for.",
        ),
        Plot(
            "Daily returns",
            trading_figures.returns_distribution(net),
            "After costs. Dashed: the mean. Good: no day that makes the mean alone.",
        ),
    ]
    window = next((days for days in WINDOWS if len(net) >= 2 * days), None)
    if window is not None:
        ratios = {name: returns.rolling_sharpe(each, window) for name, each in both.items()}
        figure = trading_figures.lines(ratios, f"Sharpe ratio ({window} days, annual)", "+.2f")
        caption = "Good: above the universe's most of the time, not in one stretch only."
        plots.insert(1, Plot("Rolling Sharpe ratio", figure, caption))
    return plots


def from_ledger(ledger: Backtest) -> list[Table]:
    """Months, drawdowns, and the best and worst days and stocks."""
    net = ledger.equity["net_return"]
    return [
        tables.by_month(returns.by_month(net), "Monthly returns, after costs", PERCENT),
        _drawdowns(net),
        *_days(ledger),
        *_stocks(ledger),
    ]


def ledger_plots(ledger: Backtest) -> list[Plot]:
    """Exposure, turnover and costs by day."""
    equity = ledger.equity
    costs = (equity["cost"] + equity["slippage"]).cumsum()
    exposure = {"invested": returns.invested(ledger)}
    held = {"stocks": equity["n_held"]}
    return [
        Plot(
            "Exposure",
            trading_figures.lines(exposure, "invested (% of the account)", ".1%"),
            "The rest is cash. Good: near 100 %, or cash is part of the result.",
        ),
        Plot(
            "Stocks held",
            trading_figures.lines(held, "stocks (number)", ".0f"),
            "Good: as many as set; with fewer, single stocks decide.",
        ),
        Plot(
            "Turnover",
            trading_figures.bars(equity["turnover"] / 2, "turnover (one-sided, %)", ".1%"),
            "Half of the bought and sold value, as a share of the account. Dashed: the mean. Good: "
            "as low as the signal allows; the first day buys everything.",
        ),
        Plot(
            "Costs, cumulated",
            trading_figures.lines({"costs": costs}, "costs (% of the account)", ".2%"),
            "Slippage included. Good: small beside the excess before costs.",
        ),
    ]


def variant(name: object) -> str:
    """A variant of the backtest in a table."""
    return "as set" if name == "base" else str(name).replace("_", " ")


def _each(function: object, series: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    assert callable(function)
    return {name: function(each) for name, each in series.items()}


def _drawdowns(net: pd.Series) -> Table:
    rows = [
        (
            f"{row['start']:%Y-%m-%d}",
            f"{row['trough']:%Y-%m-%d}",
            "not yet" if pd.isna(row["end"]) else f"{row['end']:%Y-%m-%d}",
            f"{row['days']}",
            f"{row['depth']:+z.1%}",
        )
        for row in returns.drawdowns(net).to_dict("records")
    ]
    header = ("from", "trough", "recovered", "days below", "depth (%)")
    return Table(header, rows, title="Deepest drawdowns")


def _days(ledger: Backtest) -> list[Table]:
    ordered = ledger.equity.sort_values("net_return", ascending=False, kind="stable")
    returns = ("return (basis points)", "universe (basis points)")
    header = ("date", *returns, "turnover (one-sided, %)", "stocks held")

    def rows(part: pd.DataFrame) -> list[tuple[str, ...]]:
        return [
            (
                f"{date:%a %Y-%m-%d}",
                f"{row['net_return'] / BASIS_POINT:+z.0f}",
                f"{row['benchmark'] / BASIS_POINT:+z.0f}",
                f"{row['turnover'] / 2:.0%}",
                f"{row['n_held']:.0f}",
            )
            for date, row in zip(part.index, part.to_dict("records"))
        ]

    return tables.best_and_worst(header, rows, ordered, "Days by return after costs", shown=5)


def _stocks(ledger: Backtest) -> list[Table]:
    header = ("stock", "profit (% of capital)", "days held", "trades")

    def rows(part: pd.DataFrame) -> list[tuple[str, ...]]:
        return [
            (str(ticker), f"{row['profit']:+z.2%}", f"{row['days']:.0f}", f"{row['trades']:.0f}")
            for ticker, row in zip(part.index, part.to_dict("records"))
        ]

    stocks = returns.profit_by_stock(ledger)
    return tables.best_and_worst(header, rows, stocks, "Stocks by profit after costs", shown=10)
