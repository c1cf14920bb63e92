"""Figures show what their frame says, and every axis has a name and a unit."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from reporting.run_folder import some_predictions

from stockformer.evaluation.forecasts import calibration_intervals, quantile_estimates
from stockformer.evaluation.metrics import METRICS
from stockformer.evaluation.predictions import calibration, daily
from stockformer.evaluation.statistics import no_skill_band
from stockformer.reporting import (
    figures,
    signal_figures,
    tables,
    trading_figures,
    trial_figures,
)

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
ESTIMATES = quantile_estimates(QUANTILES, 1)
DECAY = pd.DataFrame({"rank_ic": [0.1], "lower": [0.0], "upper": [0.2], "n_dates": [9]}, index=[1])
BINNED = pd.DataFrame({"prediction": [1.5, 3.5], "label": [15.0, 40.0], "n": [2, 2]})


@pytest.mark.parametrize(
    "figure",
    [
        figures.training_curve(EPOCHS, "loss", METRICS["mae"], 1),
        figures.learning_rate(EPOCHS),
        signal_figures.cumulated(no_skill_band(DAYS["rank_ic"], 1)),
        signal_figures.by_day(DAYS["rank_ic"], (DAYS["rank_ic"], 21)),
        signal_figures.by_day(DAYS["rank_ic"], None),
        signal_figures.decay(DECAY, "", "rank IC (1)"),
        signal_figures.quantiles(ESTIMATES),
        signal_figures.quantiles_cumulated(QUANTILES),
        signal_figures.outcome_by_prediction(BINNED),
        signal_figures.calibration(calibration_intervals(some_predictions(), 5)),
        signal_figures.counts(calibration(some_predictions())),
        signal_figures.importance(ESTIMATES),
        figures.stability_by_day(DAYS["rank_ic"]),
        trading_figures.lines({"a": RETURNS, "b": RETURNS}, "return (%)", ".1%", fill=True),
        trading_figures.waterfall({"a": 3.0, "b": -1.0, "c": 2.0}, "excess (1)"),
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
    figure = figures.training_curve(EPOCHS, "loss", METRICS["rank_ic"], 2)
    assert [trace.name for trace in figure.data] == ["train", "validation"]
    np.testing.assert_array_equal(figure.data[1].y, [4.0, np.nan])
    assert figure.layout.shapes[0].x0 == 2
    assert not figures.training_curve(EPOCHS, "loss", METRICS["rank_ic"], None).layout.shapes


def test_daily_returns_are_in_basis_points() -> None:
    assert METRICS["top_minus_bottom"].format(0.00123) == "+12.3"
    figure = figures.training_curve(EPOCHS, "loss", METRICS["top_minus_bottom"], None)
    np.testing.assert_allclose(figure.data[0].y, [3e4, 2e4])
    assert figure.layout.yaxis.title.text.endswith("(basis points)")


def test_a_cumulated_metric_passes_over_days_without_it() -> None:
    series = pd.Series([0.1, np.nan, -0.3], index=DAYS.index[:3])
    *_, trace = signal_figures.cumulated(no_skill_band(series, 1)).data
    np.testing.assert_allclose(trace.y, [0.1, 0.1, -0.2])


def test_error_bars_reach_to_the_ends_of_the_interval() -> None:
    (trace,) = signal_figures.quantiles(ESTIMATES).data
    np.testing.assert_allclose(trace.y + trace.error_y.array, ESTIMATES["upper"] * 1e4)
    np.testing.assert_allclose(trace.y - trace.error_y.arrayminus, ESTIMATES["lower"] * 1e4)


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
