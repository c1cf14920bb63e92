"""Data that are in order column by column and wrong together: each is refused or reported."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_data import Phase5Files, PriceFiles, source_settings

from stockformer.config import trust
from stockformer.config.overrides import check_command_line
from stockformer.data.panel import Panel
from stockformer.data.reading.cache import unread_files
from stockformer.data.reading.index import index_closes
from stockformer.data.reading.records import Layout
from stockformer.data.sources import features, ohlcv, phase5
from stockformer.data.splits import by_dates, walk_forward

Command = Callable[..., tuple[int, str]]
Change = Callable[[PriceFiles], None]


def of_one(**columns: object) -> Change:
    """Set columns of the stock AAA, from its own frame where they are functions."""

    def change(files: PriceFiles) -> None:
        frame = files.frames["AAA"]
        for name, value in columns.items():
            frame[name.replace("_", " ")] = value(frame) if callable(value) else value
        files.write()

    return change


def of_all(**columns: object) -> Change:
    def change(files: PriceFiles) -> None:
        for frame in files.frames.values():
            for name, value in columns.items():
                frame[name.replace("_", " ")] = value(frame) if callable(value) else value
        files.write()

    return change


def both(*changes: Change) -> Change:
    def change(files: PriceFiles) -> None:
        for each in changes:
            each(files)

    return change


def renamed(old: str, new: str) -> Change:
    def change(files: PriceFiles) -> None:
        for ticker, frame in files.frames.items():
            files.frames[ticker] = frame.rename(columns={old: new})
        files.write()

    return change


def copied(name: str) -> Change:
    def change(files: PriceFiles) -> None:
        shutil.copy(files.path("AAA"), files.root / name)

    return change


def some_days(share: float, column: str) -> Callable[[pd.DataFrame], pd.Series]:
    """The column without its values on the first `shard` of the days."""

    def values(frame: pd.DataFrame) -> pd.Series:
        return frame[column].astype(float).where(np.arange(len(frame)) >= share * len(frame))

    return values


def typical(factor: float) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda frame: (frame["High"] + frame["Low"] + frame["Close"]) / 3 * factor


def money(factor: float) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda frame: frame["Close"] * frame["Volume"] * factor


adjusted = of_all(Adj_Close=lambda frame: frame["Close"] * 0.5)


def long_file(files: PriceFiles) -> None:
    table = files.long().rename(columns={"Ticker": "Symbol"})
    for ticker in files.tickers:
        files.path(ticker).unlink()
    table.to_csv(files.root / "prices.csv", index=False)


def link_to_itself(files: PriceFiles) -> None:
    files.path("AAA").unlink()
    files.path("AAA").symlink_to(files.path("AAA"))


def links_in_a_ring(files: PriceFiles) -> None:
    files.path("AAA").unlink()
    files.path("AAA").symlink_to(files.path("BBB"))
    files.path("BBB").symlink_to(files.path("AAA"))


def cut(path: Path, lines: int) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


def huge(column: str, value: float) -> Change:
    def change(files: PriceFiles) -> None:
        frame = files.frames["AAA"].astype({"Volume": float})
        frame.loc[7, column] = value
        files.frames["AAA"] = frame
        files.write()

    return change


ADVICE = 'dataset.source.columns.adjusted="" reads the unadjusted close'
REFUSED: dict[str, tuple[Change, str]] = {
    "adjusted close empty": (
        both(adjusted, of_one(Adj_Close=np.nan)),
        f"no adjusted close; {ADVICE} for AAA",
    ),
    "adjusted close in some files only": (
        of_one(Adj_Close=lambda frame: frame["Close"]),
        f"no adjusted close; {ADVICE} for M&M",
    ),
    "adjusted close of 1": (
        both(adjusted, of_one(Adj_Close=1.0)),
        "the adjusted close does not change while the close does; "
        f"{ADVICE} (59 days), first on 2023-01-03 for AAA",
    ),
    "adjusted close of 1 everywhere": (
        of_all(Adj_Close=1.0),
        "does not change while the close does",
    ),
    "adjusted close of the next day": (
        of_all(Adj_Close=lambda frame: frame["Close"].shift(-1).ffill()),
        "adjusted / close changes again and again: the prices of another day or stock?",
    ),
    "adjusted closes of another stock": (
        both(adjusted, of_one(Adj_Close=lambda frame: frame["Open"] * 0.5)),
        "adjusted / close changes again and again",
    ),
    "two adjusted closes": (
        both(adjusted, of_all(AdjClose=1.0)),
        "columns ['adj close', 'adjclose'] all match; choose one with dataset.source.columns",
    ),
    "no volume anywhere": (of_all(Volume=""), "column volume has no value for any stock"),
    "no open anywhere": (of_all(Open=np.nan), "column open has no value for any stock"),
    "vwap in another unit": (
        of_one(VWAP=typical(1000)),
        "vwap is 1000 times the close (median): another unit? dataset.source.col",
    ),
    "vwap in cents": (of_all(VWAP=typical(100)), "another unit?"),
    "vwap in hundreds": (of_all(VWAP=typical(0.01)), "vwap is 0.01 times the close (median)"),
    "amount in thousands": (of_all(Amount=money(0.001)), "amount / volume is 0.001 times"),
    "amount a thousand times": (of_one(Amount=money(1000)), "amount / volume is 1000 times"),
    "volume as amount": (of_all(Amount=lambda frame: frame["Volume"]), "amount / volume is 0.0"),
    "close of 1e38": (huge("High", 1e38), "a price above 1e+15: another column, or a placeholder?"),
    "volume of 1e30": (huge("Volume", 1e30), "volume above 1e+18: another column, or a placehold"),
    "browser's copy": (copied("AAA (1).csv"), "AAA (1).csv: its name is that of a copy"),
    "explorer's copy": (
        copied("AAA - Copy.csv"),
        "AAA - Copy.csv: its name is that of a copy of another file",
    ),
    "finder's copy": (
        copied("AAA copy 2.csv"),
        "AAA copy 2.csv: its name is that of a copy of another file",
    ),
    "another copy": (
        copied("Copy of AAA.csv"),
        "Copy of AAA.csv: its name is that of a copy of another file",
    ),
    "the same stock twice": (
        copied("AAB.csv"),
        "exactly the closes of AAA: is one file a copy? for AAB",
    ),
    "the same stock twice, once cut": (
        both(copied("AAB.csv"), lambda files: cut(files.root / "AAB.csv", 70)),
        "exactly the closes of AAA: is one file a copy? for AAB",
    ),
    "a long file whose stocks are symbols": (
        long_file,
        "column 'symbol' has 6 values, e.g. '000001', several on a day: if it names the stock, set "
        "dataset.source.columns.ticker=symbol",
    ),
    "a link to itself": (link_to_itself, "AAA.csv: a broken link"),
    "links in a ring": (links_in_a_ring, "AAA.csv: a broken link"),
}


def read_prices(files: PriceFiles, **changes: object) -> Panel:
    return ohlcv.load(**source_settings("ohlcv", path=str(files.root), **changes))


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """validate.py's audit in this process: quicker."""
    monkeypatch.setattr("stockformer.audit.lookahead.START_METHOD", "")


