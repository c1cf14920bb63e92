"""A report's figures: each a pure function of a frame. Colours suit light and dark pages.

Titles and captions are in the page, not in the figure; text, grid and background follow the page's
style sheet, so that one figure works in light, dark and print.
"""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from stockformer.evaluation.quantities import Quantity

TRAIN, VALIDATION, TEST, REFERENCE = "#3f83c4", "#dd8333", "#2f9e7e", "#8c8c8c"
QUANTILES = ("#c05a32", "#dd9a5c", "#8c8c8c", "#5fa3b8", "#2b6cb0")
SIGNS = {1: (TRAIN, "circle"), 0: (REFERENCE, "circle-open"), -1: (VALIDATION, "x")}
"""Colour and marker of a significant lead, of none, and of a significant deficit."""
PARTS = {"train": TRAIN, "validation": VALIDATION}
DASHES = {"train": "solid", "validation": "dash"}
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
                y=metrics[column].to_numpy() * quantity.scale,
                name=part,
                mode="lines+markers" if len(metrics) <= FEW else "lines",
                marker={"size": 5},
                line={"color": PARTS[part], "width": 2, "dash": DASHES[part]},
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
    ends = [] if leads.empty else [float(leads["lower"].min()), float(leads["upper"].max())]
    figure.update_xaxes(tickvals=_few_ticks(*ends) if ends else None)
    figure.update_layout(showlegend=False, height=height, margin={"t": 6, "r": 12})
    return figure


def _few_ticks(low: float, high: float) -> list[float]:
    """Zero, and a round number on each side that the values reach: there is space for no more."""
    most = max(abs(low), abs(high))
    if not 0 < most < np.inf:
        return [0.0]
    decade = 10.0 ** np.floor(np.log10(most))
    step = decade * max(digit for digit in (1, 2, 5) if digit * decade <= most * 1.0001)
    return [tick for tick in (-step, 0.0, step) if min(low, 0.0) <= tick <= max(high, 0.0)]


def forest_height(rows: int) -> int:
    """In pixels, so that figures side by side have the same."""
    return 70 + 26 * max(rows, 3)


def base(x: str, y: str) -> go.Figure:
    """An empty figure in the page's style. x, y: what the axes hold, with the unit in brackets."""
    # Invisible ticks keep the labels of the two axes apart in the corner.
    ticks = {"ticks": "outside", "ticklen": 6, "tickcolor": TRANSPARENT}
    axis = {"automargin": True, "zeroline": False, "showline": False} | ticks
    axis |= {"exponentformat": "none"}  # 0.0002, not 200µ
    title = {"standoff": 8, "font": {"size": 12}}
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
            "xaxis": axis | {"title": {"text": x} | title},
            "yaxis": axis | {"title": {"text": y} | title},
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
