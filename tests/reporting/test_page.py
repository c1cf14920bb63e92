"""The page's own parts: the vendored script, what stands for an empty figure, names, anchors."""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np
import plotly.graph_objects as go
import pytest
from conftest import ROOT
from plotly.offline import get_plotlyjs_version

from stockformer.reporting import figures
from stockformer.reporting.page import NO_VALUE, PLOTLY, Mark, Page, Plot, Section
from stockformer.reporting.tables import Table

TABLE = Table(("", "a"), [("x", "1")], title="A table")


def html(*sections: Section, **parts: object) -> str:
    return Page("run", "name", "headline", "", "finished", sections, **parts).html()  # type: ignore[arg-type]


def test_the_script_is_the_one_that_the_figures_are_written_for() -> None:
    head = PLOTLY.read_text("utf-8")[:200]
    version = re.search(r"plotly\.js \(basic - minified\) v([\d.]+)", head)
    assert version is not None
    assert version[1] == get_plotlyjs_version()
    assert f"plotly.js {version[1]}" in (ROOT / "docs/dependencies.md").read_text()
    vendor = files("stockformer.reporting") / "vendor"
    assert "MIT License" in (vendor / "plotly-basic.LICENSE").read_text("utf-8")
    script = PLOTLY.read_text("utf-8").lower()
    assert "</script" not in script
    assert "<!--" not in script


@pytest.mark.parametrize(("values", "empty"), [([1.0, np.nan], False), ([np.nan, np.nan], True)])
def test_a_figure_without_a_value_is_a_sentence(values: list[float], empty: bool) -> None:
    figure = figures.base("x (unit)", "y (unit)")
    figure.add_scatter(x=[1, 2], y=np.array(values))
    page = html(Section("One", plots=[Plot("A figure", figure)]))
    assert (NO_VALUE in page) == empty
    assert ('class="plot"' in page) == (not empty)
    assert Plot("None", go.Figure()).missing == NO_VALUE


def test_sections_have_stable_addresses() -> None:
    page = html(Section("One", anchor="lead"), Section("Two"))
    assert 'href="#lead">One</a>' in page
    assert '<section id="lead">' in page
    assert '<section id="section-2">' in page


def test_what_scrolls_has_a_name() -> None:
    page = html(Section("One", tables=[TABLE, Table(("", "a"), [])]))
    assert re.findall(r'tabindex="0" role="group" aria-label="([^"]*)"', page) == ["A table", "One"]


def test_the_answers_stand_before_the_sections_and_in_words() -> None:
    marks = [Mark("May it?", "bad", "no", "because <b>"), Mark("Seeds", "plain", "1")]
    page = html(Section("One"), card=marks[:1], strip=marks[1:])
    assert page.index('id="verdict"') < page.index('id="trust"') < page.index("<h2>One")
    assert re.search(r'<li class="bad">.*May it\?.*✕.*no.*because &lt;b&gt;', page)
    assert 'id="verdict"' not in html(Section("One"))


def test_tables_that_come_last_are_folded() -> None:
    page = html(Section("One", folded="All tests", folded_tables=[TABLE], folded_remarks=["said"]))
    folded = page[page.index("<details>") : page.index("</details>")]
    assert "<summary>All tests</summary>" in folded
    assert "A table" in folded
    assert "said" in folded
