"""The explorer in a real browser, by keyboard only. Skipped where there is no Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from reporting.run_folder import finished_run

pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
from reporting.test_browser import Visit, browser  # noqa: F401 (a fixture)

from stockformer.reporting import report
from stockformer.runs.recorded_run import RecordedRun, read_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return read_run(finished_run(tmp_path_factory.mktemp("tree") / "run"))


@pytest.fixture
def visit(browser: Browser, run: RecordedRun, tmp_path: Path) -> Visit:  # noqa: F811
    found = Visit(browser, report.write_report(run, tmp_path / "report.html"))
    found.page.locator(".explorer").scroll_into_view_if_needed()
    found.page.locator(".explorer option").first.wait_for(state="attached")
    return found


def rows(visit: Visit) -> list[list[str]]:
    cells: list[list[str]] = visit.page.eval_on_selector_all(
        ".explorer tbody tr", "rows => rows.map(row => [...row.cells].map(c => c.textContent))"
    )
    return cells


def said(visit: Visit) -> str:
    return visit.page.text_content(".explorer p") or ""


def test_a_date_chosen_by_keyboard_shows_its_stocks(visit: Visit, run: RecordedRun) -> None:
    assert run.predictions is not None
    assert run.ledger is not None
    visit.page.focus(".explorer select")
    visit.page.keyboard.press("ArrowUp")  # the day before the last
    day = -2
    predictions = run.predictions
    assert f"Signal of {predictions.signal_dates[day]}: rank IC " in said(visit)
    shown = rows(visit)
    assert len(shown) == len(predictions.tickers)
    forecast = predictions.prediction[day].mean(axis=0) * 1e4
    for name, rank, value, *_ in shown:
        stock = predictions.tickers.tolist().index(name)
        assert float(value) == pytest.approx(forecast[stock], abs=0.06)
        assert (rank == "") == (not predictions.valid[day, :, stock].any())
    outcomes = {row[0]: (float(row[4]), int(row[5])) for row in shown if row[4]}
    highest_first = sorted(outcomes, key=lambda name: -outcomes[name][0])
    assert [outcomes[name][1] for name in highest_first] == list(range(1, len(outcomes) + 1))
    trade_date = run.ledger.equity.index[day]
    positions = run.ledger.positions
    held = set(positions["ticker"][positions["date"] == trade_date])
    assert {row[0] for row in shown if row[6] in ("bought", "held")} == held
    assert not visit.complaints
    assert len(visit.requests) == 1


def test_a_stock_typed_shows_its_dates_and_a_figure(visit: Visit, run: RecordedRun) -> None:
    assert run.predictions is not None
    visit.page.focus(".explorer select")
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.type("<b>X")  # case does not matter
    visit.page.keyboard.press("Enter")
    assert said(visit).startswith("<b>x: ")
    shown = rows(visit)
    assert [row[0] for row in shown] == [str(date) for date in run.predictions.signal_dates[::-1]]
    visit.page.wait_for_selector(".explorer .own-plot .trace")
    visit.page.fill(".explorer input", "nobody")
    visit.page.keyboard.press("Enter")
    assert said(visit) == "No stock is named nobody."
    assert not visit.complaints


def test_its_controls_have_names(visit: Visit) -> None:
    tree = visit.page.locator(".explorer").aria_snapshot()
    assert 'combobox "date"' in tree
    assert 'combobox "or stock"' in tree
    assert 'region "Forecasts, outcomes and trades"' in tree
