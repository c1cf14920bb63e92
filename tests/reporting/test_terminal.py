"""The terminal has the page's table in 80 characters, and takes no text of a run for markup."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from reporting.run_folder import failed_run, finished_run
from rich.console import Console

from stockformer.reporting import terminal
from stockformer.reporting.tables import Table
from stockformer.runs import recorded_run as run_reader


def shown(path: Path, color: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=color, highlight=False)
    for piece in terminal.summary(run_reader.read_run(path)):
        console.print(piece, soft_wrap=True)
    return file.getvalue()


def test_the_table_fits_and_nothing_is_cut(tmp_path: Path) -> None:
    lines = shown(finished_run(tmp_path / "run")).splitlines()
    assert lines[0].startswith("Do not use this model: ")
    question = lines.index("Does it rank better than the best baseline?  NO")
    assert lines[question + 1].startswith("  Rank IC ")
    assert "Can this result be trusted?  ONLY IN PART" in lines
    assert any(line.startswith("The model ") for line in lines)
    table = [line for line in lines if line.startswith(("model", "zero return", "1-day reversal"))]
    assert len(table) == 3
    assert len({len(line.rstrip()) for line in table}) <= 2  # the model has no MAE p
    assert all(len(line) <= 80 and "…" not in line for line in table)
    own = run_reader.read_run(tmp_path / "run").comparison
    assert own is not None
    assert table[0].split()[-2] == f"{1e4 * own['mae']['model']:.2f}"  # in basis points
    assert any(line.startswith("project target, test MAE < 0.015: ") for line in lines)
    assert "note: survivorship: M&M & others" in lines


def test_a_table_has_its_title_above() -> None:
    file = io.StringIO()
    table = Table(("stock", "forecast"), [("AAA", "1")], title="Highest [10]")
    Console(file=file, width=80).print(terminal.laid_out(table))
    assert file.getvalue().splitlines()[0].rstrip() == "Highest [10]"


def test_colour_only_where_it_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    folder = finished_run(tmp_path / "run")
    assert "\x1b" not in shown(folder)
    assert "\x1b" in shown(folder, color=True)


def test_a_reason_in_brackets_is_no_markup(tmp_path: Path) -> None:
    failed_run(tmp_path / "run", ValueError("[red] of [/] shape [3]"))
    assert "ValueError: [red] of [/] shape [3]" in shown(tmp_path / "run")
