"""qlib's binary layout gives the panel that the same prices give as CSV files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_data import PriceFiles, QlibFiles, composed, source_settings

from stockformer.audit.files import source_faults
from stockformer.data.panel import Panel
from stockformer.data.reading import cache
from stockformer.data.reading.quality import coverage
from stockformer.data.sources import demo, ohlcv, qlib

Command = Callable[..., tuple[int, str]]
SMALL = ("dataset.lookback=5", "dataset.factors=[KMID,ROC5,STD5]")
RUN = (
    *SMALL,
    *("model=stockformer_small", "model.width=8", "trainer.max_epoch=1", "trainer.device=cpu"),
    *("graph=none", "report=false"),
)


@pytest.fixture
def prices(tmp_path: Path) -> PriceFiles:
    files = PriceFiles(tmp_path / "csv")
    files.frames["AAA"] = files.frames["AAA"].drop(index=[*range(7), 30, 31])  # listed late
    files.frames["NA"].loc[20, "Volume"] = 0
    files.frames["M&M"] = files.frames["M&M"][:60]  # delisted
    files.write()
    return files


@pytest.fixture
def files(tmp_path: Path, prices: PriceFiles) -> QlibFiles:
    return QlibFiles(tmp_path / "data", prices)


def read(files: QlibFiles, **changes: object) -> Panel:
    return qlib.load(**source_settings("qlib", path=str(files.root), **changes))


def found(panel: Panel) -> list[tuple[str, str]]:
    return [(finding.check, finding.ticker) for finding in panel.findings]


def same(panel: Panel, expected: Panel, factor: float = 1.0) -> None:
    """Up to single precision, prices times a factor."""
    assert panel.tickers.tolist() == expected.tickers.tolist()
    np.testing.assert_array_equal(panel.dates, expected.dates)
    np.testing.assert_array_equal(np.isnan(panel.returns), np.isnan(expected.returns))
    np.testing.assert_allclose(panel.returns, expected.returns, atol=3e-7)
    assert panel.prices.keys() == expected.prices.keys()
    for name, values in panel.prices.items():
        scale = 1 / factor if name == "volume" else factor
        np.testing.assert_allclose(values, expected.prices[name] * scale, rtol=1e-7)


def test_the_panel_is_that_of_the_same_prices_as_csv(prices: PriceFiles, files: QlibFiles) -> None:
    expected = ohlcv.load(**source_settings("ohlcv", path=str(prices.root)))
    panel = read(files)
    same(panel, expected, files.factor)
    assert found(panel) == [("zero volume", "NA")]
    assert ("many missing", "M&M") in found(expected)  # there no list says that it left
    member = panel.member
    assert member is not None
    left = panel.tickers.tolist().index("M&M")
    assert member.sum(axis=0).tolist() == [80, 80, 73, 60, 80, 80]
    assert member[:60, left].all()
    assert panel.notes == ("prices: as stored, single precision, adjusted by the field factor",)
    assert set(panel.sources) == {
        "calendars/day.txt",
        "instruments/all.txt",
        *(f"features/{ticker.lower()}" for ticker in prices.tickers),
    }


def test_names_of_fields_folders_and_stocks_are_those_of_qlib(
    prices: PriceFiles, files: QlibFiles
) -> None:
    """Fields in another case and with a $; a name that Windows refuses; the case of a folder."""
    expected = read(files)
    for path in files.root.glob("features/*/close.day.bin"):
        path.rename(path.with_name("adj_close.day.bin"))
    (files.root / "features/aaa").rename(files.root / "features/AAA")
    (files.root / "features/na").rename(files.root / "features/_qlib_nul")
    files.periods = [("NUL" if t == "NA" else t, *days) for t, *days in files.periods]
    files.write_list("csi300")
    panel = read(files, instruments="csi300", fields={"close": "$Adj_Close"})
    assert panel.tickers.tolist() == ["000001", "1E5", "AAA", "M&M", "NUL", "TRUE"]
    np.testing.assert_array_equal(panel.prices["close"], expected.prices["close"])


def test_windows_line_ends_blank_lines_and_further_columns_are_read(files: QlibFiles) -> None:
    expected = read(files)
    files.calendar.write_bytes(files.calendar.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    files.write_list().write_text(
        "".join("\t".join((*period, "0.5")) + "\n\n" for period in files.periods)
    )
    same(read(files), expected)


def test_membership_is_dated_and_prices_are_known_outside_of_it(files: QlibFiles) -> None:
    files.periods = [
        ("AAA", "2023-02-01", "2023-02-10"),
        ("AAA", "2023-03-01", "2099-12-31"),
        ("TRUE", "2010-01-01", "2023-03-31"),
        ("NA", "2023-01-11", "2099-12-31"),
        ("1E5", "2010-01-01", "2011-01-01"),
    ]
    files.write_list("index")
    panel = read(files, instruments="index")
    days, member = panel.dates.astype(str), panel.member
    assert member is not None
    assert panel.tickers.tolist() == ["AAA", "NA", "TRUE"]
    stays = ((days >= "2023-02-01") & (days <= "2023-02-10")) | (days >= "2023-03-01")
    np.testing.assert_array_equal(member[:, 0], stays)
    np.testing.assert_array_equal(member[:, 2], days <= "2023-03-31")
    assert np.isfinite(panel.returns[days > "2023-03-31", 2]).all()
    assert found(panel)[0] == ("membership", "1E5")  # outside the calendar
    assert not [note for note in panel.notes if "survivorship" in note]


def test_the_panel_begins_when_a_member_is_first_traded(files: QlibFiles) -> None:
    files.periods = [(ticker, "2023-01-20", "2023-04-21") for ticker, *_ in files.periods]
    files.write_list()
    assert str(read(files).dates[0]) == "2023-01-20"
    panel = read(files, start="2023-01-25", end="2023-02-28")
    assert (str(panel.dates[0]), str(panel.dates[-1])) == ("2023-01-25", "2023-02-28")
    whole = read(files)
    rows = np.isin(whole.dates, panel.dates)
    for name, values in panel.prices.items():
        np.testing.assert_array_equal(values, whole.prices[name][rows])
    np.testing.assert_array_equal(panel.returns[1:], whole.returns[rows][1:])


def test_what_a_list_says_about_survivors_is_noted(files: QlibFiles) -> None:
    last = files.days[-1]
    files.periods = [(ticker, first, last) for ticker, first, _ in files.periods]
    files.write_list()
    assert read(files).notes[1:] == (
        "survivorship: fixed list, no stock leaves all.txt before 2023-04-21",
    )
    files.periods = [(ticker, first, "2023-03-01") for ticker, first, _ in files.periods]
    files.write_list()
    panel = read(files)
    assert panel.notes[1:] == (
        "survivorship: fixed list, no stock leaves all.txt before 2023-03-01",
    )
    (stale,) = (f for f in panel.findings if f.check == "membership")
    assert "no stock is a member after 2023-03-01, but the data end on 2023-04-21" in str(stale)


def test_members_without_prices_are_listed_and_noted(files: QlibFiles) -> None:
    shutil.rmtree(files.root / "features/true")
    panel = read(files)
    assert "TRUE" not in panel.tickers
    assert ("membership", "TRUE") in found(panel)
    assert "survivorship: 1 of the 6 stocks of all.txt have no prices" in panel.notes
    with pytest.raises(ValueError, match="a member without prices for TRUE"):
        read(files, quality={"strict": True})


def test_an_interrupted_update_is_warned_of(files: QlibFiles) -> None:
    close = files.values("AAA", "close")
    files.write("AAA", "close", close[:-2], 80 - len(close))
    (finding,) = (f for f in read(files).findings if f.check == "unequal fields")
    assert "close from 2023-01-11 to 2023-04-19" in str(finding)
    assert "to 2023-04-21: was an update interrupted? for AAA" in str(finding)
    files.calendar.write_text(files.calendar.read_text() + "2023-04-24\n2023-04-25\n")
    (finding,) = (f for f in read(files).findings if f.check == "no value")
    assert "no stock has a close on the last 2 sessions" in str(finding)
    assert finding.date == "2023-04-24"


def test_optional_fields(prices: PriceFiles, files: QlibFiles) -> None:
    for ticker in prices.tickers[:5]:
        close, volume = (files.values(ticker, field) for field in ("close", "volume"))
        files.write(ticker, "amount", close * volume * 1.001)
    panel = read(files)
    vwap, close = panel.prices["vwap"][:, :5], panel.prices["close"][:, :5]
    np.testing.assert_allclose(vwap, close * 1.001, rtol=3e-7)
    for ticker in prices.tickers[:5]:
        files.write(ticker, "vwap", files.values(ticker, "close"))
    panel = read(files)
    np.testing.assert_array_equal(panel.prices["vwap"][:, 0], panel.prices["close"][:, 0])
    assert [f.ticker for f in panel.findings if "no field vwap" in f.message] == ["TRUE"]
    for path in files.root.glob("features/*/factor.day.bin"):
        path.unlink()
    panel = read(files, fields={"vwap": "", "amount": ""})
    assert "vwap" not in panel.prices
    assert "no field factor: assumed to be adjusted" in panel.notes[0]


def test_a_vwap_in_another_unit_is_refused_with_the_setting(files: QlibFiles) -> None:
    for ticker, *_ in files.periods:
        files.write(ticker, "vwap", files.values(ticker, "close") / 100)
    with pytest.raises(ValueError, match=r'dataset.source.fields.vwap="" leaves it out'):
        read(files)


def test_sectors_are_joined(files: QlibFiles, tmp_path: Path) -> None:
    path = tmp_path / "sectors.csv"
    path.write_text("ticker,sector\n" + "".join(f"{t},Oil\n" for t, *_ in files.periods))
    panel = read(files, universe={"sectors_path": str(path)})
    assert panel.sectors is not None
    assert set(panel.sectors) == {"Oil"}
    assert "sectors.csv" in panel.sources


def test_only_what_is_read_decides_whether_the_data_are_prepared_again(
    files: QlibFiles, tmp_path: Path
) -> None:
    settings = source_settings("qlib", path=str(files.root))

    def key() -> str:
        return cache._name(cache._digests(qlib.input_paths(settings), tmp_path))

    before = key()
    (files.root / "features/aaa/other.day.bin").write_bytes(b"1")
    (files.root / "features/unlisted").mkdir()
    files.write_list("csi300")
    assert key() == before
    keys = [before]
    for path in (files.path("AAA", "close"), files.calendar, files.write_list()):
        content = path.read_bytes()
        path.write_bytes(content + b"1")
        keys.append(key())
        path.write_bytes(content)
    files.path("AAA", "vwap").write_bytes(b"1")  # optional, and not there before
    keys.append(key())
    assert len(set(keys)) == 5


@pytest.mark.parametrize("row", [5, 20, 40, 62])
def test_reading_does_not_look_ahead(files: QlibFiles, row: int) -> None:
    files.periods += [("LATE", "2023-03-01", "2023-04-21"), ("SOON", "2023-01-02", "2023-04-21")]
    files.write_list()
    for ticker, scale, first in (("LATE", 3, 0), ("SOON", 5, 50)):
        (files.root / "features" / ticker.lower()).mkdir()
        for field in ("open", "high", "low", "close", "volume", "factor"):
            files.write(ticker, field, files.values("TRUE", field)[first:] * scale)
    assert not list(source_faults(composed("dataset=qlib", *SMALL, data_dir=files.data_dir), row))


def test_coverage_counts_the_days_of_membership() -> None:
    traded = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 0, 1]], bool)
    member = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)
    np.testing.assert_allclose(coverage(traded, member), [2 / 3, 1, 1])
    np.testing.assert_allclose(coverage(traded), [2 / 3, 0.5, 0.75])


def simulated(folder: Path) -> tuple[PriceFiles, QlibFiles]:
    """Prices of the simulated market as CSV files and in qlib's layout."""
    settings = source_settings("demo", stocks=12, days=160, listing_days=[40], sectors=3)
    market = demo.load(**settings)
    tables = PriceFiles(folder / "csv", market.tickers.tolist())
    for i, ticker in enumerate(tables.tickers):
        columns = {name.title(): values[:, i] for name, values in market.prices.items()}
        frame = pd.DataFrame({"Date": market.dates.astype(str), **columns})
        tables.frames[ticker] = frame.dropna(subset=["Close"]).reset_index(drop=True)
    tables.write()
    return tables, QlibFiles(folder / "data", tables)


