"""What moved the forecasts is read from the run's folder, or the page says how to compute it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reporting.run_folder import finished_run

from stockformer.evaluation.importance import Importance, importance
from stockformer.evaluation.record import plain
from stockformer.reporting import attribution_section
from stockformer.runs.folder import RunDir
from stockformer.runs.recorded_run import read_run


def some_importance(drop: float = 0.03) -> Importance:
    before = np.random.default_rng(0).normal(0.05, 0.1, 25)
    shuffled = {"KLEN": before - drop, "STD (2 factors)": before, "past returns": before}
    factors = {"KLEN": ("KLEN",), "STD (2 factors)": ("STD5", "STD10"), "past returns": ()}
    return importance(before, shuffled, factors, 1)


def test_it_is_read_back_and_shown_the_largest_first(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    RunDir(folder).write_importance(plain(some_importance().to_json()))
    RunDir(folder).verify()  # SHA256SUMS is as it was
    section = attribution_section.section(read_run(folder))
    assert "Most rests on KLEN." in section.lead
    assert "related ones are shuffled together" in section.lead
    assert [row[0] for row in section.details[0].rows] == [
        *("KLEN", "STD (2 factors)", "past returns"),
    ]
    assert section.details[0].rows[0][1] == "+0.0300"
    assert section.texts[0].text == "STD (2 factors): STD5, STD10"
    (trace,) = section.plots[0].figure.data
    assert trace.y[-1] == "KLEN"  # at the top
    nothing = replace(read_run(folder), importance=some_importance(0.0))
    assert "No single input matters significantly" in attribution_section.section(nothing).lead


def test_without_it_the_command_is_named(tmp_path: Path) -> None:
    run = read_run(finished_run(tmp_path / "run"))
    assert "evaluate.py run=" in attribution_section.section(run).lead
    assert "importance=true" in attribution_section.section(run).lead
    assert run.manifest is not None
    several = replace(run, manifest=replace(run.manifest, facts={"kind": "ensemble"}))
    assert "look at each run" in attribution_section.section(several).lead


@pytest.mark.parametrize("content", ["{}", "no JSON", None])
def test_a_damaged_file_is_named_with_what_makes_it_anew(
    tmp_path: Path, content: str | None
) -> None:
    folder = finished_run(tmp_path / "run")
    run = RunDir(folder)
    run.write_importance(plain(some_importance().to_json()))
    text = run.importance_file.read_text()
    run.importance_file.write_text(text.replace("KLEN", "KLEM") if content is None else content)
    with pytest.raises(ValueError, match=r"importance\.json.*importance=true makes it anew"):
        read_run(folder)
