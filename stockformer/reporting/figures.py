"""A report's figures: each a pure function of a frame. Colours suit light and dark pages.

Titles and captions are in the page, not in the figure; text, grid and background follow the page's
style sheet, so that one figure works in light, dark and print.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from stockformer.evaluation.metrics import METRICS
from stockformer.evaluation.quantities import Quantity

TRAIN, VALIDATION, TEST, REFERENCE = "#3f83c4", "#dd8333", "#2f9e7e", "#8c8c8c"
QUANTILES = ("#c05a32", "#dd9a5c", "#8c8c8c", "#5fa3b8", "#2b6cb0")
SIGNS = {1: (TRAIN, "circle"), 0: (REFERENCE, "circle-open"), -1: (VALIDATION, "x")}
"""Colour and marker of a significant lead, of none, and of a significant deficit."""
PARTS = {"train": TRAIN, "validation": VALIDATION}
HEIGHT = 270
DAY = 24 * 3600 * 1000  # Plotly counts dates in milliseconds
FEW = 40
"""Largest number of points that get markers."""
FONT = "system-ui, sans-serif"
TRANSPARENT = "rgba(0,0,0,0)"


def training_curve(
    metrics: pd.DataFrame, name: str, quantity: Quantity, tested_epoch: int | None
) -> go.Figure:
    """`train_{name}` and `validation_{name}` by epoch, if recorded, or `name` itself.

    metrics: indexed by epoch. The tested epoch, if any, is marked.
    """
    columns = {f"{part}_{name}": part for part in PARTS} | {name: "train"}
    figure = base("epoch (number)", quantity.axis)
    for column, part in columns.items():
        if column in metrics:
            hover = f"epoch %{{x}}: %{{y:{quantity.spec}}}"
            figure.add_scatter(
                x=metrics.index.to_numpy(),
                y=metrics[column].to_numpy(),
                name=part,
                mode="lines+markers" if len(metrics) <= FEW else "lines",
                marker={"size": 5},
                line={"color": PARTS[part], "width": 2},
                hovertemplate=f"{hover}<extra>{part}</extra>",
            )
    if tested_epoch is not None:
        figure.add_vline(tested_epoch, line={"color": REFERENCE, "width": 1.5, "dash": "dot"})
    last = int(metrics.index.max())
    whole = {"dtick": 1} if last <= 12 else {}  # few epochs would get ticks at 1.5
    figure.update_xaxes(range=[0.5, last + 0.5], **whole)
    figure.update_layout(showlegend=len(figure.data) > 1)
    return figure


def learning_rate(metrics: pd.DataFrame) -> go.Figure:
    """The learning rate by epoch, on a logarithmic axis."""
    rate = Quantity("learning rate", "log scale", 7)
    figure = training_curve(metrics, "learning_rate", rate, None)
    figure.update_traces(line_shape="hv", hovertemplate="epoch %{x}: %{y:.2e}<extra></extra>")
    decades = np.log10(metrics["learning_rate"][metrics["learning_rate"] > 0])
    low, high = decades.min(), decades.max()
    figure.update_yaxes(type="log", range=[low - 0.5, high + 0.5], dtick=1, tickformat=".0e")
    return figure


def metric_by_day(days: pd.DataFrame, name: str) -> go.Figure:
    """A bar for each signal date, and their mean. days: `predictions.daily`."""
    quantity = METRICS[name]
    figure = dated(days.index, quantity.axis)
    figure.add_bar(
        x=days.index.to_numpy(),
        y=days[name].to_numpy(),
        width=0.8 * DAY,
        marker={"color": TEST, "line": {"width": 0}},
        hovertemplate=f"%{{x|%a %Y-%m-%d}}: %{{y:{quantity.spec}}}<extra></extra>",
    )
    if days[name].notna().any():
        mean = float(days[name].mean())
        figure.add_hline(mean, line={"color": VALIDATION, "width": 2, "dash": "dash"})
    figure.update_layout(showlegend=False)
    return figure


def cumulated_by_day(days: pd.DataFrame, name: str) -> go.Figure:
    """The running sum over signal dates; a date without the metric adds nothing."""
    quantity = METRICS[name]
    figure = dated(days.index, f"cumulated {quantity.title} (sum)")
    figure.add_scatter(
        x=days.index.to_numpy(),
        y=days[name].fillna(0.0).cumsum().to_numpy(),
        mode="lines+markers" if len(days) <= FEW else "lines",
        marker={"size": 5},
        line={"color": TEST, "width": 2},
        hovertemplate="to %{x|%a %Y-%m-%d}: %{y:+.2f}<extra></extra>",
    )
    figure.add_hline(0, line={"color": REFERENCE, "width": 1})
    figure.update_layout(showlegend=False)
    return figure


def metric_distribution(days: pd.DataFrame, name: str) -> go.Figure:
    """Histogram of the metric over signal dates, and its mean."""
    return histogram(days[name], METRICS[name].axis, METRICS[name].spec)


def histogram(values: pd.Series, x: str, number_format: str) -> go.Figure:
    """Counts of days in bins by the rule of Freedman and Diaconis, and the mean; x: with the unit.

    The bins are counted here, so that a figure of 10,000 days is as small as one of ten.
    """
    finite = values.dropna().to_numpy()
    counts, edges = np.histogram(finite, bins="fd") if len(finite) else ([0], np.array([0.0, 1.0]))
    if len(counts) > 80:  # a few outliers would make thousands
        counts, edges = np.histogram(finite, bins=80)
    figure = base(x, "days (number)")
    figure.add_bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges) * 0.96,
        customdata=np.column_stack([edges[:-1], edges[1:]]),
        marker={"color": TEST, "line": {"width": 0}},
        hovertemplate=(
            f"%{{customdata[0]:{number_format}}} to %{{customdata[1]:{number_format}}}: "
            "%{y} days<extra></extra>"
        ),
    )
    if len(finite):
        mean = float(finite.mean())
        figure.add_vline(mean, line={"color": VALIDATION, "width": 2, "dash": "dash"})
    figure.add_vline(0, line={"color": REFERENCE, "width": 1})
    return figure


def quantile_means(days: pd.DataFrame) -> go.Figure:
    """Mean excess return by quantile of the forecast. days: `forecasts.quantile_returns`."""
    means = days.mean()
    figure = base("quantile of the forecast (1 = lowest)", "excess return (mean, fraction)")
    figure.add_bar(
        x=list(days.columns),
        y=means.to_numpy(),
        marker={"color": [QUANTILES[int(q) - 1] for q in days.columns], "line": {"width": 0}},
        hovertemplate="quantile %{x}: %{y:+.5f}<extra></extra>",
    )
    figure.update_xaxes(dtick=1)
    return figure


def quantiles_cumulated(days: pd.DataFrame) -> go.Figure:
    """A line for each quantile: the running sum of its excess returns; a gap adds nothing."""
    figure = dated(days.index, "excess return (sum, fraction)")
    for quantile in days.columns:
        figure.add_scatter(
            x=days.index.to_numpy(),
            y=days[quantile].fillna(0.0).cumsum().to_numpy(),
            name=str(quantile),
            mode="lines",
            line={"color": QUANTILES[int(quantile) - 1], "width": 1.8},
            hovertemplate=f"to %{{x|%a %Y-%m-%d}}: %{{y:+.4f}}<extra>quantile {quantile}</extra>",
        )
    return figure


def stability_by_day(correlation: pd.Series) -> go.Figure:
    """Rank correlation with the date before. correlation: `predictions.rank_stability`."""
    figure = dated(correlation.index, "rank correlation (to date before)")
    figure.add_scatter(
        x=correlation.index.to_numpy(),
        y=correlation.to_numpy(),
        mode="lines",
        line={"color": TEST, "width": 2},
        hovertemplate="%{x|%a %Y-%m-%d}: %{y:+.3f}<extra></extra>",
    )
    return figure


def outcome_by_prediction(binned: pd.DataFrame) -> go.Figure:
    """Mean realised return by predicted return. binned: `forecasts.outcome_by_prediction`."""
    figure = base("predicted return (fraction)", "realised return (mean, fraction)")
    ends = binned["prediction"].iloc[[0, -1]].to_numpy()
    _reference(figure, ends, "as predicted")
    _binned(figure, binned["prediction"], binned["label"], binned["n"], "+.4f")
    return figure


def calibration(table: pd.DataFrame) -> go.Figure:
    """Realised frequency of "up" by forecast probability. table: `predictions.calibration`."""
    some = table[table["n"] > 0]
    figure = base('probability of "up" (forecast)', "went up (share of forecasts)")
    ends = np.array([some["lower"].min(), some["upper"].max()])
    _reference(figure, ends, "calibrated")
    _binned(figure, some["probability"], some["frequency"], some["n"], ".3f")
    return figure


def forest(leads: pd.DataFrame, x: str, number_format: str, height: int) -> go.Figure:
    """A row a baseline: the lead with its interval; its marker says whether it is significant.

    leads: lead, lower, upper, significant by name, the first at the top; x: axis with the unit.
    """
    figure = base(x, "")
    named = [plain(str(name)) for name in leads.index]
    for sign, (colour, symbol) in SIGNS.items():
        if leads.empty:
            break
        rows = leads[np.where(leads["significant"], np.sign(leads["lead"]), 0) == sign]
        if rows.empty:
            continue
        line = {"width": 2, "color": colour}
        interval = f"%{{customdata[0]:{number_format}}} to %{{customdata[1]:{number_format}}}"
        figure.add_scatter(
            x=rows["lead"].to_numpy(),
            y=[plain(str(name)) for name in rows.index],
            mode="markers",
            customdata=rows[["lower", "upper"]].to_numpy(),
            marker={"color": colour, "symbol": symbol, "size": 9, "line": line},
            error_x={
                "array": (rows["upper"] - rows["lead"]).to_numpy(),
                "arrayminus": (rows["lead"] - rows["lower"]).to_numpy(),
                "color": colour,
                "thickness": 2,
                "width": 4,
            },
            hovertemplate=f"%{{y}}: %{{x:{number_format}}} ({interval})<extra></extra>",
        )
    figure.add_vline(0, line={"color": REFERENCE, "width": 1.5})
    order = {"categoryorder": "array", "categoryarray": named[::-1]}
    figure.update_yaxes(**order, range=[-0.6, len(named) - 0.4], title=None)
    figure.update_xaxes(nticks=3, tickangle=0)
    figure.update_layout(showlegend=False, height=height, margin={"t": 6, "r": 12})
    return figure


def forest_height(rows: int) -> int:
    """In pixels, so that figures side by side have the same."""
    return 70 + 26 * max(rows, 3)


def base(x: str, y: str) -> go.Figure:
    """An empty figure in the page's style. x, y: what the axes hold, with the unit in brackets."""
    # Invisible ticks keep the labels of the two axes apart in the corner.
    ticks = {"ticks": "outside", "ticklen": 6, "tickcolor": TRANSPARENT}
    axis = {"automargin": True, "zeroline": False, "showline": False} | ticks
    axis |= {"exponentformat": "none"}  # 0.0002, not 200µ
    return go.Figure(
        layout={
            "template": {},  # Plotly's default template adds 7 kB to each figure
            "height": HEIGHT,
            "margin": {"l": 8, "r": 24, "t": 28, "b": 8},  # r: half of the last tick's label
            "font": {"family": FONT, "size": 12},
            "hoverlabel": {"font": {"family": FONT}},
            "paper_bgcolor": TRANSPARENT,
            "plot_bgcolor": TRANSPARENT,
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "xaxis": axis | {"title": {"text": x, "standoff": 8}},
            "yaxis": axis | {"title": {"text": y, "standoff": 8}},
        }
    )


def plain(text: str) -> str:
    """Text escaped for Plotly, which would interpret `<b>` and `<a href=...>` as markup."""
    return escape(text, quote=False)


def dated(days: pd.Index, y: str, x: str = "signal date (day)") -> go.Figure:
    """An empty figure over these dates."""
    figure = base(x, y)
    margin = pd.Timedelta(days=1)
    figure.update_xaxes(range=[days.min() - margin, days.max() + margin])
    if len(days) <= 8:  # few days would get ticks within the day
        figure.update_xaxes(dtick=DAY, tickformat="%b %-d")
    return figure


def _reference(figure: go.Figure, ends: Sequence[float] | np.ndarray, name: str) -> None:
    """The diagonal of perfect forecasts."""
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
