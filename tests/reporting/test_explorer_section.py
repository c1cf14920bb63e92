"""The explorer's data are those of the run, cut to what a page can hold."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reporting.run_folder import finished_run

from stockformer.evaluation.predictions import daily
from stockformer.evaluation.returns import BOUGHT, HELD, NOTHING, SOLD
from stockformer.reporting import explorer_section
from stockformer.runs.recorded_run import RecordedRun, read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return read_run(finished_run(tmp_path_factory.mktemp("tree") / "run"))


def unpacked(text: str, kind: str, dates: int = 25) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind).reshape(dates, 7)


def test_the_numbers_are_the_runs(run: RecordedRun) -> None:
    predictions = run.predictions
    assert predictions is not None
    data = json.loads(explorer_section.section(run).explorer)
    assert data["dates"] == [str(date) for date in predictions.signal_dates]
    assert data["tickers"] == predictions.tickers.tolist()
    forecast = unpacked(data["forecast"], "<i2") * data["forecastUnit"]
    np.testing.assert_allclose(forecast, predictions.prediction.mean(axis=1) * 1e4, atol=0.05)
    outcome = unpacked(data["outcome"], "<i2") * data["outcomeUnit"]
    unknown = unpacked(data["outcome"], "<i2") == explorer_section.UNKNOWN
    assert (unknown == ~predictions.valid.any(axis=1)).all()
    both = predictions.valid.all(axis=1)
    expected = predictions.label.mean(axis=1) * 1e4
    np.testing.assert_allclose(outcome[both], expected[both], atol=0.05)
    probability = unpacked(data["probability"], "u1") / 200
    np.testing.assert_allclose(probability, predictions.probability.mean(axis=1), atol=0.0026)
    np.testing.assert_allclose(data["rankIc"], daily(predictions)["rank_ic"], atol=1e-4)
    ranks = unpacked(data["rank"], "<i2")
    for day in range(25):
        known = ~unknown[day]
        assert sorted(ranks[day, known]) == list(range(1, known.sum() + 1))
        best = np.flatnonzero(ranks[day] == 1)[0]
        assert forecast[day, best] == forecast[day, known].max()
        assert (ranks[day, ~known] == 0).all()


def test_what_the_backtest_did_is_its_ledger(run: RecordedRun) -> None:
    ledger = run.ledger
    assert ledger is not None
    data = json.loads(explorer_section.section(run).explorer)
    action = unpacked(data["action"], "u1")
    trades = ledger.trades
    for code, side in ((BOUGHT, "buy"), (SOLD, "sell")):
        found = {
            (data["trades"][day], data["tickers"][stock])
            for day, stock in np.argwhere(action == code)
        }
        rows = trades[trades["side"] == side]
        assert found == set(zip(rows["date"].dt.strftime("%Y-%m-%d"), rows["ticker"]))
    after = np.isin(action, (BOUGHT, HELD)).sum()
    assert after == len(ledger.positions)
    assert (action == NOTHING).any()
    without = json.loads(explorer_section.section(replace(run, ledger=None)).explorer)
    assert not unpacked(without["action"], "u1").any()
    assert set(without["trades"]) == {""}


def test_a_large_run_keeps_its_last_dates_and_says_so(
    run: RecordedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Only" not in explorer_section.section(run).lead
    monkeypatch.setattr(explorer_section, "CELLS", 75)
    section = explorer_section.section(run)
    assert "Only the last 10 of 25 dates are in this page." in section.lead
    whole = run.predictions
    assert whole is not None
    data = json.loads(section.explorer)
    assert data["dates"] == [str(date) for date in whole.signal_dates[-10:]]
    unpacked(data["forecast"], "<i2", dates=10)


def test_the_largest_explorer_stays_within_its_budget(run: RecordedRun, tmp_path: Path) -> None:
    predictions = run.predictions
    assert predictions is not None
    data = explorer_section.data(predictions, run.ledger, 25)
    per_cell = len(data.split('"forecast":')[1]) / (25 * 7)
    assert per_cell * explorer_section.CELLS < 450_000


def test_without_forecasts_there_is_a_sentence(run: RecordedRun) -> None:
    section = explorer_section.section(replace(run, predictions=None))
    assert "no test predictions" in section.lead
    assert not section.explorer
