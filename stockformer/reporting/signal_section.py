"""The report's section on the signal: does it rank, how long does that last, and where."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from stockformer.evaluation import forecasts
from stockformer.evaluation.metrics import METRICS
from stockformer.evaluation.predictions import Predictions, daily, rank_stability
from stockformer.evaluation.quantities import (
    Quantity,
    format_count,
    format_interval,
    format_p,
)
from stockformer.evaluation.signal_detail import SignalDetail
from stockformer.evaluation.statistics import FEW_DATES, no_skill_band
from stockformer.reporting import figures, signal_figures, tables
from stockformer.reporting.page import Plot, Section
from stockformer.reporting.tables import Table
from stockformer.runs.recorded_run import RecordedRun

TITLE, ANCHOR = "Signal", "signal"
NO_PREDICTIONS = "The run has no test predictions."
NO_VALID_CELL = (
    "None of the test predictions can be scored: no stock has a known outcome on these dates (no "
    "valid cell). Look at the data quality report, and at the dates of the split."
)
NOTHING_RANKED = (
    "Nothing is ranked: on no test date are there two stocks with an outcome and different "
    "forecasts, so there is no rank IC."
)
NOT_RECORDED = (
    "How long the signal lasts, and its rank IC by sector, volatility and size: not recorded. The "
    "run was evaluated by an earlier version; train it again to have them."
)
RANK_IC = METRICS["rank_ic"]
SHORT = Quantity("rank IC", "correlation", 2, around_zero=True)
FULL_SHADE = 3.0
"""Standard errors without skill from which a cell of a table is shaded at full strength."""
MOST_MONTHS = 12
"""With more months the sectors' rank IC is shown by year."""


def section(run: RecordedRun) -> Section:
    """Rank IC by date, cumulated, by horizon, by sector and regime; returns by quantile."""
    predictions = run.predictions
    if predictions is None or not predictions.valid.any():
        return Section(TITLE, nothing_to_score(run), anchor=ANCHOR)
    days = daily(predictions)
    scores = tables.scores(predictions)
    if days["rank_ic"].notna().sum() == 0:
        return Section(TITLE, NOTHING_RANKED, details=[scores], anchor=ANCHOR)
    detail = None if run.evaluation is None else run.evaluation.signal
    remarks = [NOT_RECORDED] if detail is None else []
    plots = [*_over_time(days["rank_ic"], predictions.horizon), *_quantiles(predictions, remarks)]
    if detail is not None:
        plots[2:2] = _decay(detail)
    return Section(
        TITLE,
        lead(days["rank_ic"], detail),
        remarks=remarks,
        plots=plots,
        details=[*([] if detail is None else breakdowns(detail)), by_month(days), scores],
        anchor=ANCHOR,
    )


def nothing_to_score(run: RecordedRun) -> str:
    """Why a run without valid predictions has nothing to measure."""
    return NO_PREDICTIONS if run.predictions is None else NO_VALID_CELL


def lead(rank_ic: pd.Series, detail: SignalDetail | None) -> str:
    """How many dates there are, and how long the signal lasts."""
    text = (
        f"{format_count(int(rank_ic.notna().sum()), 'signal date')} with a rank IC: the rank "
        "correlation, across the stocks of a date, of forecast and outcome. "
    )
    if len(rank_ic) < FEW_DATES:
        text += f"Below {FEW_DATES} dates intervals are too narrow. "
    return text + ("" if detail is None else lasting(detail.decay))


def lasting(decay: pd.DataFrame) -> str:
    """Up to which day after the signal the rank IC is significant. decay: `signal_decay.decay`."""
    if decay.empty:
        return ""
    above = (decay["lower"] > 0).to_numpy()
    days = int(np.argmin(above)) if not above.all() else len(above)
    if not days:
        return "The rank IC with the return of the first day after the signal is not above zero."
    until = "the first day" if days == 1 else f"each of the first {days} days"
    return f"The rank IC with the return of {until} after the signal is significantly above zero."


def breakdowns(detail: SignalDetail) -> list[Table]:
    """Rank IC by sector and month, by volatility of the market, and by size of the stock."""
    found = []
    if detail.sectors is not None and len(detail.sectors):
        found.append(by_sector(detail.sectors))
    if len(detail.volatility):
        title = "Rank IC by volatility of the market in the 21 days before (annual)"
        found.append(_groups(detail.volatility, title, "dates", _annual))
    if detail.size is not None and len(detail.size):
        title = "Rank IC among stocks of similar size (mean traded value of 21 days)"
        found.append(_groups(detail.size, title, "stocks", _money))
    return found


def by_month(days: pd.DataFrame) -> Table:
    """A row a year. days: `predictions.daily`."""
    dates = pd.DatetimeIndex(days.index)
    counts = days["rank_ic"].groupby([dates.year, dates.month]).count()
    return tables.by_month(forecasts.rank_ic_by_month(days), "Rank IC by month", SHORT, counts)


