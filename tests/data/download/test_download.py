"""Downloads from a stand-in for the network: what is written, continued, refused, and said."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data.download.market import ROWS, Market, contents, download, write_universe
from small_data import source_settings

from stockformer.data.download.folder import DownloadFolder, from_csv
from stockformer.data.download.provider import RateLimited, Unreachable
from stockformer.data.sources.ohlcv import load
from stockformer.runs import atomic

ROOT = Path(__file__).parents[3]


def prices(into: Path, ticker: str) -> pd.DataFrame:
    return from_csv((into / "raw" / f"{ticker}.csv").read_bytes())


def facts(into: Path) -> dict:
    return json.loads((into / "download.json").read_text())


def test_a_file_a_stock_that_the_reader_accepts(
    market: Market, words: list[str], into: Path
) -> None:
    market.dividends["AAA.NS"] = ["2023-03-01"]
    lines, error = download(market, *words)
    assert error == ""
    assert sorted(contents(into)) == [
        *("download.json", "download.lock", "raw/AAA.csv", "raw/M&M.csv", "raw/ZZZ.csv"),
        "sectors.csv",
    ]
    assert (
        into / "sectors.csv"
    ).read_text() == "symbol,sector\nAAA,Power\nM&M,Automobile\nZZZ,Power\n"
    header = (into / "raw/AAA.csv").read_text().split("\n")[0]
    assert header == "Date,Open,High,Low,Close,Adj Close,Volume"
    settings = source_settings(
        "nifty200", path=str(into / "raw"), universe={"sectors_path": str(into / "sectors.csv")}
    )
    panel = load(**settings)
    assert panel.tickers.tolist() == ["AAA", "M&M", "ZZZ"]
    assert panel.sectors is not None
    assert panel.sectors.tolist() == ["Power", "Automobile", "Power"]
    assert panel.notes == (
        "prices: adjusted by the files' adjusted close",
        "survivorship: fixed list",
    )
    expected = market.complete("AAA.NS").prices
    np.testing.assert_array_equal(panel.prices["close"][:, 0], expected["Adj Close"])
    np.testing.assert_array_equal(prices(into, "AAA")["Close"], expected["Close"])
    assert any("survivorship: mine is one list for all dates" in line for line in lines)


def test_the_same_command_continues_and_asks_for_new_sessions_only(
    market: Market, words: list[str], into: Path
) -> None:
    download(market, *words)
    before = contents(into)
    market.asked.clear()
    assert "3 unchanged" in download(market, *words)[0][-3]
    assert market.asked == []
    market.at("2023-07-04")
    lines, error = download(market, *words)
    assert (error, len(market.asked)) == ("", 3)
    assert {start.isoformat() for _, start, _ in market.asked} == {"2023-06-19"}  # ten sessions
    assert "[1/3] AAA: 2 sessions added" in lines
    after = contents(into)
    for ticker in ("AAA", "M&M", "ZZZ"):
        old, new = before[f"raw/{ticker}.csv"], after[f"raw/{ticker}.csv"]
        assert new.startswith(old)
        assert new.count(b"\n") == old.count(b"\n") + 2
    fresh = Market(market.now)
    download(fresh, *words[:2], f"into={into}2")
    assert contents(Path(f"{into}2"))["raw/AAA.csv"] == after["raw/AAA.csv"]
    recorded = facts(into)["stocks"]["AAA"]
    assert recorded["sha256"] == atomic.sha256(after["raw/AAA.csv"])
    assert (recorded["last"], recorded["through"]) == ("2023-07-04", "2023-07-04")


def test_a_past_that_was_adjusted_is_downloaded_again(
    market: Market, words: list[str], into: Path
) -> None:
    download(market, *words)
    market.at("2023-07-05")
    market.dividends["ZZZ.NS"] = ["2023-07-04"]
    lines, error = download(market, *words)
    assert error == ""
    assert any("ZZZ: its past prices were adjusted or corrected" in line for line in lines)
    np.testing.assert_array_equal(
        prices(into, "ZZZ")["Adj Close"], market.complete("ZZZ.NS").prices["Adj Close"]
    )
    assert any("2 continued, 1 downloaded again" in line for line in lines)


def test_a_history_that_became_shorter_does_not_replace_a_longer_one(
    market: Market, words: list[str], into: Path
) -> None:
    download(market, *words)
    before = contents(into)["raw/AAA.csv"]
    market.at("2023-07-05")
    market.dividends["AAA.NS"] = ["2023-07-04"]
    market.edits["AAA.NS"] = lambda h: replace(h, prices=h.prices.iloc[-60:])
    _, error = download(market, *words)
    assert "AAA: the provider's history now lacks 73 of the file's 130 sessions" in error
    assert contents(into)["raw/AAA.csv"] == before


@pytest.mark.parametrize(
    ("hour", "last"),
    [(10, "2023-06-29"), (17, "2023-06-29"), (18, "2023-06-30"), (23, "2023-06-30")],
)
def test_an_unfinished_session_is_left_out(
    hour: int, last: str, market: Market, words: list[str], into: Path
) -> None:
    market.at("2023-06-30", hour)
    assert download(market, *words)[1] == ""
    assert prices(into, "AAA").index[-1] == pd.Timestamp(last)
    market.asked.clear()
    market.now += timedelta(minutes=20)
    download(market, *words)
    assert market.asked == []
    market.at("2023-07-03", 9)
    download(market, *words)
    assert len(market.asked) == 3
    assert prices(into, "AAA").index[-1] == pd.Timestamp("2023-06-30")


def test_without_the_session_s_end_today_waits_for_tomorrow(
    market: Market, words: list[str], into: Path
) -> None:
    market.edits["AAA.NS"] = lambda history: replace(history, session_end=None)
    download(market, *words)
    assert prices(into, "AAA").index[-1] == pd.Timestamp("2023-06-29")
    assert prices(into, "ZZZ").index[-1] == pd.Timestamp("2023-06-30")


def test_an_end_is_kept_to_and_can_be_moved_on(
    market: Market, words: list[str], into: Path
) -> None:
    download(market, *words, "end=2023-03-31")
    assert prices(into, "AAA").index[-1] == pd.Timestamp("2023-03-31")
    market.asked.clear()
    download(market, *words, "end=2023-03-31")
    assert market.asked == []
    download(market, *words)
    assert prices(into, "AAA").index[-1] == pd.Timestamp("2023-06-30")
    error = download(market, *words, "end=2023-03-31")[1]
    assert error.startswith("end=2023-03-31: ")
    assert "has sessions up to 2023-06-30" in error


def test_an_earlier_start_downloads_all_and_a_later_one_is_refused(
    market: Market, words: list[str], into: Path
) -> None:
    later = [words[0], "start=2023-03-01", words[2]]
    download(market, *later)
    assert prices(into, "AAA").index[0] == pd.Timestamp("2023-03-01")
    assert download(market, *words)[1] == ""
    assert prices(into, "AAA").index[0] == pd.Timestamp("2023-01-02")
    before = contents(into)
    assert "was downloaded from 2023-01-01 on; give start=2023-01-01" in download(market, *later)[1]
    assert contents(into) == before


def test_failures_are_listed_with_the_command_that_tries_only_them_again(
    market: Market, tmp_path: Path, into: Path
) -> None:
    path = write_universe(tmp_path / "mine.csv", *ROWS, "A&B,NONE.NS,", "GONE,NONE2.NS,")
    words = [f"universe={path}", "start=2023-01-01", f"into={into}"]
    lines, error = download(market, *words)
    assert error.startswith("2 of 5 stocks could not be downloaded:\n  A&B: no prices of NONE.NS\n")
    assert sorted(p.name for p in (into / "raw").iterdir()) == ["AAA.csv", "M&M.csv", "ZZZ.csv"]
    assert "3 of 5 stocks: 3 new" in "\n".join(lines)
    retry = shlex.split(error.split("try only these again: ")[1])
    assert retry[:3] == ["python", "-m", "stockformer.data.sources.download"]
    assert retry[3:] == [*words, "tickers=A&B,GONE"]
    write_universe(tmp_path / "mine.csv", *ROWS, "A&B,AB.NS,", "GONE,GO.NS,")
    market.asked.clear()
    assert download(market, *retry[3:])[1] == ""
    assert [symbol for symbol, _, _ in market.asked] == ["AB.NS", "GO.NS"]


def test_a_rate_limit_is_waited_for_longer_and_longer(market: Market, words: list[str]) -> None:
    market.faults["AAA.NS"] = [RateLimited(), RateLimited(), RateLimited(100)]
    lines, error = download(market, *words)
    assert error == ""
    assert [seconds for seconds in market.slept if seconds > 10] == [30, 60, 100]
    assert any("next attempt in 1 min 0 s (3 of 6)" in line for line in lines)
    assert market.slept[-1] == 4.0  # the pause between requests, doubled three times


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ([RateLimited()] * 6, "limits the rate of requests"),
        ([RateLimited(7200)], "asks to wait 2 h 0 min"),
    ],
)
def test_a_rate_limit_that_stays_stops_the_download(
    limits: list[Exception], reason: str, market: Market, words: list[str], into: Path
) -> None:
    market.faults["M&M.NS"] = list(limits)
    _, error = download(market, *words)
    assert f"stopped: stand-in {reason}; still to do: M&M, ZZZ" in error
    assert sum(market.slept) < 1000
    assert "tickers=M&M,ZZZ'" in error
    assert (into / "raw/AAA.csv").exists()
    assert download(market, *words)[1] == ""


def test_no_answer_is_tried_again_and_no_network_ends_soon(
    market: Market, tmp_path: Path, words: list[str]
) -> None:
    market.faults["AAA.NS"] = [Unreachable("reset")] * 3
    assert download(market, *words)[1] == ""
    path = write_universe(tmp_path / "many.csv", *(f"T{i}" for i in range(50)), header="ticker")
    market.faults[""] = [Unreachable("no route to host")] * 1000
    market.asked.clear()
    _, error = download(market, f"universe={path}", "start=2023-01-01", f"into={tmp_path / 'x'}")
    assert "does not answer (3 stocks in a row: no route to host); is there a network?" in error
    assert len(market.asked) == 12
    assert "48 of" not in error
    assert "50 of 50 stocks could not be downloaded" in error
    assert "tickers=" not in error.splitlines()[-1]  # all: the command as it was


def test_three_stocks_without_an_answer_are_no_lost_network_if_others_answer(
    market: Market, tmp_path: Path
) -> None:
    rows = [f"T{i},{'NONE' * (i % 2)}{i}" for i in range(8)]
    path = write_universe(tmp_path / "many.csv", *rows, header="ticker,symbol")
    market.faults = {f"{i}": [Unreachable("reset")] * 4 for i in (0, 2, 4)}
    _, error = download(market, f"universe={path}", "start=2023-01-01", f"into={tmp_path / 'x'}")
    assert error.startswith("7 of 8 stocks could not be downloaded")
    assert "T4: reset" in error
    assert "stopped" not in error
    assert (tmp_path / "x/raw/T6.csv").exists()


def test_files_of_the_user_s_own_are_never_overwritten(
    market: Market, words: list[str], into: Path
) -> None:
    (into / "raw").mkdir(parents=True)
    (into / "raw/OTHER.parquet").write_text("mine")
    before = contents(into)
    error = download(market, *words)[1]
    assert "holds files that no download wrote (OTHER.parquet); they are kept" in error
    assert contents(into) == before
    (into / "raw/OTHER.parquet").unlink()
    (into / "OWN.csv").write_text("mine")  # a folder of price files, without raw/
    before = contents(into)
    assert "no download wrote (OWN.csv)" in download(market, *words)[1]
    assert contents(into) == before
    (into / "OWN.csv").unlink()
    (into / "sectors.csv").write_text("mine")
    assert "no download wrote (sectors.csv)" in download(market, *words)[1]
    (into / "sectors.csv").unlink()
    download(market, *words, "tickers=AAA")
    (into / "raw/OTHER.csv").write_text("mine")  # beside downloaded ones a stock may be added
    assert download(market, *words, "tickers=AAA")[1] == ""
    (into / "raw/zzz.csv.gz").write_text("mine")
    assert "(zzz.csv.gz)" in download(market, *words)[1]
    assert (into / "raw/zzz.csv.gz").read_text() == "mine"


def test_a_file_that_was_changed_is_named_and_kept(
    market: Market, words: list[str], into: Path
) -> None:
    download(market, *words)
    path = into / "raw/AAA.csv"
    path.write_bytes(path.read_bytes()[:-1])
    changed = path.read_bytes()
    market.at("2023-07-03")
    _, error = download(market, *words)
    assert error.startswith("1 of 3 stocks could not be downloaded:\n  AAA: ")
    assert "was changed or damaged since it was downloaded" in error
    assert path.read_bytes() == changed
    path.unlink()
    assert download(market, *words)[1] == ""
    assert prices(into, "AAA").index[-1] == pd.Timestamp("2023-07-03")
    (into / "sectors.csv").write_text("changed")
    assert "sectors.csv: was changed" in download(market, *words)[1]
    assert (into / "sectors.csv").read_text() == "changed"


def test_what_is_no_file_in_the_place_of_one_is_named_and_kept(
    market: Market, words: list[str], into: Path
) -> None:
    download(market, *words)
    (into / "raw/AAA.csv").unlink()
    (into / "raw/AAA.csv").mkdir()
    error = download(market, *words)[1]
    assert error.startswith("1 of 3 stocks could not be downloaded:\n  AAA: ")
    assert "raw/AAA.csv: cannot be read: not a file" in error
    (into / "sectors.csv").unlink()
    (into / "sectors.csv").symlink_to(into.parent / "unmounted/sectors.csv")
    assert "sectors.csv: cannot be read: a link" in download(market, *words)[1]
    assert (into / "sectors.csv").is_symlink()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 1}', b"[]"])
def test_a_damaged_side_file_is_refused(
    damage: bytes, market: Market, words: list[str], into: Path
) -> None:
    download(market, *words)
    (into / "download.json").write_bytes(damage)
    before = contents(into)
    error = download(market, *words)[1]
    assert error.startswith(f"{into / 'download.json'}: ")
    assert "move the folder away and download again" in error
    assert contents(into) == before


def test_another_list_needs_another_folder(
    market: Market, words: list[str], tmp_path: Path
) -> None:
    download(market, *words)
    path = write_universe(tmp_path / "other.csv", "BBB", header="ticker")
    error = download(market, f"universe={path}", *words[1:])[1]
    assert "holds the prices of universe mine, not of other" in error
    write_universe(tmp_path / "mine.csv", *ROWS[:2])
    lines, error = download(market, *words)
    assert error == ""
    assert any("no longer in mine: ZZZ; " in line for line in lines)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, 8))
def test_a_download_that_is_killed_at_any_write_continues(
    number: int,
    after: bool,
    market: Market,
    words: list[str],
    into: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before or after one of the writes, of a first download and of one that continues."""
    write, count = atomic.write, 0

    def killed(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if after or count != number:
            write(path, data)
        if count == number:
            raise KeyboardInterrupt

    for day in ("2023-06-30", "2023-07-05"):
        market.at(day)
        count = 0
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "write", killed)
            with pytest.raises(KeyboardInterrupt):
                download(market, *words)
        for path in (into / "raw").glob("*.csv"):
            from_csv(path.read_bytes())
        assert download(market, *words)[1] == ""
    fresh = Market(market.now)
    download(fresh, *words[:2], f"into={into}2")
    for name, data in contents(Path(f"{into}2")).items():
        if name.endswith(".csv"):
            assert contents(into)[name] == data