@pytest.fixture
def files(tmp_path: Path) -> PriceFiles:
    return PriceFiles(tmp_path / "data")


@pytest.mark.parametrize("name", REFUSED)
def test_prices_that_cannot_belong_together_are_refused(files: PriceFiles, name: str) -> None:
    change, expected = REFUSED[name]
    read_prices(files)
    change(files)
    with pytest.raises(ValueError, match=r"^the data are refused") as refusal:
        read_prices(files)
    assert expected in str(refusal.value)


WARNED: dict[str, tuple[Change, str]] = {
    "adjusted close half empty": (
        both(adjusted, of_one(Adj_Close=some_days(0.5, "Adj Close"))),
        "no adjusted close, counted as not traded (40 days), first on 2023-01-02 for AAA",
    ),
    "no volume": (of_one(Volume=np.nan), "no volume on days that have a close"),
    "no high": (of_one(High=np.nan), "no high on days that have a close"),
    "no low": (of_one(Low=np.nan), "no low on days that have a close"),
    "a very large price": (huge("High", 2e9), "a price above 1e+09: another column, or a placehol"),
    "volume missing often": (
        of_one(Volume=some_days(0.3, "Volume")),
        "no volume on days that have a close; its factors are filled there (24 days), first on "
        "2023-01-02 for AAA",
    ),
    "open missing often": (
        of_one(Open=some_days(0.3, "Open")),
        "no open on days that have a close; its factors are filled there (24 days)",
    ),
    "a column that may be the adjusted close": (
        of_all(AdjPx=1.0),
        "column 'AdjPx' is not read; if it is the adjusted close, name it in "
        "dataset.source.columns.adjusted",
    ),
    "vwap outside the day's range": (
        of_one(VWAP=typical(1.2)),
        "vwap is outside low and high (80 days), first on 2023-01-02 for AAA",
    ),
}


