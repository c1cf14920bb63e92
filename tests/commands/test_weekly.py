"""Six simulated weeks: who is promoted, who is not, and what an interruption or damage leaves.

The programs run in this process, which is quicker; `full` runs the same weeks as a user would.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from stockformer.commands import weekly as command
from stockformer.data.panel import Panel
from stockformer.data.sources import demo
from stockformer.runs.champion import ChampionFolder
from stockformer.training.trainer import Trainer

MARKET = (
    *("experiment=demo", "dataset.source.stocks=20", "dataset.source.listing_days=[]"),
    *("dataset.source.signal_strength=0.8", "model.width=8", "model.layers=1", "report=false"),
    *("trainer.device=cpu", "trainer.max_epoch=2", "dataset.factors=[KMID,ROC5,VMA5]"),
    *("scheduler=constant", "dataset.source.half_life_days=0.5"),  # much signal on the next day
)
RULES = ("test_days=40", "validation_days=10")
CRIPPLED = ("optimizer.lr=1e-12",)  # it learns nothing
DAYS = 200  # of the first week
Weekly = Callable[..., tuple[int, str]]


class Programs:
    """Stands for the processes of the loop: runs a program here, and remembers which."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.words: list[str] = []  # of the last one
        self.skipped = ""  # a program that is only noted, to save time

    def run(self, name: str, words: Sequence[str]) -> int:
        self.called.append(name)
        self.words = list(words)
        if name == self.skipped:
            return 0
        before, sys.argv = sys.argv, [f"{name}.py", *words]
        try:
            importlib.import_module(f"stockformer.programs.{name}").main()
        except SystemExit as end:
            sys.stderr.write(end.code if isinstance(end.code, str) else "")
            return 1 if isinstance(end.code, str) else end.code or 0
        finally:
            sys.argv = before
        return 0


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    programs = Programs()
    monkeypatch.setattr(command, "run_program", programs.run)
    monkeypatch.setattr("stockformer.audit.lookahead.START_METHOD", "")  # no process a cut: quicker
    return programs