def by_sector(sectors: pd.DataFrame) -> Table:
    """A row a sector, a column a month (a year, if there are many), with the number of dates.

    A cell is shaded by its distance from zero in standard errors of a ranking without skill, so
    that a month of one date is pale. sectors: `breakdown.by_sector`.
    """
    period = sectors["month"] if sectors["month"].nunique() <= MOST_MONTHS else None
    period = sectors["month"].str[:4] if period is None else period
    every = sectors.assign(period="all")
    frame = pd.concat([sectors.assign(period=period), every])
    sums = frame.assign(
        rank_ic=frame["rank_ic"] * frame["n_dates"], n_stocks=frame["n_stocks"] * frame["n_dates"]
    )
    by_period = sums.groupby(["sector", "period"])[["rank_ic", "n_dates", "n_stocks"]].sum()
    periods = [*sorted(set(period)), "all"]
    rows, shades = [], {}
    for place, sector in enumerate(sorted(set(frame["sector"]))):
        total = by_period.loc[(sector, "all")]
        cells = [sector, f"{total['n_stocks'] / total['n_dates']:.0f}"]
        for name in periods:
            if (sector, name) not in by_period.index:
                cells.append("")
                continue
            each = by_period.loc[(sector, name)]
            dates = each["n_dates"]
            mean, stocks = each["rank_ic"] / dates, each["n_stocks"] / dates
            errors = mean * math.sqrt(dates * max(stocks - 1, 1)) / FULL_SHADE
            shades[place, len(cells)] = round(float(np.clip(errors, -1, 1)), 3)
            cells.append(f"{SHORT.format(float(mean))} ({dates:.0f})")
        rows.append(tuple(cells))
    title = "Rank IC within sectors (number of dates)"
    return Table(("sector", "stocks", *periods), rows, title=title, shades=shades)


def _over_time(rank_ic: pd.Series, horizon: int) -> list[Plot]:
    return [
        Plot(
            "Rank IC, cumulated",
            signal_figures.cumulated(no_skill_band(rank_ic, horizon)),
            "Good: climbs steadily and leaves the band, in which a forecast without skill stays 95 "
            "% of the time at each date. It ends above the band if the mean rank IC is "
            "significantly above zero.",
        ),
        Plot(
            "Rank IC by day",
            signal_figures.by_day(rank_ic, forecasts.rolling_mean(rank_ic)),
            "Good: the rolling mean stays above zero. Dashed: the mean of all dates.",
        ),
    ]


def _decay(detail: SignalDetail) -> list[Plot]:
    if detail.decay.empty:
        return []
    return [
        Plot(
            "Rank IC with each later day",
            signal_figures.decay(detail.decay, "", "rank IC (that day alone)"),
            "Of the forecasts with the return of that day alone. Good: above zero at least until "
            "the trade; the slower it falls, the rarer one needs to trade. Lines: 95 % intervals.",
        ),
        Plot(
            "Rank IC with the return up to each day",
            signal_figures.decay(detail.decay, "cumulated_", "rank IC (up to that day)"),
            "Of the forecasts with the return from the signal's close to that day's. Highest at "
            "the holding period that suits the signal. Lines: 95 % intervals that allow for the "
            "days that consecutive dates share; with under 10 times as many dates as days they are "
            "too narrow.",
        ),
    ]


def _quantiles(predictions: Predictions, remarks: list[str]) -> list[Plot]:
    """Figures by size of the forecast; where nothing is ranked, a remark instead."""
    frame = predictions.frame()
    cells = frame[frame["valid"]]
    days = forecasts.quantile_returns(cells)
    plots = []
    if days.notna().sum().min() == 0:
        remarks.append(
            "No returns by fifth of the forecasts: on each date there are fewer than five stocks, "
            "or the forecasts do not differ by more than rounding, so that nothing is ranked."
        )
    else:
        estimates = forecasts.quantile_estimates(days, predictions.horizon)
        plots += [
            Plot(
                "Return by fifth of the forecasts",
                signal_figures.quantiles(estimates),
                "Over the mean of the date's stocks, before costs. Good: rises from left to right, "
                "and the lines (95 % intervals) of the outer fifths do not cross zero.",
            ),
            Plot(
                "Return by fifth, cumulated",
                signal_figures.quantiles_cumulated(days),
                "Good: the lines spread like a fan, in order, without a few days that decide.",
            ),
        ]
    return [
        *plots,
        Plot(
            "Prediction against outcome",
            signal_figures.outcome_by_prediction(forecasts.outcome_by_prediction(cells)),
            "Ten bins of equally many forecasts. Good: on the dashed line forecasts are right in "
            "size; rising, they are right at least in direction.",
        ),
        Plot(
            "Stability of the ranking",
            figures.stability_by_day(rank_stability(predictions)),
            "At 1 the ranking never changes; the lower it is, the more has to be traded. Good: as "
            "high as the skill allows.",
        ),
    ]


def _groups(table: pd.DataFrame, title: str, kind: str, form: Callable[[float], str]) -> Table:
    rows = [
        (
            f"{name} of {kind}",
            f"{form(row['from'])} to {form(row['to'])}",
            f"{row['n']:.0f}",
            RANK_IC.format(row["mean"]),
            format_interval(RANK_IC, row["lower"], row["upper"]),
            format_p(row["p"]),
        )
        for name, row in zip(table.index, table.to_dict("records"))
    ]
    header = ("", "range", "dates", "rank IC", "95 % interval", "p")
    return Table(header, rows, title=title)


def _annual(volatility: float) -> str:
    return f"{volatility * math.sqrt(252):.1%}"


def _money(value: float) -> str:
    for size, name in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if value >= size:
            return f"{value / size:,.3g}{name}"
    return f"{value:,.3g}"
