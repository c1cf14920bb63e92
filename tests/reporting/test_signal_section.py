"""The sections on signal, money and probabilities say what they show, and what they lack."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reporting.run_folder import finished_run, some_predictions, summary

from stockformer.evaluation.record import EvaluationRecord
from stockformer.reporting import (
    money_section,
    probabilities_section,
    report,
    signal_section,
    trading_figures,
)
from stockformer.runs.recorded_run import RecordedRun, read_run

EARLIER = "evaluated by an earlier version"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return read_run(finished_run(tmp_path_factory.mktemp("tree") / "run", dates=60))


def earlier(run: RecordedRun) -> RecordedRun:
    """The run as an earlier version recorded it."""
    assert run.evaluation is not None
    data = json.loads(json.dumps(run.evaluation.to_json()))
    del data["signal"], data["backtest"]["waterfall"]
    return replace(run, evaluation=EvaluationRecord.from_json(data))


def of_forecasts(run: RecordedRun, prediction: np.ndarray, **others: np.ndarray) -> RecordedRun:
    """The run with these forecasts instead, evaluated."""
    predictions = replace(some_predictions(60), prediction=prediction, **others)
    return replace(run, predictions=predictions, evaluation=summary(predictions))


def test_what_is_recorded_is_read_back(run: RecordedRun) -> None:
    assert run.evaluation is not None
    wanted, read = summary(some_predictions(60)), run.evaluation
    assert wanted.signal is not None
    assert read.signal is not None
    pd.testing.assert_frame_equal(read.signal.decay, wanted.signal.decay)
    assert wanted.signal.sectors is not None
    pd.testing.assert_frame_equal(
        read.signal.sectors, wanted.signal.sectors.reset_index(drop=True), check_dtype=False
    )
    assert read.signal.size is None  # the market has no volumes
    assert wanted.backtest is not None
    assert read.backtest is not None
    assert read.backtest.waterfall == wanted.backtest.waterfall


def test_the_signal_has_a_figure_for_each_question(run: RecordedRun) -> None:
    section = signal_section.section(run)
    assert [plot.title for plot in section.plots] == [
        *("Rank IC, cumulated", "Rank IC by day"),
        *("Rank IC with each later day", "Rank IC with the return up to each day"),
        *("Return by fifth of the forecasts", "Return by fifth, cumulated"),
        *("Prediction against outcome", "Stability of the ranking"),
    ]
    assert all(plot.caption for plot in section.plots)
    assert [table.title.split(" (")[0] for table in section.details[:-1]] == [
        "Rank IC by volatility of the market in the 21 days before",
        "Rank IC by month",
    ]  # no sector of the seven stocks has five


def test_an_earlier_record_is_shown_without_what_it_lacks(run: RecordedRun) -> None:
    section = signal_section.section(earlier(run))
    assert EARLIER in section.remarks[0]
    assert len(section.plots) == 6
    money = money_section.section(earlier(run))
    assert EARLIER in money.remarks[0]
    assert [plot.title for plot in money.plots] == ["Equity"]


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_a_constant_forecast_ranks_nothing_and_draws_no_quantiles(
    run: RecordedRun, noise: float
) -> None:
    random = np.random.default_rng(0)
    constant = 0.001 * (1 + noise * random.normal(size=(60, 2, 7)))
    section = signal_section.section(of_forecasts(run, constant))
    assert not [plot for plot in section.plots if plot.title.startswith("Return by fifth")]
    said = " ".join([section.lead, *section.remarks])
    assert "othing is ranked" in said


def test_no_valid_cell_is_a_sentence_everywhere(run: RecordedRun, tmp_path: Path) -> None:
    before = some_predictions(60)
    nothing = np.zeros_like(before.valid)
    empty = of_forecasts(
        run, before.prediction, valid=nothing, label=np.full(nothing.shape, np.nan), up=nothing
    )
    assert signal_section.section(empty).lead == signal_section.NO_VALID_CELL
    assert probabilities_section.section(empty).lead == signal_section.NO_VALID_CELL
    assert money_section.section(empty).lead == money_section.NO_BACKTEST
    html = report.page(empty, tmp_path).html()
    assert "nan" not in html.split("<script>")[0].replace("nance", "").lower()


def test_the_waterfall_bars_end_where_the_last_begins(run: RecordedRun) -> None:
    section = money_section.section(run)
    figure = section.plots[0].figure.to_dict()["data"][0]
    starts, values = figure["base"], figure["y"]
    for place in range(1, len(values) - 1):
        assert starts[place] == pytest.approx(starts[place - 1] + values[place - 1])
    assert starts[-2] + values[-2] == pytest.approx(values[-1])
    assert starts[0] == starts[-1] == 0.0
    shown = [float(row[1]) for row in section.details[0].rows]
    assert sum(shown[:-1]) == pytest.approx(shown[-1], abs=0.3)  # rounded to a tenth


def test_turnover_is_one_sided(run: RecordedRun) -> None:
    assert run.evaluation is not None
    assert run.evaluation.backtest is not None
    both = run.evaluation.backtest.figures.loc["base", "turnover"]
    said = " ".join(money_section.section(run).remarks)
    assert f"Turnover, one-sided: {both / 2:.1%} of the account a day" in said
    assert "Capacity: unknown" in said


def test_lines_differ_by_more_than_their_colour() -> None:
    series = pd.Series([0.1, 0.2], index=pd.date_range("2024-01-01", periods=2))
    figure = trading_figures.lines(dict.fromkeys("abcd", series), "wealth (1)", ".3f")
    assert len({line["line"]["dash"] for line in figure.to_dict()["data"]}) == 4


def test_probabilities_worse_than_a_constant_are_said_to_be(run: RecordedRun) -> None:
    right = some_predictions(60)
    for probability, said in (
        (np.where(right.up, 0.1, 0.9), "are significantly worse than always forecasting"),
        (np.where(right.up, 0.9, 0.1), "are significantly better than always forecasting"),
    ):
        judged = of_forecasts(run, right.prediction, probability=probability)
        section = probabilities_section.section(judged)
        assert said in section.lead
        cells = section.tables[0].rows[-1]
        assert cells[2].startswith("+" if "better" in said else "-")
        counts = section.plots[-1].figure.data[0].y
        assert sum(counts) == right.valid.sum()


def test_the_known_share_of_ups_is_the_reference_where_it_was_recorded(run: RecordedRun) -> None:
    assert run.evaluation is not None
    table = run.evaluation.table.copy()
    row = table.loc["zero_return"] * 1.0
    row["brier"], row["brier_lead"], row["brier_t"], row["brier_p"] = 0.25, -0.01, -4.0, 1e-4
    row["brier_lower"], row["brier_upper"] = -0.015, -0.005
    table.loc["training_mean"] = row
    judged = replace(run, evaluation=replace(run.evaluation, table=table))
    section = probabilities_section.section(judged)
    assert section.tables[0].rows[1][2:4] == ("-4.00%", "-6.00% to -2.00%")
    assert (
        'significantly worse than always forecasting the share of "up" in training' in section.lead
    )


def test_a_month_of_one_date_is_pale() -> None:
    rows = [
        ("bank", "2024-01", 0.2, 20, 26.0),
        ("bank", "2024-02", 0.2, 1, 26.0),
        ("oil", "2024-01", -0.2, 20, 26.0),
    ]
    sectors = pd.DataFrame(rows, columns=["sector", "month", "rank_ic", "n_dates", "n_stocks"])
    table = signal_section.by_sector(sectors)
    assert table.header == ("sector", "stocks", "2024-01", "2024-02", "all")
    assert table.rows[0] == ("bank", "26", "+0.20 (20)", "+0.20 (1)", "+0.20 (21)")
    assert table.rows[1][3] == ""
    assert table.shades[0, 2] == 1.0
    assert table.shades[0, 3] == pytest.approx(1 / 3, abs=0.01)
    assert table.shades[1, 2] == -1.0
    years = pd.concat([sectors.assign(month=f"20{y}-0{m}") for y in (23, 24) for m in range(1, 8)])
    assert signal_section.by_sector(years).header[2:] == ("2023", "2024", "all")


def test_how_long_the_signal_lasts_is_said() -> None:
    def decay(*lower: float) -> pd.DataFrame:
        return pd.DataFrame({"lower": lower}, index=range(1, len(lower) + 1))

    assert "not above zero" in signal_section.lasting(decay(-0.1, 0.1))
    assert "the first day" in signal_section.lasting(decay(0.1, -0.1, 0.1))
    assert "first 2 days" in signal_section.lasting(decay(0.1, 0.1))
