"""The worked examples of CONTRIBUTING.md, applied to a copy of the project and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("stockformer", "conf", "train.py")
SECTION = re.compile(r"^### Add (?P<what>.+) \((?P<files>\d) files?\)$", re.MULTILINE)
EXAMPLE = re.compile(
    r"^\*\*`(?P<path>[^`\n]+)`\*\*, "
    r"(?:new file|insert (?P<place>before|after) `(?P<anchor>[^`\n]+)`)\n"
    r"\n```\w+\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FILES = {
    "a metric": 1,
    "a ranking baseline": 1,
    "a figure": 2,
    "a data source": 2,
    "a model": 2,
    "an optimizer": 1,
}
"""How many files each addition may touch: the project's own rule."""


@dataclass(frozen=True)
class Example:
    """A block of text, and where it goes. anchor: a whole line of the file; None: a new file."""

    path: str
    text: str
    anchor: str | None
    after: bool

    def apply(self, root: Path) -> None:
        """Raises ValueError where the anchor is not one line, or a new file is there already."""
        path = root / self.path
        if self.anchor is None:
            if path.exists():
                raise ValueError(f"{self.path}: is there already")
            path.write_text(self.text)
            return
        lines = path.read_text().splitlines(keepends=True)
        found = [n for n, line in enumerate(lines) if line.rstrip("\n") == self.anchor]
        if len(found) != 1:
            raise ValueError(f"{self.path}: {len(found)} lines are {self.anchor!r}")
        at = found[0] + self.after
        path.write_text("".join([*lines[:at], self.text, *lines[at:]]))


def examples(text: str) -> dict[str, list[Example]]:
    """The examples of each section `### Add WHAT (N files)`, by WHAT."""
    sections = list(SECTION.finditer(text))
    ends = [*(section.start() for section in sections[1:]), len(text)]
    return {
        section["what"]: [
            Example(e["path"], e["text"], e["anchor"], e["place"] == "after")
            for e in EXAMPLE.finditer(text, section.end(), end)
        ]
        for section, end in zip(sections, ends, strict=True)
    }


def guide() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text()


def test_each_addition_touches_as_many_files_as_promised() -> None:
    text = guide()
    found = examples(text)
    assert {what: len({e.path for e in each}) for what, each in found.items()} == FILES
    assert {section["what"]: int(section["files"]) for section in SECTION.finditer(text)} == FILES
    # Every bold file name was understood as an example.
    assert text.count("\n**`") == sum(map(len, found.values()))


def test_an_anchor_that_is_not_there_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\nx = 1\ny = 2\n")
    for anchor in ("z = 3", "x = 1", "y"):
        with pytest.raises(ValueError, match=r"a\.py: [02] lines are"):
            Example("a.py", "w = 0\n", anchor, after=True).apply(tmp_path)
    Example("a.py", "w = 0\n", "y = 2", after=False).apply(tmp_path)
    assert (tmp_path / "a.py").read_text() == "x = 1\nx = 1\nw = 0\ny = 2\n"


# In one process, because starting one takes most of the time. Each check names its example.
CHECKS = """
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir

import stockformer
from stockformer.config.hydra_lines import VERSION_BASE
from stockformer.config.schema import CONFIG_NAME, config_folder

copy = Path(sys.argv[1])
assert Path(stockformer.__file__).is_relative_to(copy), "this is not the copy"
assert config_folder() == copy / "conf"
failed = []


def check(what, passed):
    if not passed:
        failed.append(what)


dates = pd.bdate_range("2023-01-02", periods=300)
moves = np.random.default_rng(0).normal(0, 0.01, (300, 12))
names = [f"S{n:02}" for n in range(12)]
close = pd.DataFrame(100 * np.exp(moves.cumsum(axis=0)), index=dates, columns=names)
close.to_csv("close.csv", index_label="date")
with initialize_config_dir(str(config_folder()), **VERSION_BASE):
    config = compose(CONFIG_NAME, ["dataset=close_table", "dataset.source.path=close.csv",
                                   "paths.cache_dir=cache"])
from stockformer.experiment import prepare_dataset, read_panel

panel = read_panel(config)
expected = close.pct_change().to_numpy()
check("a data source", np.allclose(panel.returns, expected, equal_nan=True)
      and panel.tickers.tolist() == names and len(panel.factor_names) == 2
      and len(prepare_dataset(config, panel).split.train) > 0)

sys.argv[1:] = ["experiment=demo", "model=rnn", "optimizer=sgd", "model.width=8",
                "dataset.source.stocks=12", "dataset.source.days=260", "trainer.max_epoch=1",
                "trainer.device=cpu", "trainer.monitor=sign_accuracy", "hydra.run.dir=run"]
import train

train.main()
run = Path("run")
evaluation = json.loads((run / "evaluation.json").read_text())
rows = {row["name"]: row for row in evaluation["table"]}
check("a metric", 0 < evaluation["model"]["sign_accuracy"] < 1
      and "sign_accuracy" in evaluation["daily"] and "sign_accuracy" in evaluation["statistics"])
check("a ranking baseline", rows.get("momentum_60_day", {}).get("rank_ic") is not None)
check("a figure", "Generalisation gap" in (run / "report.html").read_text())
settings = (run / "config.yaml").read_text()
check("a model", "stockformer.models.rnn.RNN" in settings and rows["model"]["mae"] > 0)
check("an optimizer", "torch.optim.SGD" in settings)
sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
"""


def test_the_examples_work(tmp_path: Path) -> None:
    copy, work = tmp_path / "copy", tmp_path / "work"
    work.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    for each in examples(guide()).values():
        for example in each:
            example.apply(copy)
    done = subprocess.run(
        [sys.executable, "-c", CHECKS, str(copy)],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