@pytest.mark.parametrize("name", WARNED)
def test_prices_that_are_odd_together_are_told(files: PriceFiles, name: str) -> None:
    change, expected = WARNED[name]
    assert [f for f in read_prices(files).findings if f.level == "warning"] == []
    change(files)
    panel = read_prices(files)
    warnings = [str(f) for f in panel.findings if f.level == "warning"]
    assert [text for text in warnings if expected in text], warnings
    with pytest.raises(ValueError, match="strict mode"):
        read_prices(files, quality={"strict": True})


@pytest.mark.parametrize("header", ["Adj Close", "adj_close", "AdjClose", "Adjusted Close"])
def test_an_adjusted_close_is_used_and_said_under_each_of_its_names(
    files: PriceFiles, header: str
) -> None:
    before = read_prices(files)
    assert before.notes[0] == "prices: column 'close', unchanged; there is no adjusted close"
    halved = 1 - 0.5 * (np.arange(80) >= 40)
    both(adjusted, of_all(Adj_Close=lambda frame: frame["Close"] * halved))(files)
    renamed("Adj Close", header)(files)
    panel = read_prices(files)
    assert panel.notes[0] == "prices: adjusted by the files' adjusted close"
    np.testing.assert_allclose(panel.prices["close"][-1], before.prices["close"][-1] / 2)
    named = read_prices(files, columns={"adjusted": header})
    assert named.notes[0] == f"prices: adjusted by column {header!r}"
    np.testing.assert_array_equal(named.returns, panel.returns)
    without = read_prices(files, columns={"adjusted": ""})
    np.testing.assert_array_equal(without.returns, before.returns)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"adjusted": "adj_clsoe"}, "no column 'adj_clsoe'; the file has Date, Open, High, Low,"),
        ({"vwap": "average"}, "no column 'average'"),
        ({"amount": "turnover"}, "; set dataset.source.columns.amount"),
        ({"close": "last"}, "no column 'last'; the file has Date, Open, High, Low, Close, Volume;"),
        ({"close": ""}, "dataset.source.columns.close='' names no column, but is required"),
        ({"close": "auto"}, "dataset.source.columns.close='auto' names no column, but is required"),
        ({"close": "open"}, "dataset.source.columns: ['open'] stand for two columns each"),
    ],
)
def test_a_column_that_is_named_must_be_there(
    files: PriceFiles, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_prices(files, columns=columns)


def test_a_long_file_without_a_ticker_says_what_it_has(files: PriceFiles, tmp_path: Path) -> None:
    files.long().rename(columns={"Ticker": "Symbol"}).to_csv(tmp_path / "long.csv", index=False)
    settings = {"path": str(tmp_path / "long.csv")}
    with pytest.raises(ValueError, match=r"no column 'ticker'; the file has Date, .*, Symbol"):
        ohlcv.load(**source_settings("ohlcv", **settings))
    panel = ohlcv.load(**source_settings("ohlcv", **settings, columns={"ticker": "Symbol"}))
    assert panel.tickers.tolist() == sorted(files.tickers)


@pytest.mark.parametrize(("word", "mark"), [("semicolon", ";"), ("tab", "\t"), ("pipe", "|")])
def test_a_delimiter_has_a_name(files: PriceFiles, word: str, mark: str) -> None:
    before = read_prices(files)
    for ticker in files.tickers:
        text = files.path(ticker).read_text()
        files.path(ticker).write_text(text.replace(",", mark))
    np.testing.assert_array_equal(read_prices(files, delimiter=word).returns, before.returns)
    check_command_line(["dataset=ohlcv", f"dataset.source.delimiter={word}"], multirun=False)


SETTINGS: list[tuple[dict[str, str], str]] = [
    (
        {"delimiter": "::"},
        "dataset.source.delimiter='::': must be one character, or one of comma, semi",
    ),
    (
        {"timezone": "Mars/Olympus"},
        "dataset.source.timezone='Mars/Olympus': not a time zone, e.g. Asia/",
    ),
    ({"timezone": "../etc"}, "dataset.source.timezone='../etc': not a time zone"),
    ({"date_format": "%Q"}, "dataset.source.date_format='%Q'"),
    ({"date_format": ""}, "dataset.source.date_format='': must have year, month and day"),
    ({"date_format": "%H:%M"}, "dataset.source.date_format='%H:%M': must have year, month and day"),
    ({"date_format": "%Y-%m"}, "dataset.source.date_format='%Y-%m': must have year, month and day"),
    ({"date_format": "%y"}, "dataset.source.date_format='%y': must have year, month and day"),
]


@pytest.mark.parametrize(("changes", "message"), SETTINGS, ids=str)
def test_settings_of_files_are_checked_by_name(
    files: PriceFiles, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_prices(files, **changes)


def lists(tmp_path: Path, sectors: str = "", members: str = "") -> dict[str, dict[str, str]]:
    found = {}
    for name, text in (("sectors", sectors), ("members", members)):
        if text:
            (tmp_path / f"{name}.csv").write_text(text)
            found[f"{name}_path"] = str(tmp_path / f"{name}.csv")
    return {"universe": found}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"sectors": "ticker,sector\nAAA,Oil\nNA,IT\nAAA,Banks\n"},
            "sectors.csv: two sectors, 'Oil' and 'Banks' for AAA (row 4)",
        ),
        (
            {"sectors": "ticker,sector\nAAA.NS,Oil\nNA.NS,IT\n"},
            "sectors.csv: no stock of the data is in it, e.g. not 000001: other names?",
        ),
        (
            {"sectors": "symbol,industry\nAAA,Oil\n"},
            "no column 'sector'; the file has symbol, industry",
        ),
        (
            {"members": "ticker,start,end\nAAA.NS,2020-01-01,\n"},
            "no stock of the data is a member on any of its dates: other names, or dates?",
        ),
        (
            {"members": "ticker,start,end\nAAA,1999-01-01,2001-01-01\n"},
            "no stock of the data is a member on any of its dates",
        ),
        ({"members": "ticker,from,to\nAAA,1999-01-01,\n"}, "no column 'end'; the file has ticker,"),
    ],
)
def test_lists_that_fit_no_stock_are_refused(
    files: PriceFiles, tmp_path: Path, texts: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_prices(files, **lists(tmp_path, **texts))


def test_a_stock_twice_in_one_sector_is_fine(files: PriceFiles, tmp_path: Path) -> None:
    texts = {"sectors": "ticker,sector\nAAA,Oil\nAAA,Oil\n"}
    panel = read_prices(files, **lists(tmp_path, **texts))
    assert panel.sectors is not None
    assert panel.sectors[panel.tickers.tolist().index("AAA")] == "Oil"


def with_return(
    files: PriceFiles, path: Path, of: Callable[[pd.Series], pd.Series]
) -> Callable[[], Panel]:
    """Long files with a return made of each stock's own by `of`."""
    table = files.long().rename(columns=str.lower)
    own = table.groupby("ticker")["close"].transform(lambda close: of(close.pct_change()))
    table.assign(ret=own, size=1.0).to_csv(path, index=False)
    settings = {
        "path": str(path),
        "features": ["size"],
        "ratios_to_close": ["open"],
        "columns": {"return": "ret"},
    }
    return lambda: features.load(**source_settings("features", **settings))


def few_others(returns: pd.Series) -> pd.Series:
    changed = returns.copy()
    changed.iloc[40] += 0.03
    return changed


RETURNS: dict[str, tuple[Callable[[pd.Series], pd.Series], str]] = {
    "in percent": (
        lambda r: 100 * r,
        "a day: in percent? fractions are expected, 0.01 for 1 %",
    ),
    "below -100 %": (lambda r: r - 1.5, "a return below -100 %: in percent, or another column?"),
    "of the next day": (
        lambda r: r.shift(-1),
        '(they are those of the next session); dataset.source.columns.return="" computes them',
    ),
    "of the last day": (lambda r: r.shift(1), "(they are those of the last session)"),
    "of nothing": (
        lambda r: pd.Series(np.random.default_rng(0).normal(0, 0.02, len(r)), r.index),
        "of the returns are not those of the close, e.g. ",
    ),
    "with the sign turned": (lambda r: -r, "of the returns are not those of the close"),
}


@pytest.mark.parametrize("name", RETURNS)
def test_returns_that_are_not_the_closes_are_refused(
    files: PriceFiles, tmp_path: Path, name: str
) -> None:
    of, expected = RETURNS[name]
    with_return(files, tmp_path / "good.csv", lambda r: r)()
    with pytest.raises(ValueError, match=r"^the data are refused") as refusal:
        with_return(files, tmp_path / "bad.csv", of)()
    assert expected in str(refusal.value)


def test_a_few_other_returns_are_told(files: PriceFiles, tmp_path: Path) -> None:
    panel = with_return(files, tmp_path / "few.csv", few_others)()
    assert panel.notes[0] == "returns: column 'ret', unchanged"
    found = [str(f) for f in panel.findings if "not the close's" in f.message]
    assert len(found) == len(files.tickers)
    assert "(1 days), first on 2023-02-27 for 000001" in found[0]


@pytest.mark.parametrize(("factor", "shift"), [(100.0, 0.0), (1.0, -1.5)])
def test_prepared_returns_in_percent_or_below_everything_are_refused(
    phase5_files: Phase5Files, factor: float, shift: float
) -> None:
    settings = source_settings("nifty200_phase5", str(phase5_files.data_dir))
    phase5.load(**settings)
    phase5_files.returns[1:] = phase5_files.returns[1:] * factor + shift
    phase5_files.write()
    with pytest.raises(ValueError, match="in percent"):
        phase5.load(**settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,close\n2023-01-02,-5\n", "index.csv: close -5.0 on 2023-01-02, not above 0"),
        ("date,close\n2023-01-02,0\n", "index.csv: close 0.0 on 2023-01-02, not above 0"),
        ("date,close\n1999-01-04,5\n", "no close on any date of the data, 2023-01-02 to 2023-01-0"),
        ("date,last\n2023-01-02,5\n", "no column 'close', only last"),
    ],
)
def test_an_index_that_cannot_be_one_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "index.csv").write_text(text)
    dates = np.arange("2023-01-02", "2023-01-06", dtype="datetime64[D]")
    with pytest.raises(ValueError, match=re.escape(message)):
        index_closes(tmp_path / "index.csv", dates)


