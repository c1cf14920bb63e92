"""Every class of bad file is refused by name, through `train.py`'s own main and all at once.

What is repaired, masked or warned of instead is tested in sources/test_ohlcv.py.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_data import PriceFiles, source_settings

from stockformer.data.reading.files import Folder
from stockformer.data.reading.findings import SHOWN_OF_A_FILE
from stockformer.data.sources import features, ohlcv

Command = Callable[..., tuple[int, str]]
Train = Callable[[PriceFiles], tuple[int, str]]
Break = Callable[[PriceFiles, str], str]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def price_files(tmp_path: Path) -> PriceFiles:
    return PriceFiles(tmp_path / "data")


@pytest.fixture
def train(command: Command) -> Train:
    """`train(files)`: a small run on daily prices."""

    def call(files: PriceFiles) -> tuple[int, str]:
        return command(
            *("train", "dataset=ohlcv", f"paths.data_dir={files.data_dir}", "dataset.lookback=5"),
            *("model.width=8", "model.layers=1", "trainer.max_epoch=1", "trainer.device=cpu"),
            "dataset.factors=[KMID,ROC5]",
        )

    return call


def missing_folder(files: PriceFiles) -> str:
    files.root.rename(files.root.with_name("elsewhere"))
    return "ohlcv: file not found, or not a file"


def empty_folder(files: PriceFiles) -> str:
    for ticker in files.tickers:
        files.path(ticker).rename(files.path(ticker).with_suffix(".txt"))
    return "ohlcv: no CSV or Parquet file in it"


def empty_file(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).write_text("")
    return f"{ticker}.csv: the file is empty"


def blank_file(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).write_text("\n\n \n")
    return f"{ticker}.csv: the file is empty"


def header_only(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).write_text("Date,Open,High,Low,Close,Volume\n")
    return f"{ticker}.csv: a header and no valid row below it"


def too_few_rows(files: PriceFiles) -> str:
    for ticker, frame in files.frames.items():
        frame[:6].to_csv(files.path(ticker), index=False)
    return "samples"


def unreadable(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).unlink()
    os.mkfifo(files.path(ticker))
    return f"{ticker}.csv: file not found, or not a file"


def gzip_cut(files: PriceFiles, ticker: str) -> str:
    whole = gzip.compress(files.path(ticker).read_bytes())
    files.path(ticker).unlink()
    (files.root / f"{ticker}.csv.gz").write_bytes(whole[: len(whole) // 2])
    return f"{ticker}.csv.gz: gzip archive damaged or truncated"


def gzip_damaged(files: PriceFiles, ticker: str) -> str:
    whole = bytearray(gzip.compress(files.path(ticker).read_bytes()))
    whole[len(whole) // 2] ^= 0xFF
    files.path(ticker).unlink()
    (files.root / f"{ticker}.csv.gz").write_bytes(whole)
    return f"{ticker}.csv.gz: gzip archive damaged or truncated"


def gzip_bomb(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).write_bytes(gzip.compress(b"0" * (70 << 20)))
    return f"{ticker}.csv: unpacks to more than 64 MiB, 100 times its size"


def dangling_link(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).unlink()
    files.path(ticker).symlink_to(files.root / "gone.csv")
    return "which does not exist"


def link_out_of_the_folder(files: PriceFiles, ticker: str) -> str:
    secret = files.data_dir / "secret.csv"
    files.path(ticker).rename(secret)
    files.path(ticker).symlink_to(secret)
    return f"{ticker}.csv: leads out of"


def folder_named_csv(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).unlink()
    files.path(ticker).mkdir()
    return f"{ticker}.csv: a folder, expected a file"


def utf_16(files: PriceFiles, ticker: str) -> str:
    text = files.path(ticker).read_text()
    files.path(ticker).write_text(text, encoding="utf-16")
    return f"{ticker}.csv: UTF-16 text; save it as UTF-8"


def latin_1(files: PriceFiles, ticker: str) -> str:
    text = files.path(ticker).read_text().replace("Volume", "Volume,Société") + "\n"
    files.path(ticker).write_text(text, encoding="latin-1")
    return f"{ticker}.csv: not UTF-8 text (byte 36, line 1); if it is Latin-1"


def nul_byte(files: PriceFiles, ticker: str) -> str:
    files.edit(ticker, 9, ",", ",\0")
    return f"{ticker}.csv: a NUL byte at byte"


def ragged_rows(files: PriceFiles, ticker: str) -> str:
    files.edit(ticker, 9, ",", ",1,")
    return f"{ticker}.csv: 7 fields, the header has 6 (row 9)"


def unclosed_quote(files: PriceFiles, ticker: str) -> str:
    files.edit(ticker, 9, ",", ',"')
    return f"{ticker}.csv: a quotation mark that is not closed (row 9)"


def cut_in_a_number(files: PriceFiles, ticker: str) -> str:
    content = files.path(ticker).read_bytes()
    files.path(ticker).write_bytes(content[:-3])
    return f"{ticker}.csv: the last line has no end: truncated file?"


def other_delimiter(files: PriceFiles, ticker: str) -> str:
    text = files.path(ticker).read_text()
    files.path(ticker).write_text(text.replace(",", ";"))
    return (
        f"{ticker}.csv: columns seem separated by ';', not ',' (dataset.source.delimiter) (row 1)"
    )


def decimal_comma(files: PriceFiles, ticker: str) -> str:
    files.frames[ticker].astype({"Close": str}).assign(Close="99,5").to_csv(
        files.path(ticker), index=False
    )
    return f"{ticker}.csv: '99,5' is a number with a decimal comma, expected a plain number"


def thousands_separators(files: PriceFiles, ticker: str) -> str:
    files.frames[ticker].assign(Volume="1,234,567").to_csv(files.path(ticker), index=False)
    return f"{ticker}.csv: '1,234,567' is a number with thousands separators"


def duplicate_date(files: PriceFiles, ticker: str) -> str:
    line = files.path(ticker).read_text().split("\n")[8]
    date, *rest = line.split(",")
    rest[-1] = "1"
    with files.path(ticker).open("a") as file:
        file.write(",".join([date, *rest]) + "\n")
    return f"{ticker}.csv: another row for the same day on {date} for {ticker} (row 82)"


def mixed_dates(files: PriceFiles, ticker: str) -> str:
    files.edit(ticker, 9, "2023-01-11", "11/01/2023")
    return (
        f"{ticker}.csv: '11/01/2023' is not a date in the form %Y-%m-%d (dataset.source.date_format"
        "); whether the day or the month comes first is not guessed (row 9, column date)"
    )


def no_date(files: PriceFiles, ticker: str) -> str:
    files.edit(ticker, 9, "2023-01-11", "2023-02-30")
    return f"{ticker}.csv: '2023-02-30' is not a date in the form %Y-%m-%d"


def zoned_date(files: PriceFiles, ticker: str) -> str:
    files.edit(ticker, 9, "2023-01-11", "2023-01-11T00:00:00+05:30")
    return "for a time zone set dataset.source.timezone too"


def future_date(files: PriceFiles, ticker: str) -> str:
    files.edit(ticker, 81, "2023", "2203")
    return f"{ticker}.csv: future date: 2203-04-21 (row 81, column date)"


def absurd_year(files: PriceFiles, ticker: str) -> str:
    files.edit(ticker, 2, "2023", "0023")
    return f"{ticker}.csv: absurd year: 0023-01-02 (row 2, column date)"


def weekends(files: PriceFiles) -> str:
    for ticker, frame in files.frames.items():
        days = pd.date_range("2023-01-02", periods=80).astype(str)
        frame.assign(Date=days).to_csv(files.path(ticker), index=False)
    return "22 of 80 dates are weekend days: wrong dates? the first on 2023-01-07"


def missing_column(files: PriceFiles, ticker: str) -> str:
    files.frames[ticker].drop(columns=["Close", "Volume"]).to_csv(files.path(ticker), index=False)
    return f"{ticker}.csv: no column 'volume'; the file has Date, Open, High, Low; set dataset"


def duplicate_column(files: PriceFiles, ticker: str) -> str:
    files.frames[ticker].assign(CLOSE=1.0).to_csv(files.path(ticker), index=False)
    return f"{ticker}.csv: duplicate columns (ignoring case): ['close']"


def text_in_a_number(files: PriceFiles, ticker: str) -> str:
    files.edit(ticker, 9, ",", ",about ")
    return f"is text, expected a plain number on 2023-01-11 for {ticker} (row 9, column open)"


def formula(files: PriceFiles, ticker: str) -> str:
    files.edit(ticker, 9, ",", ",=A1*")
    return f"is a formula, expected a plain number on 2023-01-11 for {ticker} (row 9, column open)"


def infinity(files: PriceFiles, ticker: str) -> str:
    files.frames[ticker].loc[7, "Close"] = np.inf
    files.write_one(ticker)
    return f"{ticker}.csv: infinite value on 2023-01-11 for {ticker} (row 9, column close)"


def beyond_single_precision(files: PriceFiles, ticker: str) -> str:
    files.frames[ticker]["Volume"] = files.frames[ticker]["Volume"].astype(float)
    files.frames[ticker].loc[7, "Volume"] = 1e39
    files.write_one(ticker)
    return f"beyond single precision (3.4e38) on 2023-01-11 for {ticker} (row 9, column volume)"


def price_of_zero(files: PriceFiles, ticker: str) -> str:
    files.frames[ticker].loc[7, ["Low", "Close"]] = [0.0, -1.0]
    files.write_one(ticker)
    return f"{ticker}.csv: price not above 0 on 2023-01-11 for {ticker} (row 9, column close)"


def negative_volume(files: PriceFiles, ticker: str) -> str:
    files.frames[ticker].loc[7, "Volume"] = -5
    files.write_one(ticker)
    return f"{ticker}.csv: negative volume on 2023-01-11 for {ticker} (row 9, column volume)"


def high_below_low(files: PriceFiles, ticker: str) -> str:
    frame = files.frames[ticker]
    frame.loc[7, ["High", "Low"]] = frame.loc[7, ["Low", "High"]].tolist()
    files.write_one(ticker)
    return f"{ticker}.csv: high below low on 2023-01-11 for {ticker} (row 9, column high)"


def close_outside(files: PriceFiles, ticker: str) -> str:
    files.frames[ticker].loc[7, "Close"] *= 1.5
    files.write_one(ticker)
    return f"close is outside low and high on 2023-01-11 for {ticker} (row 9, column close)"


def stock_without_value(files: PriceFiles, ticker: str) -> str:
    files.frames[ticker]["Close"] = np.nan
    files.write_one(ticker)
    return f"ohlcv: no day that counts as traded, with a price and volume for {ticker}"


def one_stock(files: PriceFiles) -> str:
    for ticker in files.tickers[1:]:
        files.path(ticker).unlink()
    return "ohlcv: a panel of 1 stock, at least 2 are needed"


def names_that_differ_by_case(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).with_name(f"{ticker.lower()}.csv").write_bytes(
        files.path(ticker).read_bytes()
    )
    return f"'{ticker}' and '{ticker.lower()}' differ only by case or blanks"


def names_that_differ_by_blanks(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).with_name(f"{ticker[0]} {ticker[1:]}.csv").write_bytes(
        files.path(ticker).read_bytes()
    )
    return f"'{ticker[0]} {ticker[1:]}' and '{ticker}' differ only by case or blanks"


def name_of_a_formula(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).rename(files.path(ticker).with_name("=cmd.csv"))
    return "'=cmd' is not a ticker: a path, a formula, empty or too long"


def name_of_a_path(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).unlink()
    table = files.frames[ticker].assign(ticker="../x")
    table.to_csv(files.root / "long.csv", index=False)
    return "'../x' is not a ticker: a path, a formula, empty or too long"


def damaged_parquet(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).unlink()
    (files.root / f"{ticker}.parquet").write_bytes(b"PAR1 no PAR1")
    return f"{ticker}.parquet: cannot be read as Parquet"


def booleans_for_numbers(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).unlink()
    files.frames[ticker].assign(Volume=True).to_parquet(files.root / f"{ticker}.parquet")
    return f"{ticker}.parquet: column volume holds bool, expected numbers"


def time_of_day(files: PriceFiles, ticker: str) -> str:
    files.path(ticker).unlink()
    frame = files.frames[ticker]
    moments = pd.to_datetime(frame["Date"] + " 09:15")
    frame.assign(Date=moments).to_parquet(files.root / f"{ticker}.parquet")
    return f"{ticker}.parquet: time of day: 2023-01-02 09:15:00 (row 1, column date)"


BREAKS: list[Break] = [
    *(empty_file, blank_file, header_only, unreadable, gzip_cut, gzip_damaged, gzip_bomb),
    *(dangling_link, link_out_of_the_folder, folder_named_csv, utf_16, latin_1, nul_byte),
    *(ragged_rows, unclosed_quote, cut_in_a_number, other_delimiter, decimal_comma),
    *(thousands_separators, duplicate_date, mixed_dates, no_date, zoned_date, future_date),
    *(absurd_year, missing_column, duplicate_column, text_in_a_number, formula, infinity),
    *(beyond_single_precision, price_of_zero, negative_volume, high_below_low, close_outside),
    *(stock_without_value, names_that_differ_by_case, names_that_differ_by_blanks),
    *(name_of_a_formula, name_of_a_path, damaged_parquet, booleans_for_numbers, time_of_day),
]
BREAKS_OF_ALL: list[Callable[[PriceFiles], str]] = [
    *(missing_folder, empty_folder, too_few_rows, weekends, one_stock)
]


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda f: f.__name__)
def test_a_bad_file_is_refused_by_name(price_files: PriceFiles, break_it: Break) -> None:
    expected = break_it(price_files, "AAA")
    with pytest.raises(ValueError, match=r"^the data are refused") as refusal:
        ohlcv.load(**source_settings("ohlcv", path=str(price_files.root)))
    assert expected in str(refusal.value)


def test_every_class_of_bad_file_is_named_at_once_by_the_program(
    train: Train, tmp_path: Path
) -> None:
    tickers = [f"S{i:02}" for i in range(len(BREAKS))]
    files = PriceFiles(tmp_path / "data", [*tickers, "GOOD", "ALSO"])
    expected = [break_it(files, ticker) for break_it, ticker in zip(BREAKS, tickers)]
    before = {p: p.lstat().st_mtime_ns for p in files.data_dir.rglob("*")}
    status, output = train(files)
    assert status == 1
    assert [message for message in expected if message not in output] == []
    assert "Traceback" not in output
    assert "GOOD" not in output
    assert before == {p: p.lstat().st_mtime_ns for p in files.data_dir.rglob("*")}


@pytest.mark.parametrize("break_it", BREAKS_OF_ALL, ids=lambda f: f.__name__)
def test_bad_files_are_refused_by_the_program(
    train: Train, price_files: PriceFiles, break_it: Callable[[PriceFiles], str]
) -> None:
    expected = break_it(price_files)
    status, output = train(price_files)
    assert status == 1
    assert expected in output
    assert "Traceback" not in output


def test_good_files_train(train: Train, price_files: PriceFiles) -> None:
    status, output = train(price_files)
    assert status == 0, output


def test_a_refusal_is_one_status_and_no_traceback_in_a_process_of_its_own(
    price_files: PriceFiles, tmp_path: Path
) -> None:
    expected = price_of_zero(price_files, "AAA")
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "train.py"), "dataset=ohlcv"),
            f"paths.data_dir={price_files.data_dir}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_many_findings_are_counted_not_listed(price_files: PriceFiles) -> None:
    for ticker in price_files.tickers:
        price_files.frames[ticker]["Volume"] = "many"
    price_files.write()
    with pytest.raises(ValueError, match="the data are refused") as refusal:
        ohlcv.load(**source_settings("ohlcv", path=str(price_files.root)))
    lines = str(refusal.value).split("\n")
    assert "(480 findings)" in lines[0]
    assert len(lines) == 2 + SHOWN_OF_A_FILE * len(price_files.tickers)
    assert lines[-1] == f"  text in a number: and {480 - (len(lines) - 2)} more"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {"close": ""}}, "name the column of the close or of the return"),
        ({"columns": {"close": "", "return": "r"}}, "name the column of the close"),
        (
            {"features": ["close"]},
            "'close' is the date, the ticker, or the column that the label is",
        ),
        ({"ratios_to_close": []}, "name no column"),
        ({"features": ["size"]}, "no column 'size'; the file has date, open, high, low, "),
        ({"delimiter": ""}, "dataset.source.delimiter='': must be one character"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    table = PriceFiles(tmp_path / "data").long().rename(columns=str.lower)
    table.assign(ma5=1.0, ma10=1.0, ma20=1.0, ma30=1.0).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(ValueError, match=re.escape(message)):
        features.load(**source_settings("features", path=str(tmp_path / "p.parquet"), **changes))


def write_npz(path: Path, shape: str, content: bytes) -> None:
    """An archive whose array `result` has a header of its own."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("result.npy", array)