def test_two_downloads_into_one_folder_do_not_mix(
    market: Market, words: list[str], into: Path
) -> None:
    download(market, *words)
    holder = (
        "import sys; from pathlib import Path; from stockformer.runs.atomic import lock;"
        f"held = lock(Path({str(into / 'download.lock')!r}));"
        "print(held, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        error = download(market, *words)[1]
        process.communicate(b"")
    assert error == f"{into}: another download is writing there; wait until it ends"
    assert download(market, *words)[1] == ""


def test_a_full_disk_ends_the_download_with_whole_files(
    market: Market, words: list[str], into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: DownloadFolder, *_: object) -> None:
        raise OSError(f"{folder.raw}: could not be written: No space left on device")

    monkeypatch.setattr(DownloadFolder, "write", full)
    with pytest.raises(OSError, match="No space left"):
        download(market, *words)
    monkeypatch.undo()
    assert download(market, *words)[1] == ""


def test_prices_that_end_early_are_named(market: Market, words: list[str]) -> None:
    market.edits["ZZZ.NS"] = lambda h: replace(h, prices=h.prices.loc[:"2023-03-31"])
    lines, error = download(market, *words)
    assert error == ""
    assert any("end long before 2023-06-30, the newest day: ZZZ (2023-03-31)" in x for x in lines)


def test_validate_reads_it_through(
    market: Market,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., tuple[int, str]],
) -> None:
    """The whole way of a new user, with a short list of the same name."""
    rows = [f"S{i},S{i}.NS,{'Power' if i % 2 else 'Realty'}" for i in range(6)]
    shipped = tmp_path / "lists"
    shipped.mkdir()
    write_universe(shipped / "nifty200-2023-01-01.csv", *rows)
    monkeypatch.setattr("stockformer.data.download.universe.SHIPPED", shipped)
    monkeypatch.setenv("STOCKFORMER_DATA", str(tmp_path / "data"))
    market.at("2023-12-29")
    lines, error = download(market, "universe=nifty200", "start=2023-01-01")
    assert error == ""
    assert lines[-1] == "check the data: python validate.py dataset=nifty200"
    monkeypatch.setattr("stockformer.audit.lookahead.START_METHOD", "")  # no process a cut: quicker
    small = ("dataset.lookback=5", "dataset.factors=[ROC5]")
    data = f"paths.data_dir={tmp_path / 'data'}"
    status, output = command("validate", "dataset=nifty200", data, *small)
    assert status == 0, output
    assert "CHECKS PASSED but test results are optimistic: " in output
    assert "stocks that left the index before are missing, so results are optimistic" in output
