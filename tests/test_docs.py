"""The documents name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
DOCUMENTS = [*(ROOT / name for name in PAGES), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#]+)\)")
FILE = re.compile(r"`((?:stockformer|conf|tests|benchmarks|docs)/[\w./]*\w/?)`")
NEW = re.compile(r"^\*\*`([^`]+)`\*\*, new file$", re.MULTILINE)
OPTION = re.compile(r"\b([a-z]+)=([a-z]\w+)\b")
EXAMPLES = {"model=rnn", "optimizer=sgd", "dataset=close_table"}  # those that are described as new


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_and_files_exist(document: Path) -> None:
    text = document.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    missing = [link for link in links if not (document.parent / link).exists()]
    files = set(FILE.findall(text)) - set(NEW.findall(text))
    missing += [name for name in files if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_options_that_are_named_can_be_chosen(document: Path) -> None:
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    named = {(g, o) for g, o in OPTION.findall(document.read_text()) if g in groups}
    if document.name == "CONTRIBUTING.md":
        named -= {tuple(example.split("=")) for example in EXAMPLES}
    assert not [f"{g}={o}" for g, o in named if not (ROOT / "conf" / g / f"{o}.yaml").is_file()]
