"""The documents name what is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
DOCUMENTS = [*(ROOT / name for name in PAGES), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#]+)\)")
FILE = re.compile(r"`((?:stockformer|conf|tests|benchmarks|docs)/[\w./]*\w/?)`")
NEW = re.compile(r"^\*\*`([^`]+)`\*\*, new file$", re.MULTILINE)
OPTION = re.compile(r"\b([a-z]+)=([a-z]\w+)\b")
EXAMPLES = {  # those that are described as new
    "CONTRIBUTING.md": {"model=rnn", "optimizer=sgd", "dataset=close_table"},
    "extending.md": {"model=mygru", "processors=gap", "dataset=mytable"},
}


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
    named -= {tuple(example.split("=")) for example in EXAMPLES.get(document.name, ())}
    assert not [f"{g}={o}" for g, o in named if not (ROOT / "conf" / g / f"{o}.yaml").is_file()]


def test_every_dependency_has_a_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(project["optional-dependencies"])
    listed = sections((ROOT / "docs/dependencies.md").read_text())
    assert [row[0] for row in listed["Always"]] == names(project["dependencies"])
    dev = names(extras.pop("dev"))
    in_extras = [(extra, name) for extra, packages in extras.items() for name in names(packages)]
    assert [tuple(row[:2]) for row in listed["Extras"]] == in_extras
    of_extras = {name for _, name in in_extras}
    assert {row[0] for row in listed["Development"]} == set(dev) - of_extras
    assert of_extras <= set(dev)
    assert all(len(row[-1]) > 3 for rows in listed.values() for row in rows)


def sections(text: str) -> dict[str, list[list[str]]]:
    """The rows of the table of each section, without its head."""
    return {
        title: [
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in body.splitlines()
            if line.startswith("| ")
        ][2:]
        for title, _, body in (part.partition("\n") for part in text.split("## ")[1:])
    }


def names(requirements: list[str]) -> list[str]:
    return [re.split(r"[<>=!~ \[]", requirement, maxsplit=1)[0] for requirement in requirements]
