"""Figures of the signal and its probabilities: each a pure function of a frame.

Returns are shown in basis points. Intervals are drawn as bands or error bars.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from stockformer.evaluation.backtest import BASIS_POINT
from stockformer.reporting.figures import (
    DAY,
    FEW,
    QUANTILES,
    REFERENCE,
    TEST,
    VALIDATION,
    base,
    dated,
)

BAND = "rgba(140,140,140,0.22)"
QUANTILE_DASHES = ("dot", "dash", "solid", "longdash", "dashdot")


def cumulated(band: pd.DataFrame) -> go.Figure:
    """The running sum of the rank IC, in the band of no skill. band: `statistics.no_skill_band`."""
    days, figure = band.index.to_numpy(), dated(band.index, "cumulated rank IC (sum)")
    for name, fill in (("lower", None), ("upper", "tonexty")):
        figure.add_scatter(
            x=days,
            y=band[name].to_numpy(),
            mode="lines",
            line={"color": REFERENCE, "width": 1, "dash": "dot"},
            fill=fill,
            fillcolor=BAND,
            name="without skill, 95 %",
            showlegend=fill is not None,
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=days,
        y=band["cumulated"].to_numpy(),
        name="rank IC, cumulated",
        mode="lines+markers" if len(band) <= FEW else "lines",
        marker={"size": 5},
        line={"color": TEST, "width": 2.5},
        hovertemplate="to %{x|%a %Y-%m-%d}: %{y:+.2f}<extra></extra>",
    )
    figure.add_hline(0, line={"color": REFERENCE, "width": 1})
    return figure


def by_day(series: pd.Series, rolling: tuple[pd.Series, int] | None) -> go.Figure:
    """A bar for each signal date, their mean, and the mean of the last dates, if there is one."""
    figure = dated(series.index, "rank IC (correlation)")
    figure.add_bar(
        x=series.index.to_numpy(),
        y=series.to_numpy(),
        width=0.8 * DAY,
        name="a date",
        marker={"color": TEST, "opacity": 0.55, "line": {"width": 0}},
        hovertemplate="%{x|%a %Y-%m-%d}: %{y:+.4f}<extra></extra>",
    )
    if rolling is not None:
        mean, window = rolling
        figure.add_scatter(
            x=mean.index.to_numpy(),
            y=mean.to_numpy(),
            name=f"mean of {window} dates",
            mode="lines",
            line={"color": VALIDATION, "width": 2.5},
            hovertemplate=f"{window} dates to %{{x|%Y-%m-%d}}: %{{y:+.4f}}<extra></extra>",
        )
    figure.add_hline(float(series.mean()), line={"color": REFERENCE, "width": 2, "dash": "dash"})
    figure.update_layout(showlegend=rolling is not None)
    return figure


def decay(table: pd.DataFrame, prefix: str, y: str) -> go.Figure:
    """Rank IC by day after the signal, with intervals. table: `signal_decay.decay`."""
    mean, lower, upper, n = (
        table[prefix + name].to_numpy() for name in ("rank_ic", "lower", "upper", "n_dates")
    )
    figure = base("after the signal (market days)", y)
    figure.add_bar(
        x=table.index.to_numpy(),
        y=mean,
        customdata=np.column_stack([lower, upper, n]),
        marker={"color": TEST, "line": {"width": 0}},
        error_y=_errors(mean, lower, upper),
        hovertemplate=(
            "day %{x}: %{y:+.4f}<br>95 %: %{customdata[0]:+.4f} to %{customdata[1]:+.4f}<br>"
            "%{customdata[2]} dates<extra></extra>"
        ),
    )
    figure.update_xaxes(range=[0.4, max(table.index) + 0.6], dtick=1 if len(table) <= 12 else 2)
    figure.update_xaxes(tick0=1)
    return figure


def quantiles(estimates: pd.DataFrame) -> go.Figure:
    """Mean excess return by quantile, with intervals. estimates: `quantile_estimates`."""
    mean, lower, upper = (
        estimates[name].to_numpy() / BASIS_POINT for name in ("mean", "lower", "upper")
    )
    figure = base("fifth of the forecasts (1 = lowest)", "excess return (basis points a day)")
    figure.add_bar(
        x=list(estimates.index),
        y=mean,
        customdata=np.column_stack([lower, upper, estimates["n"].to_numpy()]),
        marker={"color": [QUANTILES[int(q) - 1] for q in estimates.index], "line": {"width": 0}},
        error_y=_errors(mean, lower, upper),
        hovertemplate=(
            "fifth %{x}: %{y:+.1f}<br>95 %: %{customdata[0]:+.1f} to %{customdata[1]:+.1f}<br>"
            "%{customdata[2]} dates<extra></extra>"
        ),
    )
    figure.update_xaxes(dtick=1)
    return figure


def quantiles_cumulated(days: pd.DataFrame) -> go.Figure:
    """A line for each quantile: the running sum of its excess returns; a gap adds nothing."""
    figure = dated(days.index, "excess return (sum, basis points)")
    for quantile in days.columns:
        place = int(quantile) - 1
        figure.add_scatter(
            x=days.index.to_numpy(),
            y=(days[quantile].fillna(0.0).cumsum() / BASIS_POINT).to_numpy(),
            name=str(quantile),
            mode="lines",
            line={"color": QUANTILES[place], "width": 1.8, "dash": QUANTILE_DASHES[place]},
            hovertemplate=f"to %{{x|%a %Y-%m-%d}}: %{{y:+.0f}}<extra>fifth {quantile}</extra>",
        )
    return figure


def outcome_by_prediction(binned: pd.DataFrame) -> go.Figure:
    """Mean realised return by predicted return. binned: `forecasts.outcome_by_prediction`."""
    figure = base("predicted return (basis points)", "realised return (mean, basis points)")
    forecast, realised = (binned[name] / BASIS_POINT for name in ("prediction", "label"))
    _diagonal(figure, forecast.iloc[[0, -1]].to_numpy(), "as predicted")
    _binned(figure, forecast, realised, binned["n"], "+.1f")
    return figure


def calibration(table: pd.DataFrame) -> go.Figure:
    """Realised frequency of "up" by forecast probability, with intervals.

    table: `forecasts.calibration_intervals`, with a row.
    """
    frequency, lower, upper = (
        table[name].to_numpy() for name in ("frequency", "lower_frequency", "upper_frequency")
    )
    figure = base('probability of "up" (forecast)', "went up (share of forecasts)")
    _diagonal(figure, np.array([table["lower"].min(), table["upper"].max()]), "calibrated")
    _binned(figure, table["probability"], table["frequency"], table["n"], ".3f")
    figure.data[-1].error_y = _errors(frequency, lower, upper)
    return figure


def counts(table: pd.DataFrame) -> go.Figure:
    """The number of forecasts in each bin of probability. table: `predictions.calibration`."""
    some = table[table["n"] > 0]
    figure = base('probability of "up" (forecast)', "forecasts (number)")
    figure.add_bar(
        x=((some["lower"] + some["upper"]) / 2).to_numpy(),
        y=some["n"].to_numpy(),
        width=(some["upper"] - some["lower"]).to_numpy() * 0.94,
        customdata=some[["lower", "upper"]].to_numpy(),
        marker={"color": TEST, "line": {"width": 0}},
        hovertemplate=(
            "%{customdata[0]:.2f} to %{customdata[1]:.2f}: %{y:,} forecasts<extra></extra>"
        ),
    )
    return figure


def importance(table: pd.DataFrame) -> go.Figure:
    """Drop of the rank IC by group of inputs, the largest at the top, with intervals.

    table: `importance.Importance.table`.
    """
    ordered = table.sort_values("mean", kind="stable")
    mean, lower, upper = (ordered[name].to_numpy() for name in ("mean", "lower", "upper"))
    figure = base("drop of the rank IC (correlation)", "input (name)")
    figure.add_bar(
        x=mean,
        y=[str(name) for name in ordered.index],
        orientation="h",
        customdata=np.column_stack([lower, upper]),
        marker={"color": TEST, "line": {"width": 0}},
        error_x=_errors(mean, lower, upper),
        hovertemplate=(
            "%{y}: %{x:+.4f}<br>95 %: %{customdata[0]:+.4f} to %{customdata[1]:+.4f}<extra></extra>"
        ),
    )
    figure.update_layout(height=max(270, 90 + 20 * len(ordered)))
    figure.update_yaxes(dtick=1)
    return figure


def _errors(mean: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> dict[str, object]:
    """Error bars from the ends of an interval that need not lie evenly around the mean."""
    return {
        "type": "data",
        "symmetric": False,
        "array": np.maximum(upper - mean, 0),
        "arrayminus": np.maximum(mean - lower, 0),
        "color": REFERENCE,
        "thickness": 1.5,
        "width": 4,
    }


def _diagonal(figure: go.Figure, ends: Sequence[float] | np.ndarray, name: str) -> None:
    """Where forecasts are right."""
    line = {"color": REFERENCE, "width": 1.5, "dash": "dash"}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, name=name, hoverinfo="skip")


def _binned(
    figure: go.Figure, x: pd.Series, y: pd.Series, n: pd.Series, number_format: str
) -> None:
    """A marker for each bin, its area proportional to the number of forecasts."""
    figure.add_scatter(
        x=x.to_numpy(),
        y=y.to_numpy(),
        customdata=n.to_numpy(),
        mode="lines+markers",
        name="test dates",
        line={"color": TEST, "width": 1.5},
        marker={
            "color": TEST,
            "size": 4 + 10 * np.sqrt(n / n.max()).to_numpy(),
            "line": {"width": 0},
            "opacity": 1,
        },
        hovertemplate=(
            f"forecast %{{x:{number_format}}}<br>realised %{{y:{number_format}}}<br>"
            "%{customdata:,} forecasts<extra></extra>"
        ),
    )
