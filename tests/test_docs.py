"""The documents name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#]+)\)")
FILE = re.compile(r"`((?:stockformer|conf|tests|benchmarks|docs)/[\w./]*\w/?)`")
OPTION = re.compile(r"\b([a-z]+)=([a-z]\w+)\b")
EXAMPLES = {"model=mine", "run=dir", "kind=text"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_and_files_exist(document: Path) -> None:
    text = document.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    missing = [link for link in links if not (document.parent / link).exists()]
    files = set(FILE.findall(text)) - {"stockformer/models/mine.py", "conf/model/mine.yaml"}
    missing += [name for name in files if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_options_that_are_named_can_be_chosen(document: Path) -> None:
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    named = {(g, o) for g, o in OPTION.findall(document.read_text()) if g in groups}
    named -= {tuple(example.split("=")) for example in EXAMPLES}
    assert not [f"{g}={o}" for g, o in named if not (ROOT / "conf" / g / f"{o}.yaml").is_file()]