PLATEAU = "scheduler=plateau"
LINES: list[tuple[list[str], str]] = [
    (["loss.horizon=2"], "loss.horizon=2: follows target.horizon=1; set that one"),
    (["model.horizon=3"], "model.horizon=3: follows target.horizon=1; set that one"),
    (["model.lookback=9"], "model.lookback=9: follows dataset.lookback=10; set that one"),
    (
        ["loss.regression_weight=0", "loss.classification_weight=0"],
        "loss.regression_weight=0, loss.classification_weight=0: one of them must be above 0",
    ),
    (["split=walk_forward", "split.first_train=-50"], "split.first_train=-50: must not be negat"),
    (["split=walk_forward", "split.first_test=0"], "split.first_test=0: must be at least 1"),
    (
        ["backtest.top_k=5", "backtest.n_drop=6"],
        "backtest.n_drop=6: more than the backtest.top_k=5 stocks",
    ),
    (["scheduler=cosine", "scheduler.eta_min=1"], "scheduler.eta_min=1: above optimizer.lr=0.00"),
    (["scheduler=cosine", "scheduler.eta_min=-1"], "scheduler.eta_min=-1: must not be negative"),
    (["scheduler=cosine", "scheduler.T_max=0"], "scheduler.T_max=0: must be at least 1"),
    ([PLATEAU, "scheduler.min_lr=1"], "scheduler.min_lr=1: above optimizer.lr="),
    ([PLATEAU, "scheduler.cooldown=-1"], "scheduler.cooldown=-1: must not be negative"),
    ([PLATEAU, "scheduler.threshold=-1"], "scheduler.threshold=-1: must not be negative"),
    ([PLATEAU, "scheduler.threshold_mode=x"], "scheduler.threshold_mode='x': must be one of rel"),
    (["scheduler=constant", "scheduler.total_iters=-1"], "scheduler.total_iters=-1: must not be"),
    (["model.width=10000000"], "model.width=10000000: must be from 1 to 65,536"),
    (["model.layers=100000"], "model.layers=100000: must be from 1 to 1,000"),
    (["lookback=5"], "unknown key 'lookback'. Did you mean 'dataset.lookback'?"),
    (["horizon=5"], "unknown key 'horizon'. Did you mean 'target.horizon'?"),
]


