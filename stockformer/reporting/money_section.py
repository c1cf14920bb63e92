"""The report's section on what is left of the signal: the waterfall, equity, turnover, capacity."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from stockformer.evaluation import returns
from stockformer.evaluation.backtest import BASIS_POINT, Backtest
from stockformer.evaluation.money import NET, PARTS
from stockformer.evaluation.quantities import (
    Quantity,
    format_count,
    format_interval,
    format_p,
    format_t,
)
from stockformer.evaluation.record import BacktestResult
from stockformer.evaluation.statistics import Estimate
from stockformer.evaluation.trading import excess_verdict
from stockformer.reporting import trading_figures, trading_section
from stockformer.reporting.page import Plot, Section
from stockformer.reporting.tables import Table
from stockformer.reporting.trading_section import variant
from stockformer.runs.recorded_run import RecordedRun

TITLE, ANCHOR = "From signal to money", "money"
NO_BACKTEST = "There was no backtest: too few test dates, or no date with a ranking."
DAILY_EXCESS = Quantity("daily excess", "basis points", 1, around_zero=True)
NAMES = {
    "day_0": "day-0 excess",
    "delay": "delay",
    "holding": "holding",
    "cash": "cash",
    "costs": "costs",
    NET: "net excess",
}
MEANINGS = {
    "day_0": "top k of each date, bought at the signal's close for one day, without costs",
    "delay": "the same stocks from the price of the trade on, less the line above",
    "holding": "older picks that dropout keeps, rarer rebalancing, and drifting weights",
    "cash": "the universe's return that uninvested money missed",
    "costs": "costs of both sides and slippage",
    NET: "the sum: what the account earned over the universe",
}


def section(run: RecordedRun) -> Section:
    """Where the excess return goes, and what the account earned."""
    if run.evaluation is None:
        return Section(TITLE, "The run has not been tested.", anchor=ANCHOR)
    traded = run.evaluation.backtest
    if traded is None:
        return Section(TITLE, NO_BACKTEST, anchor=ANCHOR)
    remarks, shown, plots = [], [], []
    if traded.waterfall is None:
        remarks.append(
            "What is lost to delay, holding and costs: not recorded. The run was evaluated by an "
            "earlier version; train it again to have it."
        )
    else:
        shown.append(waterfall(traded.waterfall))
        means = {NAMES[n]: traded.waterfall[n].mean / BASIS_POINT for n in (*PARTS, NET)}
        plots.append(
            Plot(
                "From the signal to the net excess",
                trading_figures.waterfall(means, "excess (basis points a day)"),
                "Good: the first bar is much higher than what delay, holding and costs take. A "
                "large first bar and a last one below zero: the signal is right, but too short or "
                "too expensive to trade like this.",
            )
        )
    plots.append(
        Plot(
            "Equity",
            equity(traded, run.ledger),
            "Good: the solid line, after costs, ends above the universe's. The line before costs "
            "shows what trading takes.",
        )
    )
    remarks += [*turnover(traded, run.ledger), *capacity(traded)]
    shown.append(excess(traded))
    return Section(
        TITLE,
        lead(traded),
        remarks=remarks,
        plots=plots,
        details=shown,
        anchor=ANCHOR,
        folded=trading_section.section(run, traded),
    )


def lead(traded: BacktestResult) -> str:
    """The verdict on trading the forecasts, and the settings."""
    s = traded.settings
    period = "" if s.rebalance_days == 1 else f"{s.rebalance_days} signal dates"
    return (
        f"{excess_verdict(traded.excess['base'])} TopK-dropout: the {s.top_k} highest forecasts "
        f"are held, at most {s.n_drop} replaced every {period or 'signal date'}, traded "
        f"{format_count(s.delay, 'day')} after the signal. "
        f"Costs: {s.buy_cost / BASIS_POINT:.1f} basis points to buy, "
        f"{s.sell_cost / BASIS_POINT:.1f} to sell, {s.slippage_basis_points:g} of slippage. "
        "Universe: all stocks, equally weighted, without costs."
    )


def waterfall(parts: Mapping[str, Estimate]) -> Table:
    """The parts of the net excess with their intervals. parts: `money.waterfall`."""
    rows = [
        (NAMES[name], *_mean_and_interval(parts[name]), MEANINGS[name]) for name in (*PARTS, NET)
    ]
    header = ("part", "mean", "95 % interval", "what")
    title = "Excess over the equal-weight universe (basis points a day)"
    return Table(header, rows, words=(0, 3), title=title, marked=NAMES[NET])


def excess(traded: BacktestResult) -> Table:
    """Tests of the daily excess over the universe after costs."""
    rows = [
        (variant(name), *_mean_and_interval(test), format_t(test.t), format_p(test.p), str(test.n))
        for name, test in traded.excess.items()
    ]
    header = ("", "mean", "95 % interval", "t", "p", "days")
    title = "Net excess as set, and under harder conditions (basis points a day)"
    return Table(header, rows, title=title)


def equity(traded: BacktestResult, ledger: Backtest | None) -> go.Figure:
    """Wealth after costs, of the universe and, from the ledger, before costs and of the index."""
    series = {"after costs": traded.returns["net_return"], "universe": traded.returns["benchmark"]}
    if ledger is not None:
        series["before costs"] = ledger.equity["gross_return"]
        if ledger.equity["index"].notna().all():
            series["index"] = ledger.equity["index"]
    grown = {name: returns.wealth(each) for name, each in series.items()}
    return trading_figures.lines(grown, "wealth (start = 1)", ".3f")


def turnover(traded: BacktestResult, ledger: Backtest | None) -> list[str]:
    """One-sided turnover, and the costs at which nothing would be left."""
    both_sides = float(traded.figures["turnover"]["base"])
    if not both_sides > 0:
        return []
    said = (
        f"Turnover, one-sided: {both_sides / 2:.1%} of the account a day (bought and sold value, "
        f"halved), so a stock is held for about {2 / both_sides:.0f} days."
    )
    if ledger is None:
        return [said]
    gross = float((ledger.equity["gross_return"] - ledger.equity["benchmark"]).mean())
    paid = float((ledger.equity["cost"] + ledger.equity["slippage"]).mean())
    if gross <= 0:
        return [f"{said} Even before costs there is no excess: {gross / BASIS_POINT:+z.1f} a day."]
    return [
        f"{said} The excess before costs, {gross / BASIS_POINT:+z.1f} basis points a day, pays for "
        f"trading at up to {gross / both_sides / BASIS_POINT:.1f} basis points of the traded "
        f"value; {paid / both_sides / BASIS_POINT:.1f} were paid."
    ]


def capacity(traded: BacktestResult) -> list[str]:
    """The capital up to which the trades are small against the volume."""
    if not traded.capacity:
        return ["Capacity: unknown, because the data have no volumes."]
    capital, most = traded.settings.capital, traded.capacity.get("most_trades", float("nan"))
    return [
        f"Capacity: at a capital of {most:,.0f} (here {capital:,.0f}) 95 % of the trades stay "
        "within the permitted share of their day's volume."
    ]


def _mean_and_interval(test: Estimate) -> tuple[str, str]:
    mean, lower, upper = (value / BASIS_POINT for value in (test.mean, test.lower, test.upper))
    return DAILY_EXCESS.format(mean), format_interval(DAILY_EXCESS, lower, upper)