@pytest.fixture
def weekly(
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Weekly:
    """`weekly(DAYS, "WORD")`: the command, when the market has so many days -> status, output."""
    monkeypatch.chdir(tmp_path)

    def call(days: int, *words: str) -> tuple[int, str]:
        given = ["champion=loop", *RULES, *MARKET, f"dataset.source.days={days}", *words]
        monkeypatch.setattr(sys, "argv", ["weekly.py", *given])
        logging.getLogger("stockformer").handlers.clear()
        programs.called.clear()
        try:
            importlib.import_module("stockformer.weekly").main()
            status = 0
        except SystemExit as end:
            status = 1 if isinstance(end.code, str) else end.code or 0
            sys.stderr.write(end.code if isinstance(end.code, str) else "")
        captured = capfd.readouterr()
        return status, captured.out + captured.err

    return call


@pytest.fixture(scope="session")
def first_week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a first champion that knows nothing, trained once."""
    base = tmp_path_factory.mktemp("weekly")
    words = ["champion=loop", *RULES, *MARKET, f"dataset.source.days={DAYS}", *CRIPPLED]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.setattr(command, "run_program", Programs().run)
        patch.setattr("stockformer.audit.lookahead.START_METHOD", "")
        patch.setattr(sys, "argv", ["weekly.py", *words])
        importlib.import_module("stockformer.weekly").main()
    return base / "loop"


@pytest.fixture
def loop(first_week: Path, tmp_path: Path) -> Path:
    """A copy of the folder after the first week."""
    return Path(shutil.copytree(first_week, tmp_path / "loop"))


def decisions(loop: Path) -> list[str]:
    return [
        each["decision"] for each in json.loads((loop / "champion.json").read_text())["history"]
    ]


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the logs, which say what was tried."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".log")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_six_weeks(weekly: Weekly, loop: Path, programs: Programs) -> None:
    """A champion that knows nothing is replaced; the next one is not, by its equal: a challenger
    that starts from its weights and learns nothing."""
    status, output = weekly(DAYS + 5)
    assert status == 0, output
    assert programs.called == ["validate", "train"]
    assert "from random weights (that has seen days up to" in output
    assert decisions(loop) == ["first", "promoted"]
    history = ChampionFolder(loop).history()
    promoted = loop / history[1].run
    figures = history[1].figures
    assert figures["lead"] > 0.1
    assert figures["days"] == 40
    assert f"predict.py run={promoted} " in output
    assert "dataset.source.days=205" in output.splitlines()[-1]

    for week, fresh in ((3, 5), (4, 10), (5, 15)):  # those of its promotion do not count
        status, output = weekly(DAYS + 5 * week - 5)
        assert status == 0, output
        assert f"Only {fresh} days are later" in output
        assert programs.called == []

    status, output = weekly(DAYS + 25, *CRIPPLED)
    assert status == 0, output
    assert programs.called == ["validate", "train"]
    assert f", from {promoted}" in output  # a warm start
    assert decisions(loop) == ["first", "promoted", "kept"]
    last = ChampionFolder(loop).history()[-1]
    assert "alike" in last.reason
    assert last.figures["days"] == 20
    assert last.figures["first_day"] == history[1].date
    manifest = json.loads((loop / last.run / "manifest.json").read_text())
    assert manifest["init_from"]["run"] == str(promoted)
    assert f"champion: {promoted}" in output
    assert json.loads((loop / "champion.json").read_text())["champion"] == history[1].run


def test_the_printed_command_forecasts_the_coming_day(
    weekly: Weekly, loop: Path, programs: Programs
) -> None:
    status, output = weekly(DAYS)
    assert status == 0, output
    assert "is decided already" in output
    assert programs.called == []
    words = output.splitlines()[-1].replace("'", "").split()
    assert words[:2] == ["python", "predict.py"]
    assert programs.run("predict", words[2:]) == 0
    assert list((loop / "runs").glob("*/forecasts/*/forecast.csv"))


def test_a_week_that_is_interrupted_is_continued(
    weekly: Weekly, loop: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its training, then before its decision is recorded."""
    programs.skipped = "validate"
    close_epoch = Trainer.close_epoch
    before = (loop / "champion.json").read_bytes()

    def fail(*arguments: object) -> None:
        close_epoch(*arguments)  # type: ignore[arg-type]
        raise OSError("the disk has gone")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "close_epoch", fail)
        status, output = weekly(DAYS + 5)
    assert status == 1
    assert "the disk has gone" in output
    assert "the champion is still" in output
    assert (loop / "champion.json").read_bytes() == before

    with monkeypatch.context() as patch:
        patch.setattr(ChampionFolder, "add", lambda *_: (_ for _ in ()).throw(OSError("full")))
        status, output = weekly(DAYS + 5)
    assert status == 1
    assert programs.called == ["validate", "train"]
    assert f"continue {loop}/runs/" in output
    assert (loop / "champion.json").read_bytes() == before
    run = loop / "runs" / re.findall(r"continue \S*/runs/(\S+)", output)[0]
    trained = content(run)
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + 2

    status, output = weekly(DAYS + 5)
    assert status == 0, output
    assert "is trained already" in output
    assert programs.called == []
    assert decisions(loop) == ["first", "promoted"]
    assert content(run) == trained

    after = content(loop)
    status, output = weekly(DAYS + 5)
    assert status == 0, output
    assert programs.called == []
    assert content(loop) == after


def test_a_failing_validation_trains_nothing(
    weekly: Weekly, loop: Path, programs: Programs
) -> None:
    before = content(loop)
    status, output = weekly(DAYS + 5, "loss.regression_weight=0.0")
    assert status == 1
    assert programs.called == ["validate"]
    assert "no gradient reaches head_return" in output
    assert f"validate.py failed with status 1, see above; the champion is still {loop}" in output
    assert content(loop) == before


def test_a_download_that_fails_stops_the_week(
    weekly: Weekly, loop: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, ...]] = []

    def download(*arguments: str) -> int:
        called.append(arguments)
        return 1

    monkeypatch.setattr(command, "run_python", download)
    before = content(loop)
    status, output = weekly(DAYS + 5, "download=universe=nifty200 start=2022-01-01 into='a b'")
    assert status == 1
    module = "stockformer.data.sources.download"
    assert called == [("-m", module, "universe=nifty200", "start=2022-01-01", "into=a b")]
    assert "the download failed with status 1" in output
    assert programs.called == []
    assert content(loop) == before