@pytest.mark.parametrize(("words", "message"), LINES, ids=str)
def test_settings_that_contradict_are_refused_before_data(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_command_line(words, multirun=False)


DATES = np.arange("2023-01-02", "2023-07-21", dtype="datetime64[D]")  # 200 rows


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        (
            ("2050-01-01", "2051-01-01"),
            "split.validation_start=2050-01-01: the data are of 2023",
        ),
        (("1999-01-01", "2023-06-01"), "split.validation_start=1999-01-01: the data are of"),
        (
            (-5, 100),
            "split.validation_start=-5: the data are of 2023-01-02 to 2023-07-20, rows",
        ),
        ((50, 5000), "split.test_start=5000: the data are of"),
        (("2023-06-01", "2023-05-01"), "no session before split.test_start=2023-05-01"),
        (("01/06/2023", 100), "split.validation_start='01/06/2023': neither an ISO date nor a row"),
    ],
)
def test_parts_must_begin_within_the_data(
    starts: tuple[str | int, str | int], message: str
) -> None:
    facts = {"counted_by": "signal", "context": "across", "lookback": 5, "target_span": 1}
    with pytest.raises(ValueError, match=re.escape(message)):
        by_dates(validation_start=starts[0], test_start=starts[1], dates=DATES, **facts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_test": 300}, "split.first_test=300: the data have 200 days, rows 0 to 199"),
        ({"first_train": 120}, "split.first_train=120: not before split.first_test"),
        ({"fold": 9}, "split.fold=9: there are 5 folds, 0 to 4"),
    ],
)
def test_folds_must_lie_within_the_data(changes: dict[str, int], message: str) -> None:
    settings = {"fold": 0, "first_train": 10, "first_test": 100, "test_days": 20}
    facts = {"validation_days": 20, "train_days": None, "lookback": 5, "target_span": 1}
    with pytest.raises(ValueError, match=re.escape(message)):
        walk_forward(**settings | changes, **facts, dates=DATES)


