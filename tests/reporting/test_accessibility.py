"""No serious finding of axe-core on a run's page, the leaderboard and the quality page.

Skipped without axe-core from npm (npm install --no-save axe-core, or STOCKFORMER_AXE=axe.min.js).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from reporting.test_browser import Visit, browser, folder, playwright  # noqa: F401 (fixtures)

from stockformer.data.panel import Panel
from stockformer.data.reading.findings import LEVELS, Finding
from stockformer.data.reading.quality import report
from stockformer.reporting import quality_page

SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def axe() -> str:
    places = [Path(os.environ["STOCKFORMER_AXE"])] if "STOCKFORMER_AXE" in os.environ else []
    if not places and (npm := shutil.which("npm")):
        command = [npm, "root", "--global"]
        root = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        places = [Path(base) / "axe-core/axe.min.js" for base in (ROOT / "node_modules", root)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        pytest.skip("no axe-core (npm install --no-save axe-core, or STOCKFORMER_AXE=axe.min.js)")
    return found.read_text("utf-8")


@pytest.fixture(scope="module")
def quality(folder: Path) -> None:  # noqa: F811
    """A data quality page with each level of finding, beside the others."""
    dates = np.datetime64("2024-01-01") + np.arange(30)
    returns = np.random.default_rng(0).normal(0, 0.01, (30, 3))
    returns[5:9, 0] = np.nan
    found = tuple(
        Finding("said", date="2024-01-06", check="prices", level=level) for level in LEVELS
    )
    panel = Panel(
        dates=dates,
        tickers=np.array(["AAA", "BBB", "CCC"]),
        returns=returns,
        factors=np.zeros((30, 3, 1), np.float32),
        factor_names=("KLEN",),
        findings=found,
    )
    (folder / "quality.html").write_text(quality_page.html(report(panel, "small & old")))


@pytest.mark.usefixtures("quality")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", ["0/report.html", "6/report.html", "leaderboard.html", "quality.html"]
)
def test_axe_has_no_serious_finding(
    browser,  # noqa: F811
    folder: Path,  # noqa: F811
    axe: str,
    name: str,
    scheme: str,
) -> None:
    visit = Visit(browser, folder / name, scheme=scheme)
    visit.draw_all()
    visit.page.evaluate(axe)
    found = visit.page.evaluate("axe.run()")["violations"]
    serious = [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found
        if each["impact"] in SERIOUS
        for node in each["nodes"]
    ]
    assert serious == []
