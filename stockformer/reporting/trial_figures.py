"""The leaderboard's figures, each a pure function of frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from stockformer.evaluation.quantities import Quantity
from stockformer.reporting.figures import REFERENCE, TEST, TRAIN, VALIDATION, base, plain
from stockformer.sweeps.selection import levels

FEW_LEVELS = 8
"""So many values of a setting stand evenly apart, each with its name."""
DECADES = 100.0
"""From this ratio of highest and lowest on an axis is logarithmic."""
THIRDS = (VALIDATION, TRAIN, REFERENCE)
"""Colours of the best, the middle and the worst third."""


def importance(drop: pd.Series) -> go.Figure:
    """A bar a setting, the most important at the top."""
    shown = drop.iloc[:12][::-1]
    keys = [str(key) for key in shown.index]
    figure = base("loss when shuffled (share)", "setting (key)")
    figure.add_bar(
        x=shown.to_numpy(),
        y=[plain(name) for name in short_names(keys)],
        customdata=[plain(key) for key in keys],
        orientation="h",
        marker={"color": TEST, "line": {"width": 0}},
        hovertemplate="%{customdata}: %{x:.3f}<extra></extra>",
    )
    figure.add_vline(0, line={"color": REFERENCE, "width": 1})
    figure.update_layout(showlegend=False)
    return figure


def pareto(values: pd.DataFrame, front: pd.DataFrame, axes: Sequence[Quantity]) -> go.Figure:
    """A point a configuration by two objectives, the front as a line.

    values, front: a row a configuration; their first two columns are drawn.
    """
    x, y = values.columns[:2]
    scales = [quantity.scale for quantity in axes]
    figure = base(*(quantity.axis for quantity in axes))
    for name, rows, mode, colour in (
        ("others", values.drop(front.index), "markers", REFERENCE),
        ("front", front.sort_values(x), "lines+markers", VALIDATION),
    ):
        figure.add_scatter(
            x=rows[x].to_numpy() * scales[0],
            y=rows[y].to_numpy() * scales[1],
            name=name,
            mode=mode,
            line={"color": colour, "width": 1.5, "shape": "linear"},
            marker={"color": colour, "size": 7},
            customdata=[plain(f"run {row}") for row in rows.index],
            hovertemplate=(
                f"%{{customdata}}: %{{x:{axes[0].spec}}}, %{{y:{axes[1].spec}}}<extra></extra>"
            ),
        )
    return figure


def parallel_coordinates(settings: pd.DataFrame, score: pd.Series, quantity: Quantity) -> go.Figure:
    """A line a run through its settings to its validation metric, coloured by its third.

    settings: a row a run, the best first, as text; score: the same rows. Plotly's own kind needs a
    script that writes scripts, which the page forbids; these lines are also printed.
    """
    axes = [*settings.columns, quantity.heading]
    places = [_places(settings[key]) for key in settings]
    places.append(_share(score.to_numpy(float), logarithmic=False))
    figure = base(f"setting, at the right the {quantity.title} (validation)", "value (low to high)")
    texts = [*(settings[key] for key in settings), score.map(quantity.format)]
    for row in reversed(range(len(score))):  # the best on top
        name = score.index[row]
        words = [plain(f"{axis} {column.iloc[row]}") for axis, column in zip(axes, texts)]
        figure.add_scatter(
            x=list(range(len(axes))),
            y=[float(place[row]) for place in places],
            mode="lines+markers",
            meta=str(name),  # what the page finds the run's line by
            line={"color": THIRDS[3 * row // len(score)], "width": 1.5},
            marker={"size": 5},
            hovertemplate="<br>".join([plain(f"run {name}"), *words]) + "<extra></extra>",
        )
    _label_axes(figure, [settings[key] for key in settings], score, quantity)
    figure.update_xaxes(
        tickvals=list(range(len(axes))),
        ticktext=[plain(name) for name in short_names(axes)],
        range=[-0.25, len(axes) - 0.75],
    )
    figure.update_yaxes(showticklabels=False, range=[-0.08, 1.12], showgrid=False)
    figure.update_layout(showlegend=False, hovermode="closest", height=360)
    return figure


def short_names(keys: list[str]) -> list[str]:
    """The last part of each dotted key; the whole key where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys)]


def _places(column: pd.Series) -> np.ndarray:
    """From 0 to 1 on a setting's axis."""
    numbers = levels(column).to_numpy()
    distinct = np.unique(numbers)
    if len(distinct) <= FEW_LEVELS:
        return _share(np.searchsorted(distinct, numbers).astype(float), logarithmic=False)
    return _share(numbers, distinct[0] > 0 and distinct[-1] / distinct[0] >= DECADES)


def _share(values: np.ndarray, logarithmic: bool) -> np.ndarray:
    values = np.log(values) if logarithmic else values
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
    return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)


def _label_axes(
    figure: go.Figure, columns: list[pd.Series], score: pd.Series, quantity: Quantity
) -> None:
    """What stands where on each axis: every value where they are few, else both ends."""
    texts: list[tuple[int, float, str]] = []
    for position, column in enumerate(columns):
        places = _places(column)
        by_place = dict(sorted(zip(places.tolist(), column)))
        ends = {min(by_place), max(by_place)} if len(by_place) > FEW_LEVELS else set(by_place)
        texts += [(position, place, by_place[place]) for place in sorted(ends)]
    if score.notna().any():
        texts += [
            (len(columns), 0.0, quantity.format(float(score.min()))),
            (len(columns), 1.0, quantity.format(float(score.max()))),
        ]
    figure.add_scatter(
        x=[x for x, _, _ in texts],
        y=[y for _, y, _ in texts],
        text=[plain(_short(text)) for _, _, text in texts],
        mode="text",
        textposition="top center",
        hoverinfo="skip",
        cliponaxis=False,
    )


def _short(text: str, length: int = 16) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