@pytest.mark.parametrize(
    ("shape", "content", "message"),
    [
        ("(10**12, 7)", b"0" * 8, "cannot be read as a NumPy array"),
        ("(1000000000000, 7)", b"0" * 8, "needs 56000000000000 bytes, there are 8"),
        ("(90, 7)", b"0" * (70 << 20), "array 'result' unpacks to more than 64 MiB"),
        ("(-90, -7)", b"0" * 5040, "cannot be read as a NumPy array"),
    ],
)
def test_an_array_that_promises_too_much_is_refused_before_memory_is_taken(
    tmp_path: Path, shape: str, content: bytes, message: str
) -> None:
    write_npz(tmp_path / "flow.npz", shape, content)
    with pytest.raises(ValueError, match=re.escape(message)):
        Folder(tmp_path).array("flow.npz", "result")


def test_a_parquet_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    same = pa.array(np.zeros(9_000_000, np.int8)).dictionary_encode()
    pq.write_table(pa.table({"date": same}), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 500_000
    with pytest.raises(ValueError, match="unpacks to more than 64 MiB"):
        ohlcv.load(**source_settings("ohlcv", path=str(tmp_path / "bomb.parquet")))


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd", "link.npy", "a\\..\\..\\b"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "secret.npy", np.zeros(3))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link.npy").symlink_to(tmp_path / "secret.npy")
    with pytest.raises(ValueError, match="leads out of"):
        Folder(tmp_path / "root").array(name)
