"""The leaderboard says who leads by validation, marks the test, and hides nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from reporting.run_folder import failed_run, finished_run, rewrite, sweep
from reporting.test_report import Page

from stockformer.reporting import leaderboard, overlay, pick, report
from stockformer.runs import recorded_run as run_reader
from stockformer.sweeps.trials import read_trials


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = sweep(tmp_path_factory.mktemp("multirun") / "50% & <more>")
    report.write_report(run_reader.read_run(tree / "0"), None)
    leaderboard.write_leaderboard(read_trials(tree), None)
    return tree


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "leaderboard.html").read_text()


def test_it_is_one_file_that_fetches_nothing(html: str) -> None:
    page = Page(html)
    assert html.count("plotly.js (basic - minified) v") == 1
    assert not {"src", "srcset", "action"} & {name for name, _ in page.attributes}
    addresses = [value for name, value in page.attributes if name == "href" and value]
    assert not [a for a in addresses if re.match(r"[a-z]+:|//|/", a)]


def test_the_best_by_validation_leads_with_its_verdict(html: str) -> None:
    page = Page(html)
    (headline,) = page.texts["h1"]
    assert headline.startswith("Best by validation rank IC (+0.0500): run 1. The model ")
    assert "3 runs completed, 2 not, 2 unreadable" in page.texts["p"]


def test_test_columns_are_set_apart_and_come_last(folder: Path) -> None:
    board = leaderboard.board(read_trials(folder), folder)
    assert [row[0] for row in board.rows] == ["1", "0", "2"]
    assert board.groups[-1] == ("test, not for choosing", len(board.aside))
    assert list(board.aside)[-1] == len(board.header) - 1
    assert sum(columns for _, columns in board.groups) == len(board.header)
    assert board.filters == [1]
    assert board.rows[2][1:3] == ("<b>", "-")


def test_repetitions_by_different_code_are_named(tmp_path: Path) -> None:
    for name in "abc":
        finished_run(tmp_path / name)
    assert "different code" not in leaderboard.ranking(read_trials(tmp_path), tmp_path).lead
    manifest = tmp_path / "b/manifest.json"
    rewrite(manifest, manifest.read_text().replace("0123abcd+changes", 5 * "89abcdef"))
    lead = leaderboard.ranking(read_trials(tmp_path), tmp_path).lead
    assert "a, b, c: runs of different code: commits 0123abcd+changes, 89abcde." in lead


def test_names_lead_to_the_run(folder: Path, tmp_path: Path) -> None:
    trials = read_trials(folder)
    links = leaderboard.board(trials, folder).links
    assert links["0"] == "0/report.html"
    assert links["1"] == "1/"
    elsewhere = leaderboard.board(trials, tmp_path).links["0"]
    assert elsewhere.startswith("../")
    assert "50%25%20%26%20%3Cmore%3E/0/report.html" in elsewhere


def test_what_was_not_completed_is_listed_and_escaped(html: str) -> None:
    cells = Page(html).texts["td"]
    assert "ValueError: loss is nan on <M&M>; lower optimizer.lr" in cells
    assert "<M&M>" not in html
    assert {"failed", "running", "unreadable"} <= set(cells)
    assert any("evaluation.json: damaged" in cell for cell in cells)


def test_pairs_are_all_there_without_a_nan(folder: Path) -> None:
    section = overlay.section(read_trials(folder))
    shown = json.loads(section.pairs, parse_constant=pytest.fail)
    (group,) = shown["groups"]
    assert shown["metric"] == "rank IC (correlation)"
    assert group["runs"] == ["1", "0", "2"]
    assert [len(group[name]) for name in ("mean", "half", "n", "t", "p")] == [3] * 5
    assert [len(curve) for curve in group["curves"]] == [3, 3, 3]
    assert group["curves"][0] == [0.05] * 3
    assert len(group["net"][0]) == len(group["universe"]) == len(group["days"])
    differing = dict(zip(group["keys"], zip(*group["values"])))
    assert differing["optimizer.lr"] == ("1e-4", "1e-3", "<b>")
    assert len(group["rank_ic"][0]) == len(group["dates"]) == 25


def test_curves_are_in_the_unit_of_their_axis(folder: Path) -> None:
    trials = replace(read_trials(folder), objectives=["mae"])
    shown = json.loads(overlay.section(trials).pairs)
    assert shown["metric"] == "MAE (basis points)"
    assert shown["groups"][0]["curves"][0] == [200.0] * 3  # 0.02 in metrics.csv


def test_the_pick_is_deflated_and_its_series_named(folder: Path) -> None:
    section = pick.section(read_trials(folder))
    (row,) = section.tables[0].rows
    assert row[1:3] == ("3", "1")
    assert re.fullmatch(r"0\.\d{3}|[<>]0\.\d{3}", row[-2])
    assert "on the validation dates, where the selection is made" in section.remarks[0]


def test_the_luck_of_trials_that_are_alike_is_unknown(tmp_path: Path) -> None:
    for number in range(3):
        finished_run(tmp_path / str(number))
    section = pick.section(read_trials(tmp_path))
    (row,) = section.tables[0].rows
    assert row[4:6] == ("-", "-")


def test_the_picks_caveats_stand_beside_it(folder: Path) -> None:
    trials, luck, tested = pick.card(read_trials(folder))
    assert (trials.title, trials.word) == ("Trials before this pick", "3")
    assert luck.answer == "bad"
    assert re.fullmatch(r"0\.\d{3}", luck.word)
    assert luck.text.startswith("Deflated Sharpe ratio: run 1 earned ")
    assert tested.title == "Validation against test (not for choosing)"
    assert re.fullmatch(r"\+0\.0500 → [+-]0\.\d{4}", tested.word)
    assert re.search(r"[+-]\d+\.\d basis points a day over the universe", tested.text)


def test_backtest_columns_are_of_the_test(folder: Path) -> None:
    trials = read_trials(folder)
    board = leaderboard.board(trials, folder)
    columns = [board.header.index(title) for title in leaderboard.TITLES.values()]
    assert set(columns) <= set(board.aside)
    traded = trials.completed["1"].evaluation.backtest  # type: ignore[union-attr]
    assert traded is not None
    excess, turnover = (board.rows[0][column] for column in columns)
    assert excess == f"{traded.excess['base'].mean * 1e4:+.1f}"
    assert turnover == f"{traded.figures.loc['base', 'turnover'] / 2:.1%}"


def test_seeds_are_folded_under_the_mean_of_them(tmp_path: Path) -> None:
    for seed in range(2):
        words = [f"seed={seed}", "optimizer.lr=1e-3"]
        finished_run(tmp_path / str(seed), overrides=words, rank_ic=0.02 * seed, seed=seed)
    board = leaderboard.board(read_trials(tmp_path), tmp_path)
    (row,) = board.rows
    assert row[:2] == ("0, 1", "2 seeds")
    members = board.members["0, 1"]
    assert [member[:2] for member in members] == [("0", "seed 0"), ("1", "seed 1")]
    column = board.header.index("rank IC")
    assert row[column] == "+0.0100 ± 0.0141"
    assert [member[column] for member in members] == ["+0.0000", "+0.0200"]
    assert {len(member) for member in members} == {len(board.header)}
    assert json.loads(board.members_json())["0, 1"][1]["link"] == "1/"


def test_a_folder_in_which_nothing_was_completed_says_so(tmp_path: Path) -> None:
    failed_run(tmp_path / "0", ValueError("no"))
    page = Page(leaderboard.page(read_trials(tmp_path), tmp_path).html())
    assert page.texts["h1"] == ["No run was completed."]
    assert "ValueError: no" in page.texts["td"]
