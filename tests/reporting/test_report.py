"""The page says what the run says, all of it safe to open, in one file that needs nothing else."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from subprocess import run as call

import numpy as np
import pytest
from reporting.run_folder import TICKERS, failed_run, finished_run, leave_out

from stockformer.evaluation.verdict import QUESTIONS, Answer, Verdict
from stockformer.reporting import report, verdict_section
from stockformer.runs import recorded_run as run_reader

BUNDLED = {"scatter", "bar", "pie"}
"""The traces of Plotly's basic bundle."""
ANCHORS = ["lead", "signal", "money", "probabilities", "explorer"]
ANCHORS += ["attribution", "training", "data"]
"""Of the sections, in the page's order."""


class Page(HTMLParser):
    """Text by tag, every attribute that can make a browser fetch something, and the figures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes += attributes
        if tag not in ("meta", "link", "img", "br", "input", "wbr"):
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]][-1] += data


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = finished_run(tmp_path_factory.mktemp("tree") / "run")
    return report.write_report(run_reader.read_run(folder), None).read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_answers_come_first_then_a_figure_and_no_table(page: Page, html: str) -> None:
    assert page.texts["h1"][0].startswith("Do not use this model: ")
    assert page.texts["h2"] == [
        *("Lead over each baseline", "Signal", "From signal to money", "Probabilities"),
        *("Explorer", "What moved it", "Training", "Data, reproduction, downloads"),
    ]
    for anchor in ("verdict", "trust", *ANCHORS):
        assert html.count(f'id="{anchor}"') == 1
    assert html.index('class="plot"') < html.index("<table")
    questions = [text for text in page.texts["span"] if text.endswith("?")]
    assert questions[:3] == list(QUESTIONS.values())
    answers = [text.strip() for text in page.texts["strong"]]
    words = ("only in part", "not run", "yes", "yes", "25", "1 known", "1")
    assert [text.lstrip("\u2713\u2715?\u2022 ") for text in answers[2:]] == list(words)


def test_what_spoils_the_test_is_red_on_the_first_screen(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    html = report.page(run_reader.read_run(folder), tmp_path).html()
    strip = html[html.index('id="trust"') : html.index("<section")]
    assert '<li class="bad"><span class="title">Contamination' in strip
    assert '<li class="unsure"><span class="title">Survivorship' in strip
    assert "They can show a rank IC from " in strip


@pytest.mark.parametrize(
    ("recorded", "answer", "said"),
    [
        ("passed on 2024-05-06 with 1 cut date", "good", "On 2024-05-06 with 1 cut date, on the "),
        ("FAILED on 2024-05-06 with 1 cut date", "bad", "On 2024-05-06 with 1 cut date, on the "),
        ("not run", "unsure", "python validate.py with this run"),
        (None, "unsure", "python validate.py with this run"),
    ],
)
def test_the_audit_of_the_run_is_shown(
    tmp_path: Path, recorded: str | None, answer: str, said: str
) -> None:
    run = run_reader.read_run(finished_run(tmp_path / "run"))
    assert run.evaluation is not None
    assert run.manifest is not None
    facts = run.manifest.facts | ({} if recorded is None else {"lookahead_audit": recorded})
    run = replace(run, manifest=replace(run.manifest, facts=facts))
    mark = verdict_section.strip(run, run.evaluation)[0]
    assert (mark.title, mark.answer) == ("Look-ahead audit", answer)
    assert said in mark.text


def test_nothing_is_green_where_the_result_cannot_be_trusted() -> None:
    yes = Answer("yes", "said.")
    for trust, words in (("no", ["apparently", "apparently", "no"]), ("yes", ["yes"] * 3)):
        answers = Verdict(ranking=yes, money=yes, trust=Answer(trust, "said."))
        marks = verdict_section.card(answers)
        assert [mark.word for mark in marks] == words
        assert ("good" in {mark.answer for mark in marks}) == (trust == "yes")


@pytest.mark.parametrize(
    ("recorded", "answer", "said"),
    [
        ("passed on 2026-01-01", "yes", "no sign"),
        ("FAILED on 2026-01-01", "no", "audit failed"),
        (None, "unknown", "audit was not run"),
    ],
)
def test_a_result_is_trusted_only_after_the_audit(
    tmp_path: Path, recorded: str | None, answer: str, said: str
) -> None:
    run = run_reader.read_run(finished_run(tmp_path / "run"))
    assert run.evaluation is not None
    assert run.manifest is not None
    yes = Verdict(*(Answer("yes", "no sign of a leak.") for _ in range(3)))
    facts = run.manifest.facts | ({} if recorded is None else {"lookahead_audit": recorded})
    evaluation = replace(run.evaluation, answers=yes)
    run = replace(run, evaluation=evaluation, manifest=replace(run.manifest, facts=facts))
    assert run.answers is not None
    assert run.answers.trust.answer == answer
    assert said in run.answers.trust.sentence
    assert run.answers.headline in report.page(run, tmp_path).html()


def test_the_trials_of_a_sweep_are_counted(tmp_path: Path) -> None:
    for job in ("0", "1"):
        finished_run(tmp_path / job)
    run = run_reader.read_run(tmp_path / "0")
    alone = report.page(run, tmp_path).html()
    assert "1 known" in alone
    (tmp_path / "sweep.json").write_text("{}")
    assert "2 jobs" in report.page(run, tmp_path).html()


def test_values_tests_and_notes_are_all_there(page: Page) -> None:
    names = page.texts["th"]
    assert {"value", "model's lead", "best constant in hindsight"} <= set(names)
    assert {"model", "zero return", "1-day reversal", "test accuracy > 0.52"} <= set(names)
    assert "top minus bottom fifth" in names
    cells = page.texts["td"]
    assert any(re.fullmatch(r"[+-]\d\.\d{4}", cell) for cell in cells)
    assert "nan" not in " ".join(cells).lower()
    assert "not met" in cells
    remarks = [r for r in page.texts["li"] if r.strip()]
    start = next(i for i, r in enumerate(remarks) if r.startswith("As level forecasts: MAE "))
    assert remarks[start - 1].startswith("The model ")
    assert remarks[start + 1].startswith("Traded, after costs, minus the equal-weight universe: ")
    assert remarks[start + 2].startswith("Baselines that rank: 1-day reversal. Constants: ")
    assert "oracle" in remarks[start + 3]
    assert remarks[start + 4 : start + 6] == ["survivorship: M&M & others", "few dates"]
    assert remarks[-2:] == ["survivorship: M&M & others", "contaminated"]


def test_no_valid_cell_is_said_and_no_error(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    run = run_reader.read_run(folder)
    assert run.predictions is not None
    nothing = replace(run.predictions, valid=np.zeros_like(run.predictions.valid))
    page = Page(report.page(replace(run, predictions=nothing), tmp_path).html())
    said = [text for text in page.texts["p"] if "no valid cell" in text]
    assert len(said) == 3


def test_texts_of_the_run_are_escaped_and_whole(page: Page, html: str) -> None:
    shown = "\n".join(page.texts["pre"])
    assert ", ".join(TICKERS) in shown
    assert "data_dir: /data/<old> & new" in shown
    assert """python train.py seed=0 'paths.data_dir='"'"'/data/<old> & new'"'"''""" in shown
    assert "git checkout 0123abcd\n" in shown
    assert "changes that are not in this commit" in shown
    for raw in ("<b>x", "<old>", "M&M"):
        assert raw not in html


def test_the_page_is_one_file_that_fetches_nothing(page: Page, html: str) -> None:
    assert len(html.encode()) < 2e6
    assert html.count("plotly.js (basic - minified) v") == 1
    assert not {"src", "srcset", "action"} & {name for name, _ in page.attributes}
    addresses = [value for name, value in page.attributes if name == "href"]
    links = [a for a in addresses if a and not a.startswith("#")]
    assert [a for a in addresses if a and a.startswith("#")] == [f"#{name}" for name in ANCHORS]
    assert "predictions.parquet" in links
    assert not [link for link in links if ":" in link or link.startswith("/")]
    style = "".join(page.texts["style"])
    assert "url(" not in style
    assert "@import" not in style
    policy = next(v for n, v in page.attributes if n == "content" and v and "default-src" in v)
    assert policy.startswith("default-src 'none';")
    own = [script for script in page.texts["script"] if "plotly.js (basic" not in script]
    assert not [script for script in own if "http" in script]


def test_every_figure_is_there_and_its_axes_are_named(page: Page) -> None:
    drawn = [json.loads(s) for s in page.texts["script"] if s.startswith('{"data"')]
    assert len(drawn) == 31
    assert {trace["type"] for figure in drawn for trace in figure["data"]} <= BUNDLED
    for figure in drawn:
        for axis in ("xaxis", "yaxis"):
            title = figure["layout"][axis].get("title", {}).get("text")
            forest = axis == "yaxis" and "error_x" in figure["data"][0]  # its rows are named
            assert forest or re.fullmatch(r".+ \(.+\)", title)


def test_a_run_that_ended_early_says_what_it_has(tmp_path: Path) -> None:
    failed_run(tmp_path / "run", FloatingPointError("loss is nan on <M&M>; lower optimizer.lr"))
    page = Page(report.page(run_reader.read_run(tmp_path / "run"), tmp_path).html())
    (headline,) = page.texts["h1"]
    assert headline.startswith("No verdict: the run failed on ")
    assert headline.endswith("FloatingPointError: loss is nan on <M&M>; lower optimizer.lr")
    said = "\n".join(page.texts["p"])
    assert "has not been tested" in said
    assert "no test predictions" in said
    assert "3 epochs." in said
    assert "has no record of its data and of its provenance" in said


def test_predictions_without_a_comparison_are_still_shown(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    leave_out(folder / "evaluation.json")
    page = Page(report.page(run_reader.read_run(folder), tmp_path).html())
    assert "finished without a comparison" in page.texts["h1"][0]
    assert "model" in page.texts["th"]
    assert "zero return" not in page.texts["th"]


def test_reports_need_no_torch() -> None:
    code = "import sys, stockformer.reporting.report as r; assert 'torch' not in sys.modules"
    assert call([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


@pytest.mark.parametrize(
    ("commit", "first"),
    [
        ("12ab", "git checkout 12ab"),
        ("12ab+changes", "# the checkout had changes that are not in this commit"),
        ("not a git checkout", "# the code's commit is unknown: not a git checkout"),
    ],
)
def test_how_to_make_a_run_again(commit: str, first: str) -> None:
    lines = report.reproduction(commit, "python train.py 'tags=[a b]'")
    assert lines[0] == first
    assert lines[-1] == "python train.py 'tags=[a b]'"
