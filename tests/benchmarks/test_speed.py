"""The speed benchmark runs; what a step may cost is counted in tests/models/test_cost.py."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import speed


def test_the_quick_form_measures_each_mode_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = speed.PAGE.read_text()
    monkeypatch.setattr(sys, "argv", ["speed.py", "--quick"])
    speed.main()
    row = r"\| (.+) \| \d+\.\d\d s \| \d+ GFLOP/s \| \d+% \| \d+% \| \d\.\d\d GiB \|"
    lines = capsys.readouterr().out.splitlines()
    names = [match[1] for line in lines if (match := re.fullmatch(row, line))]
    assert names == ["float32", "bfloat16, checkpointing"]
    assert speed.PAGE.read_text() == page


def test_the_page_is_rewritten_between_its_markers_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{speed.BEGIN}\nold\n{speed.END}\nafter\n")
    monkeypatch.setattr(speed, "PAGE", page)
    speed.write_page(["new"])
    assert page.read_text() == f"before\n{speed.BEGIN}\n\nnew\n\n{speed.END}\nafter\n"


def test_the_picture_is_an_image_of_every_row() -> None:
    row = {"utilisation": 0.5, "peak": 1.0}
    text = speed.picture({"float32": row, "bfloat16": row}, {185: row, 4000: row})
    words = [element.text for element in ElementTree.fromstring(text).iter()]
    assert {"float32", "bfloat16", "185", "4000"} <= set(words)
