"""The command line of the download: its words, its exit status, and what it does on Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from data.download.market import Market, contents, moment, write_universe
from small_data import composed, source_settings

from stockformer.config.rules import OUR_TARGETS
from stockformer.data.download.command import DATA_DIR, read_request
from stockformer.data.download.validation import RULES

ROOT = Path(__file__).parents[3]
MODULE = "stockformer.data.sources.download"
TODAY = moment("2023-06-30").date()
GOOD = {"universe": "nifty200", "start": "2022-01-01"}
Command = Callable[..., tuple[int, str]]
BAD = {
    "no universe": ({"universe": ""}, "universe= is missing, e.g. python -m stockformer.data"),
    "no start": ({"start": ""}, "start= is missing"),
    "order of day and month": ({"start": "01/02/2022"}, "start=01/02/2022: not a date as in 2022"),
    "no such day": ({"start": "2022-02-30"}, "start=2022-02-30: not a date"),
    "compact": ({"end": "20220301"}, "end=20220301: not a date"),
    "backwards": ({"end": "2021-12-31"}, "end=2021-12-31: before start=2022-01-01"),
    "later": ({"start": "2023-08-01"}, "start=2023-08-01: in the future"),
    "far end": ({"end": "2030-01-01"}, "in the future; leave it out for the newest session"),
    "ticker": ({"tickers": "TCS,TCX"}, "tickers: 'TCX' is not in nifty200"),
    "no ticker": ({"tickers": "TCS,"}, "tickers: '' is not in nifty200"),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_words_are_refused_before_anything_is_done(case: str) -> None:
    changes, message = BAD[case]
    words = {key: value for key, value in (GOOD | changes).items() if value}
    with pytest.raises(ValueError, match=re.escape(message)):
        read_request(words, TODAY)


def test_where_the_files_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(DATA_DIR[0], raising=False)
    assert read_request(GOOD, TODAY).into == Path("data/nifty200")
    monkeypatch.setenv(DATA_DIR[0], "/elsewhere")
    assert read_request(GOOD, TODAY).into == Path("/elsewhere/nifty200")
    assert read_request({**GOOD, "into": "here"}, TODAY).into == Path("here")
    mine = write_universe(tmp_path / "mine.csv", "AAA", header="ticker")
    assert read_request({**GOOD, "universe": str(mine)}, TODAY).into == Path("/elsewhere/mine")


def test_what_is_written_twice_agrees_with_the_configuration() -> None:
    path = (ROOT / "conf/paths/default.yaml").read_text()
    assert f"data_dir: ${{oc.env:{DATA_DIR[0]},{DATA_DIR[1]}}}" in path
    assert source_settings("nifty200")["quality"] == asdict(RULES)
    assert composed("dataset=nifty200").dataset.source.path.endswith("/nifty200/raw")


def test_no_configuration_can_start_a_download() -> None:
    assert not OUR_TARGETS.fullmatch(f"{MODULE}.main")
    assert OUR_TARGETS.fullmatch("stockformer.data.sources.ohlcv.load")


@pytest.fixture
def universe(tmp_path: Path) -> str:
    return str(write_universe(tmp_path / "mine.csv", "AAA,", "NONE,", header="ticker,symbol"))


def test_a_failure_is_status_1_on_one_error(
    command: Command, universe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    market = Market(moment("2023-06-30"))
    monkeypatch.setattr("stockformer.data.download.yahoo.Yahoo", lambda: market)
    monkeypatch.setattr("stockformer.data.download.rate_limit.PAUSE", 0.0)
    status, output = command(
        MODULE, f"universe={universe}", "start=2023-01-01", "end=2023-05-31", "into=[red]x"
    )
    assert status == 1
    assert "[1/2] AAA: 108 sessions from 2023-01-02 to 2023-05-31" in output
    assert "error: 1 of 2 stocks could not be downloaded:\n  NONE: no prices of NONE" in output
    assert "into [red]x, from stand-in" in output  # no markup of rich
    assert "Traceback" not in output
    assert (tmp_path / "[red]x/raw/AAA.csv").exists()


def test_words_and_help(command: Command, tmp_path: Path) -> None:
    status, output = command(MODULE, "universe=nifty200", "star=2022-01-01")
    assert (status, "Did you mean 'start'?" in output) == (1, True)
    status, output = command(MODULE, "--help")
    assert status == 0
    assert "universe=nifty200 start=2022-01-01" in output
    assert contents(tmp_path) == {}


STAND_IN = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from data.download.market import Market, moment
from stockformer.data.download import yahoo
from stockformer.data.sources import download

class Slow(Market):
    def history(self, symbol, *span):
        if symbol == "NONE":
            print("asking", flush=True)
            time.sleep(60)
        return super().history(symbol, *span)

yahoo.Yahoo = lambda: Slow(moment("2023-06-30"))
sys.argv[1:] = {words!r}
download.main()
"""


def test_ctrl_c_leaves_whole_files_and_says_how_to_go_on(universe: str, tmp_path: Path) -> None:
    words = [f"universe={universe}", "start=2023-01-01", "end=2023-05-31", f"into={tmp_path / 'x'}"]
    code = STAND_IN.format(root=str(ROOT), tests=str(ROOT / "tests"), words=words)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("asking"):
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted; all files are whole. The same command continues\n"
    assert sorted(contents(tmp_path / "x")) == ["download.json", "download.lock", "raw/AAA.csv"]


def test_the_lists_are_in_the_wheel() -> None:
    build = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the wheel")
    names = {
        file.distribution_path for file in build.WheelBuilder(str(ROOT)).recurse_included_files()
    }
    assert "stockformer/data/sources/universes/nifty200-2026-03-30.csv" in names
