"""The backtest's figures: each a pure function of a frame by date.

Returns of a day are shown in basis points, those of longer spans in percent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from stockformer.evaluation.backtest import BASIS_POINT
from stockformer.reporting.figures import (
    DAY,
    REFERENCE,
    TEST,
    TRAIN,
    VALIDATION,
    base,
    dated,
    histogram,
    plain,
)

PERCENT_TICKS = ".2~%"
"""Without trailing zeros."""
LINES = ((TRAIN, "solid"), (VALIDATION, "dash"), (REFERENCE, "dot"), (TEST, "dashdot"))
"""Colours that the colour-blind can tell apart, and a dash for who sees or prints none."""


def lines(
    series: Mapping[str, pd.Series], title: str, number_format: str, fill: bool = False
) -> go.Figure:
    """A line for each series, by date; the first is emphasised. title: with the unit."""
    figure = dated(next(iter(series.values())).index, title, "date (day)")
    for (colour, dash), (name, values) in zip(LINES, series.items()):
        first = dash == "solid"
        figure.add_scatter(
            x=values.index.to_numpy(),
            y=values.to_numpy(),
            name=name,
            mode="lines",
            line={"color": colour, "width": 2 if first else 1.8, "dash": dash},
            fill="tozeroy" if fill and first else None,
            hovertemplate=f"%{{x|%a %Y-%m-%d}}: %{{y:{number_format}}}<extra>{name}</extra>",
        )
    percent = PERCENT_TICKS if number_format.endswith("%") else None
    figure.update_yaxes(tickformat=percent)
    figure.update_layout(showlegend=len(series) > 1)
    return figure


def waterfall(parts: Mapping[str, float], title: str) -> go.Figure:
    """A bar for each part, which begins where the one before ended; the first and last from zero.

    parts: the last is the sum of the others.
    """
    names = [name.replace(" ", "<br>") for name in parts]  # narrow screens have little space
    values = list(parts.values())
    ends = np.cumsum(values[:-1]).tolist()
    starts = [0.0, *ends[:-1], 0.0]
    total = [place in (0, len(values) - 1) for place in range(len(values))]
    colours = [
        TRAIN if whole else TEST if v >= 0 else VALIDATION for v, whole in zip(values, total)
    ]
    figure = base("part (name)", title)
    figure.add_bar(
        x=names,
        y=values,
        base=starts,
        text=[f"{value:+z.1f}" for value in values],
        textposition="outside",
        cliponaxis=False,
        marker={"color": colours, "line": {"width": 0}},
        hovertemplate="%{x}: %{text}<extra></extra>",
    )
    figure.add_hline(0, line={"color": REFERENCE, "width": 1})
    figure.update_xaxes(tickangle=0)
    return figure


def bars(values: pd.Series, title: str, number_format: str) -> go.Figure:
    """A bar for each date, and their mean."""
    figure = dated(values.index, title, "date (day)")
    figure.add_bar(
        x=values.index.to_numpy(),
        y=values.to_numpy(),
        width=0.8 * DAY,
        marker={"color": TEST, "line": {"width": 0}},
        hovertemplate=f"%{{x|%a %Y-%m-%d}}: %{{y:{number_format}}}<extra></extra>",
    )
    figure.add_hline(float(values.mean()), line={"color": VALIDATION, "width": 2, "dash": "dash"})
    figure.update_yaxes(tickformat=PERCENT_TICKS if number_format.endswith("%") else None)
    return figure


def returns_distribution(returns: pd.Series) -> go.Figure:
    """Histogram of daily returns, and their mean."""
    return histogram(returns / BASIS_POINT, "daily return (basis points)", "+.0f")


def by_start_date(offsets: pd.DataFrame, column: str, title: str) -> go.Figure:
    """A bar for each start date of the backtest, and the median."""
    figure = base("start after the first signal (signal dates)", title)
    figure.add_bar(
        x=offsets.index.to_numpy(),
        y=offsets[column].to_numpy(),
        marker={"color": TEST, "line": {"width": 0}},
        hovertemplate="start %{x} dates later: %{y:+.1%} a year<extra></extra>",
    )
    median = float(offsets[column].median())
    figure.add_hline(median, line={"color": VALIDATION, "width": 2, "dash": "dash"})
    figure.update_yaxes(tickformat=PERCENT_TICKS)
    if len(offsets) <= 12:  # few bars would get ticks between them
        figure.update_xaxes(dtick=1)
    return figure


def sectors(shares: Mapping[str, float]) -> go.Figure:
    """Mean share of the account by sector, the largest at the top."""
    ordered = sorted(shares.items(), key=lambda item: item[1])[-15:]
    figure = base("mean share of the account (%)", "sector (name)")
    figure.add_bar(
        x=[share for _, share in ordered],
        y=[plain(name) for name, _ in ordered],
        orientation="h",
        marker={"color": TEST, "line": {"width": 0}},
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    figure.update_xaxes(tickformat=PERCENT_TICKS)
    return figure
