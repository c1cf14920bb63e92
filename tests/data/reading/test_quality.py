"""The quality report: what it counts, what it says, and that nothing in it is taken for markup."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_data import PriceFiles, source_settings

from stockformer.data.panel import Panel
from stockformer.data.reading.findings import WARNING, Finding
from stockformer.data.reading.quality import MISSING, NOT_LISTED, TRADED, Report, report
from stockformer.data.sources import ohlcv, phase5
from stockformer.reporting.quality_page import COLOURS, html, verdict


@pytest.fixture
def panel(tmp_path: Path) -> Panel:
    files = PriceFiles(tmp_path / "data")
    files.frames["AAA"] = files.frames["AAA"][30:]
    files.frames["M&M"].loc[[10, 11], "Volume"] = 0
    files.frames["NA"].loc[40:, ["Open", "High", "Low", "Close"]] *= 2
    files.write()
    return ohlcv.load(**source_settings("ohlcv", path=str(files.root)))


def test_the_report_counts_by_stock_and_day(panel: Panel) -> None:
    made = report(panel, "mine")
    column = {ticker: i for i, ticker in enumerate(panel.tickers.tolist())}
    assert (made.states[:30, column["AAA"]] == NOT_LISTED).all()
    assert (made.states[[10, 11], column["M&M"]] == MISSING).all()
    assert (made.states == TRADED).sum() == 480 - 30 - 2
    stocks = made.stocks
    assert stocks.index[0] == "M&M"
    assert stocks.loc["M&M", "coverage"] == 78 / 80
    assert stocks.loc["M&M", "zero volume"] == 2
    assert stocks.loc["AAA", "first"] == "2023-02-13"
    assert stocks.loc["AAA", "coverage"] == 1.0
    assert stocks.loc["NA", "suspected corporate action"] == 1
    assert stocks["zero volume"].sum() == 2


def test_the_report_reads_as_lines(panel: Panel) -> None:
    lines = report(panel, "mine").lines()
    assert lines[0] == (
        "data quality of mine: 6 stocks, 80 sessions, 2023-01-02 to 2023-04-21, "
        "93.3% of all cells traded"
    )
    assert lines[2] == "survivorship: fixed list"
    assert "listed later (1): AAA 2023-02-13" in lines
    assert any(line.startswith("warning - suspected corporate action: ") for line in lines)


def test_weekend_sessions_and_long_breaks_are_listed() -> None:
    dates = np.array(["2024-01-04", "2024-01-06", "2024-01-15"], "datetime64[D]")
    panel = Panel(
        dates=dates,
        tickers=np.array(["A", "B"]),
        returns=np.array([[np.nan, np.nan], [0.1, 0.1], [0.1, np.nan]]),
        factors=np.zeros((3, 2, 0), np.float32),
        factor_names=(),
    )
    made = report(panel, "x")
    assert made.sessions["what"].to_dict() == {
        "2024-01-06": "weekend session",
        "2024-01-15": "first session after 9 days",
    }
    assert (made.states[0] == TRADED).all()
    assert made.lines()[-1] == "nothing found"


def test_a_weekend_session_or_gap_that_was_found_is_told_once() -> None:
    dates = np.array(["2024-01-04", "2024-01-06", "2024-01-11", "2024-03-15"], "datetime64[D]")
    findings = (
        Finding("a session on a weekend", "x", date="2024-01-06", check="weekend", level=WARNING),
        Finding("no session for 64 days", "x", date="2024-03-15", check="gap", level=WARNING),
    )
    panel = Panel(
        dates=dates,
        tickers=np.array(["A", "B"]),
        returns=np.full((4, 2), 0.1),
        factors=np.zeros((4, 2, 0), np.float32),
        factor_names=(),
        findings=findings,
    )
    text = "\n".join(report(panel, "x").lines()[1:])
    for date in ("2024-01-06", "2024-01-11", "2024-03-15"):
        assert text.count(date) == 1
    assert "calendar (1): 2024-01-11 first session after 5 days" in text


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]


def test_the_page_needs_nothing_else_and_escapes_every_name(panel: Panel) -> None:
    page = html(report(panel, "<script>alert(1)</script>"))
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.seen
    assert "link" not in tags.seen
    assert all(address.startswith("data:image/png;base64,") for address in tags.addresses)
    assert "M&amp;M" in page
    assert "M&M" not in page
    assert "suspected corporate action" in page


def test_the_page_begins_with_whether_the_data_can_be_used(panel: Panel) -> None:
    def said(*findings: Finding, notes: tuple[str, ...] = ()) -> tuple[str, str]:
        return verdict(report(replace(panel, findings=findings, notes=notes), "mine"))

    stale = Finding("stale", check="stale price", level="warning", count=12)
    wrong = Finding("negative", check="price", level="error", count=1200)
    mended = Finding("doubled", check="duplicate", level="repaired", count=3)
    assert said() == ("usable", "Usable: no check found an error or a reason for a warning.")
    assert said(mended)[1].endswith(" 3 cells were repaired.")
    assert said(mended, stale) == (
        "warning",
        "Usable with warnings: stale price (12); look at these before you trust a result.",
    )
    assert said(stale, wrong) == ("error", "Not usable: price (1,200); correct these first.")
    kind, sentence = said(notes=("survivorship: fixed list",))
    assert (kind, sentence) == ("warning", "Usable with warnings: survivorship: fixed list.")
    page = html(report(replace(panel, findings=(stale,)), "mine"))
    assert page.index("Usable with warnings") < page.index("<h2>")
    assert page.count("class='caption'") == 4


def test_the_heat_map_shows_each_cell_in_its_colour(panel: Panel) -> None:
    made = report(panel, "mine")
    pixels = picture(made)
    assert pixels.shape == (6, 80, 3)
    colours = np.array([COLOURS[state] for state in range(len(COLOURS))])
    position = {ticker: i for i, ticker in enumerate(panel.tickers.tolist())}
    for row, ticker in enumerate(made.stocks.index):
        np.testing.assert_array_equal(pixels[row], colours[made.states[:, position[ticker]]])


def picture(made: Report) -> np.ndarray:
    """The colours (N, T, 3) of the page's picture."""
    found = re.search(r"base64,([^']+)'", html(made))
    assert found is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB"))


def test_the_prepared_arrays_go_through_the_same_checks(shared: Path) -> None:
    panel = phase5.load(**source_settings("nifty200_phase5", data_dir=str(shared / "data")))
    found = {(f.check, f.ticker, f.date) for f in panel.findings}
    assert ("suspected corporate action", "NMDC", "2022-10-27") in found
    assert {date for check, _, date in found if check == "weekend"} == {
        *("2023-11-12", "2024-01-20", "2024-03-02", "2024-05-18")
    }
    assert (report(panel, "phase5").states == TRADED).all()


def test_the_coverage_can_be_read_without_colours() -> None:
    """Traded, missing and not listed differ as greys too (ITU-R BT.601)."""
    greys = sorted(0.299 * r + 0.587 * g + 0.114 * b for r, g, b in COLOURS.values())
    assert min(np.diff(greys)) > 50