REFUSED = {
    "dataset.source.seed=1": "the champion was trained on other data: 9",
    "dataset.source.start=2011-01-03": "the champion was trained on other data: days",
    "target=next_day": "the champion has another target",
    "dataset.source.stocks=30": "the champion was trained on other data",
    "split=ratio": "split=ratio: the weekly loop sets",
    "init_from=loop": "init_from=loop: the weekly loop sets",
    "hydra.run.dir=x": "hydra.run.dir=x: the weekly loop sets",
    "trainer.max_epochs=2": "Did you mean 'trainer.max_epoch'?",
    "alpha=0.5": "alpha=0.5: must be from 0.001 to 0.1",
    "alpha=often": "alpha=often: not a number",
    "min_days=10": "min_days=10: must be at least 20",
    "min_days=50": "test_days=40: must be at least min_days=50",
    "min_days=1.5": "min_days=1.5: must be a whole number",
    "download=universe='nifty200": "download=universe='nifty200: No closing quotation",
    "seeds": "argument 'seeds' not understood",
}


@pytest.mark.parametrize("word", REFUSED)
def test_other_data_settings_and_words_are_refused(
    weekly: Weekly, loop: Path, programs: Programs, word: str
) -> None:
    before = content(loop)
    status, output = weekly(DAYS + 5, word)
    assert status == 1
    assert REFUSED[word] in output
    assert output.count("error: ") == 1
    assert "Traceback" not in output
    assert programs.called == []
    assert content(loop) == before


def test_older_and_too_few_data_are_refused(weekly: Weekly, loop: Path) -> None:
    status, output = weekly(DAYS - 5)
    assert status == 1
    assert "before the last week that was decided" in output or "other data" in output
    shutil.rmtree(loop)
    status, output = weekly(45)
    assert status == 1
    assert "45 days of data, to 2021-03-05, are too few for test_days=40" in output