def trained(command: Command, dataset: str, data_dir: Path) -> None:
    words = (f"dataset={dataset}", f"paths.data_dir={data_dir}", *RUN, f"hydra.run.dir={dataset}")
    status, output = command("train", *words)
    assert status == 0, output


def test_a_run_and_its_forecast_of_the_newest_day(command: Command, tmp_path: Path) -> None:
    _, files = simulated(tmp_path)
    trained(command, "qlib", files.data_dir)
    status, output = command("predict", "run=qlib")
    assert status == 0, output
    assert files.days[-1] in output


@pytest.mark.full
def test_a_run_forecasts_what_it_forecasts_from_csv(command: Command, tmp_path: Path) -> None:
    tables, files = simulated(tmp_path)
    trained(command, "qlib", files.data_dir)
    trained(command, "ohlcv", tables.data_dir)
    one, two = (
        pd.read_parquet(tmp_path / run / "predictions.parquet") for run in ("qlib", "ohlcv")
    )
    assert len(one) > 100
    assert one["ticker"].tolist() == two["ticker"].tolist()
    np.testing.assert_allclose(one["prediction"], two["prediction"], atol=1e-4)


@pytest.mark.full
def test_the_preflight_passes(command: Command, tmp_path: Path) -> None:
    _, files = simulated(tmp_path)
    status, output = command("validate", "dataset=qlib", f"paths.data_dir={files.data_dir}", *RUN)
    assert status == 0, output
    assert "160 days, 12 stocks" in output


def test_bad_data_end_a_run_with_the_reason(command: Command, files: QlibFiles) -> None:
    files.path("AAA", "close").write_bytes(b"12345")
    status, output = command("train", "dataset=qlib", f"paths.data_dir={files.data_dir}", *RUN)
    assert status == 1
    assert "aaa/close.day.bin: 5 bytes, no multiple of 4" in output
    assert "Traceback" not in output
    words = ("dataset.source.fields.close=a/b", f"paths.data_dir={files.data_dir}")
    status, output = command("train", "dataset=qlib", *words)
    assert status == 1
    assert "dataset.source.fields.close='a/b': not the name of a field" in output
    assert "input_paths" not in output
