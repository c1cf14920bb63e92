"""The documentation builds as a site without a warning; its pages load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|object)\b[^>]*\b(?:src|data)=["']?(?:https?:)?//[^>]*>"""
    r"""|<link\b[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon)\b[^>]*\bhref="""
    r"""["']?(?:https?:)?//[^>]*>""",
    re.IGNORECASE,
)
LOADED_BY_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)"']+""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the pages, and what the build printed."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},  # as in the Makefile
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    shown = built.stdout + built.stderr
    assert built.returncode == 0, shown
    return folder, shown


def test_the_site_builds_without_a_warning(site: tuple[Path, str]) -> None:
    folder, shown = site
    others = [line for line in shown.splitlines() if line and not line.startswith("INFO ")]
    assert not others
    pages = {page.stem for page in folder.glob("*.html")}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= pages
    assert (
        "NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict"
        in (ROOT / "Makefile").read_text()
    )


def test_the_pages_load_nothing_from_elsewhere(site: tuple[Path, str]) -> None:
    folder, _ = site
    found = [
        f"{page.name}: {match[:100]}"
        for page in folder.rglob("*.html")
        for match in LOADED.findall(page.read_text())
    ]
    found += [
        f"{sheet.name}: {match[:100]}"
        for sheet in folder.rglob("*.css")
        for match in LOADED_BY_STYLE.findall(sheet.read_text())
    ]
    assert not found


def test_a_page_that_loads_something_is_noticed() -> None:
    assert LOADED.search('<script src="https://unpkg.com/iframe-worker/shim"></script>')
    assert LOADED.search('<link rel="stylesheet" href="https://fonts.googleapis.com/css?x">')
    assert LOADED.search('<img alt="a" src=//example.org/a.png>')
    assert not LOADED.search('<a href="https://arxiv.org/abs/2401.06139">paper</a>')
    assert LOADED_BY_STYLE.search("@font-face { src: url(https://fonts.gstatic.com/a.woff2) }")
