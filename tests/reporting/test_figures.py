"""Figures show what their frame says, and every axis has a name and a unit."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from reporting.run_folder import some_predictions

from stockformer.evaluation.metrics import METRICS
from stockformer.evaluation.predictions import calibration, daily
from stockformer.reporting import figures, tables, trading_figures, trial_figures

EPOCHS = pd.DataFrame(
    {"train_loss": [3.0, 2.0], "validation_loss": [4.0, np.nan], "learning_rate": [1e-3, 1e-4]},
    index=pd.Index([1, 2], name="epoch"),
)
DAYS = daily(some_predictions())
RETURNS = DAYS["top_minus_bottom"]
QUANTILES = pd.DataFrame({q: RETURNS * q for q in range(1, 6)})
SETTINGS = pd.DataFrame(
    {"optimizer.lr": [f"1e-{n}" for n in range(12)], "model.name": list("abbbbbbbbbbb")}
)
SCORE = pd.Series([*np.linspace(0.05, -0.05, 11), np.nan])
BINNED = pd.DataFrame({"prediction": [1.5, 3.5], "label": [15.0, 40.0], "n": [2, 2]})


@pytest.mark.parametrize(
    "figure",
    [
        figures.training_curve(EPOCHS, "loss", METRICS["mae"], 1),
        figures.learning_rate(EPOCHS),
        figures.metric_by_day(DAYS, "rank_ic"),
        figures.cumulated_by_day(DAYS, "rank_ic"),
        figures.outcome_by_prediction(BINNED),
        figures.calibration(calibration(some_predictions())),
        figures.metric_distribution(DAYS, "rank_ic"),
        figures.metric_distribution(DAYS.assign(rank_ic=np.nan), "rank_ic"),
        figures.quantile_means(QUANTILES),
        figures.quantiles_cumulated(QUANTILES),
        figures.stability_by_day(DAYS["rank_ic"]),
        trading_figures.lines({"a": RETURNS, "b": RETURNS}, "return (%)", ".1%", fill=True),
        trading_figures.bars(RETURNS, "return (%)", ".1%"),
        trading_figures.returns_distribution(RETURNS),
        trading_figures.by_start_date(pd.DataFrame({"x": [0.1, -0.1]}), "x", "excess (%)"),
        trading_figures.sectors({"<b>": 0.5, "IT": 0.2}),
        trial_figures.importance(pd.Series({"optimizer.lr": 0.5, "seed": -0.1})),
        trial_figures.parallel_coordinates(SETTINGS, SCORE, METRICS["rank_ic"]),
    ],
)
def test_every_axis_has_a_name_and_a_unit(figure: go.Figure) -> None:
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert re.fullmatch(r".+ \(.+\)", axis.title.text)
        assert axis.exponentformat == "none"


def test_a_training_curve_shows_both_parts_and_the_tested_epoch() -> None:
    figure = figures.training_curve(EPOCHS, "loss", METRICS["mae"], 2)
    assert [trace.name for trace in figure.data] == ["train", "validation"]
    np.testing.assert_array_equal(figure.data[1].y, [4.0, np.nan])
    assert figure.layout.shapes[0].x0 == 2
    assert not figures.training_curve(EPOCHS, "loss", METRICS["mae"], None).layout.shapes


def test_daily_returns_are_in_basis_points() -> None:
    assert METRICS["top_minus_bottom"].format(0.00123) == "+12.3"
    figure = figures.metric_by_day(DAYS, "top_minus_bottom")
    np.testing.assert_allclose(figure.data[0].y, DAYS["top_minus_bottom"] * 1e4)
    assert figure.layout.yaxis.title.text.endswith("(basis points)")


def test_a_cumulated_metric_passes_over_days_without_it() -> None:
    days = pd.DataFrame({"rank_ic": [0.1, np.nan, -0.3]}, index=DAYS.index[:3])
    (trace,) = figures.cumulated_by_day(days, "rank_ic").data
    np.testing.assert_allclose(trace.y, [0.1, 0.1, -0.2])


def test_a_model_that_never_tells_stocks_apart_still_has_its_figures() -> None:
    days = DAYS.assign(rank_ic=np.nan)
    assert not figures.metric_by_day(days, "rank_ic").layout.shapes
    np.testing.assert_array_equal(figures.cumulated_by_day(days, "rank_ic").data[0].y, 0.0)


def test_lines_differ_in_colour_and_dash() -> None:
    series = dict.fromkeys(("after costs", "universe", "index"), RETURNS)
    lines = [trace.line for trace in trading_figures.lines(series, "x (y)", ".1f").data]
    assert len({line.color for line in lines}) == len({line.dash for line in lines}) == 3


@pytest.mark.parametrize("significant", [True, False])
def test_a_forest_shows_which_leads_are_significant(significant: bool) -> None:
    leads = pd.DataFrame(
        {
            "lead": [0.2, -0.1],
            "lower": [0.1, -0.2],
            "upper": [0.3, 0.0],
            "significant": significant,
        },
        index=["<b>ridge", "zero"],
    ).assign(significant=significant)
    figure = figures.forest(leads, "lead (x)", "+.1f", 100)
    symbols = [trace.marker.symbol for trace in figure.data]
    assert symbols == (["circle", "x"] if significant else ["circle-open"])
    np.testing.assert_allclose(figure.data[0].error_x.arrayminus[0], 0.1)
    assert list(figure.layout.yaxis.categoryarray) == ["zero", "&lt;b&gt;ridge"]
    assert not figures.forest(pd.DataFrame(), "lead (x)", "+.1f", 100).data


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 0.149, [0.0, 0.1]),
        (-0.8, 0.6, [-0.5, 0.0, 0.5]),
        (-13.0, 3.0, [-10.0, 0.0]),
        (0.0, 0.0, [0.0]),
        (0.2, 0.6, [0.0, 0.5]),
    ],
)
def test_a_forest_has_few_round_ticks(low: float, high: float, ticks: list[float]) -> None:
    leads = pd.DataFrame(
        {"lead": [low], "lower": [low], "upper": [high], "significant": [False]}, index=["a"]
    )
    figure = figures.forest(leads, "lead (x)", "+.1f", 100)
    np.testing.assert_allclose(figure.layout.xaxis.tickvals, ticks)


def test_a_month_with_one_date_is_not_the_darkest() -> None:
    years = pd.DataFrame([[0.2, 0.1, 0.15]], index=[2024], columns=[1, 2, "year"])
    counts = pd.Series([1, 20], index=pd.MultiIndex.from_tuples([(2024, 1), (2024, 2)]))
    shades = tables.by_month(years, "t", METRICS["rank_ic"], counts).shades
    assert shades == {(0, 1): pytest.approx(0.447, abs=1e-3), (0, 2): 1.0}
    assert tables.by_month(years, "t", METRICS["rank_ic"]).shades[0, 1] == 1.0


def test_a_histogram_counts_every_day_and_stays_small() -> None:
    far_off = pd.Series([*np.zeros(500), *np.linspace(0, 1, 500), 1e6])
    (trace,) = figures.histogram(far_off, "x (y)", ".1f").data
    assert sum(trace.y) == 1001
    assert len(trace.y) <= 80


def test_parallel_coordinates_run_from_low_to_high_and_take_a_decade_as_a_step() -> None:
    figure = trial_figures.parallel_coordinates(SETTINGS, SCORE, METRICS["rank_ic"])
    lines = {trace.meta: trace for trace in figure.data if trace.meta is not None}
    assert list(lines) == [str(run) for run in reversed(range(12))]  # the best is drawn last
    np.testing.assert_allclose([lines[str(n)].y[0] for n in range(12)], np.linspace(1, 0, 12))
    assert (lines["0"].y[1:], lines["10"].y[1:]) == ((0.0, 1.0), (1.0, 0.0))
    assert np.isnan(lines["11"].y[2])
    colours = [lines[str(n)].line.color for n in (0, 4, 11)]
    assert colours == list(trial_figures.THIRDS)
    assert list(figure.layout.xaxis.ticktext) == ["lr", "name", "rank IC"]
    assert trial_figures.short_names(["a.x", "b.x", "c.y"]) == ["a.x", "b.x", "y"]
