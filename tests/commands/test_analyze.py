"""`python analyze.py` from the command line's own main."""

from __future__ import annotations

import html
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from reporting.run_folder import failed_run, finished_run, rewrite, sweep
from runs.small_run import captured

from stockformer.config.quoting import pasteable
from stockformer.runs.folder import RunDir

Command = Callable[..., tuple[int, str]]


def reports(tree: Path) -> list[Path]:
    return sorted(p for p in tree.rglob("*.html") if p.name != "data_quality.html")


def test_the_newest_run_of_both_trees_is_the_default(command: Command, tmp_path: Path) -> None:
    finished_run(tmp_path / "outputs/2024-01-02/10-00-00-0", age=60)
    newest = finished_run(tmp_path / "multirun/2024-01-01/10-00-00-0/3", age=5)
    finished_run(tmp_path / "elsewhere/run")
    status, output = command("analyze")
    assert status == 0, output
    assert reports(tmp_path) == [newest / "report.html"]
    assert output.startswith("Do not use this model")
    assert "1-day reversal" in output
    assert output.splitlines()[-1] == f"report: {newest.relative_to(tmp_path)}/report.html"


def test_what_train_leaves_is_what_analyze_reads(
    train: Command, command: Command, tmp_path: Path
) -> None:
    assert train("trainer.max_epoch=1")[0] == 0
    status, output = command("analyze")
    assert status == 0, output
    (report,) = reports(tmp_path)
    page = report.read_text()
    assert "M&amp;M" in page
    assert output.splitlines()[0] in html.unescape(page)


def test_a_single_run_ends_with_its_report_and_a_sweep_does_not(
    train: Command, tmp_path: Path
) -> None:
    status, output = train("report=true", "hydra.run.dir=single", "trainer.max_epoch=1")
    assert status == 0, output
    assert output.splitlines()[-1] == f"report: {tmp_path}/single/report.html"
    assert "finished 20" in (tmp_path / "single/report.html").read_text()
    status, output = train("-m", "report=true", "seed=0,1", "trainer.max_epoch=1")
    assert status == 0, output
    (leaderboard,) = (tmp_path / "multirun").glob("*/*/leaderboard.html")
    assert reports(tmp_path) == [leaderboard, tmp_path / "single/report.html"]


def test_a_report_that_cannot_be_written_is_a_warning_not_a_lost_run(
    train: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("axis")

    monkeypatch.setattr("stockformer.reporting.report.page", broken)
    status, output = train("report=true", "hydra.run.dir=single", "trainer.max_epoch=1")
    assert status == 0, output
    assert output.splitlines()[-1].startswith("no report (KeyError: 'axis')")
    assert '"finished"' in (tmp_path / "single/status.json").read_text()


def test_a_sweep_gets_a_leaderboard(command: Command, tmp_path: Path) -> None:
    sweep(tmp_path / "multirun/day")
    for folder in ("multirun/day", "multirun"):
        status, output = command("analyze", f"run={folder}")
        assert status == 0, output
        assert output.startswith("Best by validation rank IC (+0.0500): run ")
        lines = output.splitlines()
        assert lines[-1] == f"report: {folder}/leaderboard.html"
        assert any("3 ValueError: loss is nan on <M&M>" in line for line in lines)
        assert any(line.startswith("unreadable: ") for line in lines)
    assert "1e-4" in output
    assert reports(tmp_path) == [
        tmp_path / "multirun/day/leaderboard.html",
        tmp_path / "multirun/leaderboard.html",
    ]


def test_run_and_output_can_be_named(command: Command, tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "mine")
    before = sorted(folder.rglob("*"))
    status, output = command("analyze", "run=mine", "output=there.html")
    assert status == 0, output
    assert reports(tmp_path) == [tmp_path / "there.html"]
    assert sorted(folder.rglob("*")) == before


def test_a_run_still_going_or_interrupted_is_said_to_be(command: Command, tmp_path: Path) -> None:
    with RunDir.claim(tmp_path / "outputs/day/time"):
        status, output = command("analyze")
    assert status == 0, output
    assert "No verdict: the run has been running since " in output
    failed_run(tmp_path / "outputs/day/time-2", KeyboardInterrupt())
    status, output = command("analyze")
    assert status == 0, output
    assert "No verdict: the run was interrupted on " in output


def test_a_dead_run_is_said_to_be_dead(command: Command, tmp_path: Path) -> None:
    """Its status cannot say so; that nobody holds its lock does."""
    dead = tmp_path / "outputs/day/dead (1)"

    def killed() -> None:
        RunDir.claim(dead).write_config("seed: 1", [])
        os._exit(9)

    assert captured(killed)[0] == 9
    status, output = command("analyze")
    assert status == 0, output
    assert "ended without recording it (killed?): python train.py 'resume=" in output
    assert "has been running" not in output
    finished_run(tmp_path / "outputs/day/other")
    status, output = command("analyze", "run=outputs")
    assert status == 0, output
    assert "running: day/dead (1) ended without recording it" in output
    page = html.unescape((tmp_path / "outputs/leaderboard.html").read_text())
    assert f"python train.py {pasteable('resume', Path('outputs/day/dead (1)'))}" in page


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "status.json"])
@pytest.mark.parametrize("words", [(), ("evaluate=true",), ("output=page.html",)])
def test_nothing_is_written_into_what_is_no_run(
    name: str, words: tuple[str, ...], command: Command, tmp_path: Path
) -> None:
    """Other programs have such files too."""
    for folder in ("project", "project/conf"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    for folder in ("project", "project/conf", "."):
        status, output = command("analyze", f"run={folder}", *words)
        assert status == 1, output
        assert output.startswith("error: ")
        assert len(output.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_help_is_for_people(command: Command) -> None:
    for word in ("--help", "-h"):
        status, output = command("analyze", word)
        assert status == 0
        assert "run=FOLDER" in output
        assert "output=FILE.html" in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["rum=x"], "argument 'rum=x' not understood; valid are, each once: run=FOLDER, output="),
        (["outputs"], "argument 'outputs' not understood"),
        (["evaluate=true"], "evaluated again by python evaluate.py run=FOLDER"),
        (["ensemble=a,b"], "evaluated as one by python evaluate.py run=[FOLDER,FOLDER]"),
        (["outputs=a.html"], "Did you mean 'output'?"),
        (["run="], "argument 'run=' not understood"),
        (["run=a", "run=b"], "argument 'run=b' not understood"),
        ([], "no run found under outputs or multirun; train one with python train.py"),
        (["run=nowhere"], "nowhere: no such folder"),
        (["run=file"], "file: not a folder"),
        (["run=empty"], "empty: not a run folder (status.json is missing), nor one that holds"),
        (["run=broken"], "broken/manifest.json: damaged, or not written by train.py"),
        (["run=tree/1", "output=tree/1/metrics.csv"], "must end in .html"),
        (["run=tree/1", "output=nowhere/report.html"], "nowhere/report.html: cannot be written"),
        (["run=tree/1", "output=folder.html"], "folder.html: cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line_that_says_why(
    command: Command, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.html").mkdir()
    if "tree" in str(arguments):
        finished_run(tmp_path / "tree/0")
        finished_run(tmp_path / "tree/1")
    if "broken" in str(arguments):
        rewrite(finished_run(tmp_path / "broken") / "manifest.json", "{")
    status, output = command("analyze", *arguments)
    assert status == 1
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if "error: " in line]
    assert reason in line
    assert not list(tmp_path.rglob("*.tmp"))