def edited(text: str) -> Iterator[tuple[str, str]]:
    """Kinds of damage to champion.json, and what is said of it."""
    yield text[: len(text) // 2], "damaged, not JSON"
    yield "", "damaged, not JSON"
    yield text.replace("first", "kept"), "damaged or changed"
    yield text.replace('"version": 1', '"version": 2'), "version 2, not 1"
    yield text.replace('"history"', '"story"'), "missing history"
    yield text.replace("runs/2", "runs/../2"), "damaged or changed"
    yield text.replace("there was no", "there is no"), "damaged or changed"


@pytest.mark.parametrize("kind", range(7))
def test_a_damaged_champion_file_is_one_clear_error(
    weekly: Weekly, loop: Path, programs: Programs, kind: int
) -> None:
    file = loop / "champion.json"
    text, said = list(edited(file.read_text()))[kind]
    assert text != file.read_text()
    file.write_text(text)
    status, output = weekly(DAYS + 5)
    assert status == 1
    assert re.match(rf"error: {re.escape(str(file))}: cannot be used.*{said}", output), output
    assert len(output.strip().splitlines()) == 1
    assert programs.called == []
    assert file.read_text() == text


def test_a_missing_champion_file_is_not_a_new_beginning(
    weekly: Weekly, loop: Path, programs: Programs
) -> None:
    (loop / "champion.json").unlink()
    status, output = weekly(DAYS + 5)
    assert status == 1
    assert "champion.json: missing, but" in output
    assert programs.called == []


def test_a_damaged_champion_run_is_named(weekly: Weekly, loop: Path, programs: Programs) -> None:
    predictions = next(loop.glob("runs/*/predictions.parquet"))
    predictions.write_bytes(predictions.read_bytes()[:-1])
    status, output = weekly(DAYS + 5)
    assert status == 1
    assert f"{predictions}: damaged or changed" in output
    assert programs.called == []


def test_stocks_that_come_and_go_do_not_end_the_loop(
    weekly: Weekly, loop: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new run is trained on the stocks of its day; only those that both know are compared."""
    load = demo.load

    @wraps(load)  # its name is checked before it is called
    def renamed(**settings: Any) -> Panel:
        panel = load(**settings)
        return replace(panel, tickers=np.array([*panel.tickers[:-1], "NEW"]))

    monkeypatch.setattr(demo, "load", renamed)
    programs.skipped = "validate"
    status, output = weekly(DAYS + 5)
    assert status == 0, output
    last = ChampionFolder(loop).history()[-1]
    tickers = json.loads((loop / last.run / "manifest.json").read_text())["tickers"]
    assert "NEW" in tickers
    assert last.decision == "promoted"
    assert last.figures["days"] == 40


def test_a_day_that_is_not_over_decides_nothing(
    weekly: Weekly, loop: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = demo.load

    @wraps(load)  # its name is checked before it is called
    def half(**settings: Any) -> Panel:
        panel = load(**settings)
        panel.returns[-1, ::2] = np.nan
        return panel

    monkeypatch.setattr(demo, "load", half)
    before = content(loop)
    status, output = weekly(DAYS + 5)
    assert status == 1
    assert "the data are not complete. Run the week when the day is over" in output
    assert content(loop) == before


def test_trusted_packages_are_passed_on(
    weekly: Weekly, loop: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stockformer.config.trust._trusted", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("mine").mkdir()
    Path("mine/__init__.py").touch()
    programs.skipped = "validate"
    monkeypatch.setattr(Trainer, "fit", lambda *_: (_ for _ in ()).throw(OSError("enough")))
    assert weekly(DAYS + 5, "trust=[mine]")[0] == 1
    assert programs.called == ["validate", "train"]
    assert "trust=[mine]" in programs.words


def test_ctrl_c_between_two_steps_is_no_traceback(
    weekly: Weekly, loop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "plan_week", interrupted)
    assert weekly(DAYS + 5) == (130, "interrupted\n")


def test_two_loops_do_not_share_a_folder(weekly: Weekly, loop: Path) -> None:
    code = (
        "import pathlib, sys; from stockformer.runs import atomic; "
        "held = atomic.lock(pathlib.Path(sys.argv[1])); print(held, flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, loop / "lock"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        assert other.stdout is not None
        other.stdout.readline()
        status, output = weekly(DAYS + 5)
        other.communicate(b"\n")
    assert status == 1
    assert "another process is working on it" in output


CHILD = (
    "import pathlib, signal, sys, time; count = []; "
    "signal.signal(signal.SIGTERM, lambda *_: count.append(1)); "
    "pathlib.Path('started').touch()\n"
    "while not count: time.sleep(0.01)\n"
    "time.sleep(0.3); pathlib.Path('ended').write_text(str(len(count))); sys.exit(143)"
)


def test_a_signal_reaches_the_step_once_and_ends_the_loop_after_it(tmp_path: Path) -> None:
    code = (
        "from stockformer.commands.child_process import run_python; import sys; "
        f"sys.exit(run_python('-c', {CHILD!r}) + 1)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    end = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < end:
        time.sleep(0.02)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "ended").read_text() == "1"


def test_a_step_that_is_killed_has_a_status(tmp_path: Path) -> None:
    from stockformer.commands.child_process import run_python

    assert run_python("-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == 137
    assert run_python("-c", "import sys; sys.exit(3)") == 3


@pytest.mark.full
def test_six_weeks_as_a_user_runs_them(tmp_path: Path) -> None:
    """Each step a process of its own; the second week's training is interrupted by SIGTERM."""

    loop_words = ("-m", "stockformer.weekly", "champion=loop", *RULES, *MARKET)

    def start(week: int, *words: str) -> subprocess.Popen[str]:
        days = f"dataset.source.days={DAYS + 5 * week - 5}"
        return subprocess.Popen(
            [sys.executable, *loop_words, days, *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finished(week: int, *words: str) -> str:
        with start(week, *words) as process:
            output = process.communicate(timeout=600)[0]
        assert process.returncode == 0, output
        return output

    loop = tmp_path / "loop"
    finished(1, *CRIPPLED)
    with start(2) as interrupted:
        end = time.monotonic() + 300
        while time.monotonic() < end and len(list(loop.glob("runs/*/checkpoints/last.*"))) < 4:
            time.sleep(0.02)  # a file and its digest each
        interrupted.send_signal(signal.SIGTERM)
        output = interrupted.communicate(timeout=60)[0]
    assert interrupted.returncode == 128 + signal.SIGTERM, output
    assert decisions(loop) == ["first"]
    output = finished(2)
    assert f"continue {loop}/runs/" in output
    assert decisions(loop) == ["first", "promoted"]
    for week in (3, 4, 5):
        assert "nothing is trained" in finished(week)
    output = finished(6, *CRIPPLED)
    assert decisions(loop) == ["first", "promoted", "kept"]
    words = output.splitlines()[-1].replace("'", "").split()
    predict = subprocess.run(
        [sys.executable, ROOT / "predict.py", *words[2:]], cwd=tmp_path, check=False
    )
    assert predict.returncode == 0