SMALL = (
    *("dataset=ohlcv", "dataset.lookback=5", "dataset.factors=[KMID,ROC5]", "model.width=8"),
    *("model.layers=1", "trainer.max_epoch=1", "trainer.device=cpu"),
)


def test_what_is_not_read_is_named_and_does_not_remake_the_cache(
    files: PriceFiles, command: Command
) -> None:
    data = f"paths.data_dir={files.data_dir}"
    status, output = command("validate", data, *SMALL)
    assert status == 0, output
    assert "preparing the data set" in output
    (files.root / "README.md").write_text("about these files")
    (files.root / "older").mkdir()
    status, output = command("validate", data, *SMALL)
    assert "preparing the data set" not in output
    assert "files in the data folder that are not read: README.md, older/" in output


def test_trusted_code_is_not_taken_for_data(
    files: PriceFiles, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "_trusted", set())
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    package = tmp_path / "code" / "mypackage_of_this_test"
    package.mkdir(parents=True)
    for name in ("__init__.py", "models.py"):
        (package / name).write_text("")
    words = (f"paths.data_dir={files.data_dir}", *SMALL, f"trust=[{package.name}]")
    status, output = command("validate", *words)
    assert status == 0, output
    assert "that are not read" not in output


def test_next_to_prepared_arrays_too(phase5_files: Phase5Files) -> None:
    settings = source_settings("nifty200_phase5", str(phase5_files.data_dir))
    panel = phase5.load(**settings)
    found = unread_files([phase5_files.root], panel)
    assert found == ["128_corr_struc2vec_adjgat.npy", "factors/other.csv"]


