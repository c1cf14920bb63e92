"""Figures show what their frame says, and every axis has a name and a unit."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from reporting.run_folder import some_predictions

from stockformer.evaluation.metrics import calibration, daily
from stockformer.reporting import figures
from stockformer.reporting.quantities import METRICS

EPOCHS = pd.DataFrame(
    {"train_loss": [3.0, 2.0], "validation_loss": [4.0, np.nan], "learning_rate": [1e-3, 1e-4]},
    index=pd.Index([1, 2], name="epoch"),
)
DAYS = daily(some_predictions())
CELLS = pd.DataFrame({"prediction": [3.0, 1.0, 2.0, 4.0], "label": [30.0, 10.0, 20.0, 50.0]})


@pytest.mark.parametrize(
    "figure",
    [
        figures.training_curve(EPOCHS, "loss", METRICS["mae"], 1),
        figures.learning_rate(EPOCHS),
        figures.metric_by_day(DAYS, "rank_ic"),
        figures.cumulated_by_day(DAYS, "rank_ic"),
        figures.outcome_by_prediction(CELLS),
        figures.calibration(calibration(some_predictions())),
    ],
)
def test_every_axis_has_a_name_and_a_unit(figure: go.Figure) -> None:
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert re.fullmatch(r".+ \(.+\)", axis.title.text)


def test_a_training_curve_shows_both_parts_and_the_tested_epoch() -> None:
    figure = figures.training_curve(EPOCHS, "loss", METRICS["mae"], 2)
    assert [trace.name for trace in figure.data] == ["train", "validation"]
    np.testing.assert_array_equal(figure.data[1].y, [4.0, np.nan])
    assert figure.layout.shapes[0].x0 == 2
    assert not figures.training_curve(EPOCHS, "loss", METRICS["mae"], None).layout.shapes


def test_a_cumulated_metric_passes_over_days_without_it() -> None:
    days = pd.DataFrame({"rank_ic": [0.1, np.nan, -0.3]}, index=DAYS.index[:3])
    (trace,) = figures.cumulated_by_day(days, "rank_ic").data
    np.testing.assert_allclose(trace.y, [0.1, 0.1, -0.2])


def test_outcomes_are_averaged_in_bins_of_equally_many_forecasts() -> None:
    trace = figures.outcome_by_prediction(CELLS, bins=2).data[1]
    np.testing.assert_allclose(trace.x, [1.5, 3.5])
    np.testing.assert_allclose(trace.y, [15.0, 40.0])
    np.testing.assert_array_equal(trace.customdata, [2, 2])


def test_forecasts_that_are_all_the_same_are_one_bin() -> None:
    trace = figures.outcome_by_prediction(CELLS.assign(prediction=0.0)).data[1]
    np.testing.assert_allclose((trace.x, trace.y), ([0.0], [27.5]))


def test_a_model_that_never_tells_stocks_apart_still_has_its_figures() -> None:
    days = DAYS.assign(rank_ic=np.nan)
    assert not figures.metric_by_day(days, "rank_ic").layout.shapes
    np.testing.assert_array_equal(figures.cumulated_by_day(days, "rank_ic").data[0].y, 0.0)