def test_validate_tells_what_is_odd_and_does_not_call_it_passed(
    files: PriceFiles, command: Command
) -> None:
    data = f"paths.data_dir={files.data_dir}"
    status, output = command("validate", data, *SMALL)
    assert status == 0
    assert "CHECKS PASSED but test results are optimistic: survivorship: fixed list" in output
    assert "note: prices: column 'close', unchanged; there is no adjusted close" in output
    prices = ["Open", "High", "Low", "Close"]
    files.frames["AAA"].loc[50:, prices] = (files.frames["AAA"].loc[50:, prices] * 0.15).round(4)
    files.write_one("AAA")
    status, output = command("validate", data, *SMALL)
    assert status == 0
    assert "ALL CHECKS PASSED" not in output
    assert "CHECKS PASSED with 1 warning about the data, above" in output
    assert "suspected corporate action" in output
    assert "-8" in output.split("suspected corporate action", 1)[1].split("in a day")[0]


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_layout_knows_the_names_of_its_columns() -> None:
    columns = {"date": "Date", "vwap": "auto", "adjusted": "auto", "amount": ""}
    layout = Layout(
        columns=columns,
        optional=("vwap", "adjusted", "amount"),
        date_format="%Y-%m-%d",
        timezone="",
        delimiter="tab",
    )
    assert layout.candidate_names("date") == ("date",)
    assert layout.candidate_names("vwap") == ("vwap",)
    assert "adj close" in layout.candidate_names("adjusted")
    assert layout.candidate_names("amount") == ()
    assert layout.separator == "\t"


def test_what_is_honest_is_read(files: PriceFiles) -> None:
    """What looks like one of the mistakes above and is none."""
    files.path("AAA").rename(files.path("COPY"))
    files.tickers = ("COPY", *[t for t in files.tickers if t != "AAA"])
    files.frames["COPY"] = files.frames.pop("AAA")
    renamed_stock = files.frames["COPY"]
    renamed_stock["Symbol"] = np.where(np.arange(80) < 40, "FB", "META")
    cents = files.frames["M&M"]
    cents["Adj Close"] = (cents["Close"] / 5000).round(2)  # after many splits
    for ticker in ("1E5", "NA"):  # pegged
        for name in ("Open", "High", "Low", "Close"):
            files.frames[ticker][name] = 1.0
        files.frames[ticker].loc[::7, "High"] = 1.0001
    for ticker, frame in files.frames.items():
        if ticker != "M&M":
            frame["Adj Close"] = frame["Close"]
        frame["Adj Open"] = frame["Open"]
    files.write()
    panel = read_prices(files)
    assert [str(f) for f in panel.findings if f.check not in ("stale price", "many missing")] == []


def test_an_adjusted_close_that_is_named_as_the_close_is_not_used_twice(files: PriceFiles) -> None:
    of_all(Adj_Close=lambda frame: frame["Close"] * 0.999)(files)
    panel = read_prices(files, columns={"close": "Adj Close"})
    assert panel.notes[0] == "prices: column 'Adj Close', unchanged; there is no adjusted close"
