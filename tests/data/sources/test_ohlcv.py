"""Daily prices in every layout give the same panel; what is odd is repaired, masked or reported."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_data import PriceFiles, source_settings

from stockformer.data.panel import Panel
from stockformer.data.sources.ohlcv import load


@pytest.fixture
def files(tmp_path: Path) -> PriceFiles:
    return PriceFiles(tmp_path / "data")


def read(path: Path, **changes: object) -> Panel:
    return load(**source_settings("ohlcv", path=str(path), **changes))


def same(one: Panel, other: Panel) -> None:
    assert one.tickers.tolist() == other.tickers.tolist()
    np.testing.assert_array_equal(one.dates, other.dates)
    np.testing.assert_array_equal(one.returns, other.returns)
    assert one.prices.keys() == other.prices.keys()
    for name, values in one.prices.items():
        np.testing.assert_array_equal(values, other.prices[name])


def checks(panel: Panel) -> list[str]:
    return [finding.check for finding in panel.findings]


def test_a_folder_of_files_is_read_by_label(files: PriceFiles) -> None:
    panel = read(files.root)
    assert panel.tickers.tolist() == sorted(files.tickers)
    assert panel.returns.shape == (80, 6)
    assert panel.factors.shape == (80, 6, 0)
    assert str(panel.dates[0]) == "2023-01-02"
    for i, ticker in enumerate(panel.tickers):
        frame = files.frames[ticker]
        for name in ("Open", "High", "Low", "Close", "Volume"):
            np.testing.assert_array_equal(panel.prices[name.lower()][:, i], frame[name])
        expected = frame["Close"].pct_change().to_numpy()
        np.testing.assert_allclose(panel.returns[:, i], expected, rtol=1e-9, atol=1e-12)
    assert np.isnan(panel.returns[0]).all()
    assert panel.notes == (
        "prices: column 'close', unchanged; there is no adjusted close",
        "survivorship: fixed list",
    )
    assert panel.findings == ()
    assert set(panel.sources) == {f"{ticker}.csv" for ticker in files.tickers}


def test_every_layout_gives_the_same_panel(files: PriceFiles, tmp_path: Path) -> None:
    expected, table = read(files.root), files.long()
    shuffled = table.sample(frac=1, random_state=0)
    table.to_csv(tmp_path / "long.csv", index=False)
    table.to_csv(tmp_path / "long.csv.gz", index=False)
    table.to_parquet(tmp_path / "long.parquet")
    shuffled.rename(columns=str.upper).to_parquet(tmp_path / "shuffled.parquet")
    dated = table.assign(
        Date=pd.to_datetime(table["Date"]), Ticker=table["Ticker"].astype("category")
    )
    dated.to_parquet(tmp_path / "dated.parquet")
    years = tmp_path / "parts"
    years.mkdir()
    table[table["Date"] < "2023-03-01"].to_csv(years / "2022.csv", index=False)
    table[table["Date"] >= "2023-03-01"].to_parquet(years / "2023.parquet")
    packed = tmp_path / "packed"
    packed.mkdir()
    for ticker, frame in files.frames.items():
        frame.to_csv(packed / f"{ticker}.csv.gz", index=False)
    for name in ("long.csv", "long.csv.gz", "long.parquet", "dated.parquet", "parts", "packed"):
        same(read(tmp_path / name), expected)
        assert read(tmp_path / name).findings == ()
    same(read(tmp_path / "shuffled.parquet"), expected)
    assert set(checks(read(tmp_path / "shuffled.parquet"))) == {"unsorted"}


def test_repairs_change_nothing_and_are_counted(files: PriceFiles) -> None:
    expected = read(files.root)
    frame = files.frames["AAA"]
    text = frame.iloc[::-1].to_csv(index=False, lineterminator="\r\n")
    again = text + text.split("\r\n")[5] + "\r\n"
    files.path("AAA").write_bytes(b"\xef\xbb\xbf" + again.encode())
    panel = read(files.root)
    same(panel, expected)
    found = {finding.check: finding for finding in panel.findings}
    assert {f.level for f in panel.findings} == {"repaired"}
    assert set(found) == {"byte order mark", "line ends", "unsorted", "duplicate row"}
    assert found["duplicate row"].count == 1
    assert found["unsorted"].count == 79


def test_column_names_delimiter_and_dates_are_what_the_settings_say(
    files: PriceFiles, tmp_path: Path
) -> None:
    expected = read(files.root)
    table = files.long().rename(columns={"Close": "LAST", "Ticker": "Symbol"})
    table["Date"] = pd.to_datetime(table["Date"]).dt.strftime("%d.%m.%Y")
    table.to_csv(tmp_path / "own.csv", index=False, sep=";")
    changed = {"close": "last", "ticker": "SYMBOL"}
    own = {"columns": changed, "delimiter": ";", "date_format": "%d.%m.%Y"}
    same(read(tmp_path / "own.csv", **own), expected)
    with pytest.raises(ValueError, match="in the form %Y-%m-%d") as refusal:
        read(tmp_path / "own.csv", **own | {"date_format": "%Y-%m-%d"})
    assert "and 475 more" in str(refusal.value)
    assert "whether the day or the month comes first is not guessed" in str(refusal.value)


def test_a_time_zone_is_followed_where_the_settings_name_one(
    files: PriceFiles, tmp_path: Path
) -> None:
    expected, table = read(files.root), files.long()
    zoned = pd.to_datetime(table["Date"] + " 00:30").dt.tz_localize("Asia/Kolkata")
    table.assign(Date=zoned).to_parquet(tmp_path / "zoned.parquet")
    text = zoned.dt.tz_convert("UTC").dt.strftime("%Y-%m-%d %H:%M:%S+00:00")
    table.assign(Date=text).to_csv(tmp_path / "zoned.csv", index=False)
    written = "%Y-%m-%d %H:%M:%S%z"
    same(read(tmp_path / "zoned.parquet", timezone="Asia/Kolkata"), expected)
    same(read(tmp_path / "zoned.csv", timezone="Asia/Kolkata", date_format=written), expected)
    for name in ("zoned.parquet", "zoned.csv"):
        with pytest.raises(ValueError, match=r"time zone.*set dataset\.source\.timezone"):
            read(tmp_path / name, date_format=written)


def test_a_late_listing_stays_masked_and_is_not_filled(files: PriceFiles) -> None:
    files.frames["AAA"] = files.frames["AAA"][30:]
    files.write()
    panel = read(files.root)
    late = panel.tickers.tolist().index("AAA")
    assert np.isnan(panel.prices["close"][:30, late]).all()
    assert np.isnan(panel.returns[:31, late]).all()
    assert np.isfinite(panel.returns[31:, late]).all()
    assert panel.findings == ()


def test_days_without_volume_are_masked_with_both_returns_they_touch(files: PriceFiles) -> None:
    files.frames["AAA"].loc[[20, 40], "Volume"] = 0
    files.write()
    panel = read(files.root)
    stock = panel.tickers.tolist().index("AAA")
    unknown = np.flatnonzero(np.isnan(panel.returns[:, stock])).tolist()
    assert unknown == [0, 20, 21, 40, 41]
    assert np.isnan(panel.prices["open"][20, stock])
    (finding,) = panel.findings
    assert (finding.check, finding.count, finding.ticker) == ("zero volume", 2, "AAA")
    assert (finding.row, finding.date) == (22, str(panel.dates[20]))


def test_a_price_that_stands_still_is_masked_from_the_day_it_is_known_to(
    files: PriceFiles,
) -> None:
    frame = files.frames["AAA"]
    prices = ["Open", "High", "Low", "Close"]
    frame.loc[20:50, prices] = frame.loc[20, prices].to_numpy()
    files.write()
    panel = read(files.root, quality={"stale_days": 5})
    stock = panel.tickers.tolist().index("AAA")
    assert np.flatnonzero(np.isnan(panel.prices["close"][:, stock])).tolist() == list(range(25, 51))
    assert checks(panel) == ["stale price", "many missing"]
    files.frames["AAA"] = frame[:40]  # what comes later changes no mask
    files.write()
    shorter = read(files.root, quality={"stale_days": 5})
    np.testing.assert_array_equal(shorter.prices["close"][:40], panel.prices["close"][:40])


def test_an_adjusted_close_scales_prices_and_an_amount_gives_vwap(
    files: PriceFiles, tmp_path: Path
) -> None:
    plain, table = read(files.root), files.long()
    split = table["Date"] < "2023-03-01"
    raw = table.assign(**{"Adj Close": table["Close"], "Amount": table["Volume"] * table["Close"]})
    prices = ["Open", "High", "Low", "Close"]
    raw.loc[split, prices] *= 2.0
    raw["Volume"] = raw["Volume"].astype(float)
    raw.loc[split, "Volume"] /= 2
    raw.to_csv(tmp_path / "split.csv", index=False)
    panel = read(tmp_path / "split.csv")
    for name in ("open", "close", "volume"):
        np.testing.assert_allclose(panel.prices[name], plain.prices[name], rtol=1e-9)
    np.testing.assert_allclose(panel.prices["vwap"], plain.prices["close"], rtol=1e-9)
    np.testing.assert_allclose(panel.returns, plain.returns, rtol=1e-7, atol=1e-12)
    assert "suspected corporate action" not in checks(panel)
    raw.drop(columns="Adj Close").to_csv(tmp_path / "unadjusted.csv", index=False)
    assert checks(read(tmp_path / "unadjusted.csv")).count("suspected corporate action") == 6


def test_a_vwap_of_the_file_goes_before_the_amount(files: PriceFiles, tmp_path: Path) -> None:
    table = files.long()
    table["VWAP"], table["amount"] = table["Close"], 1.0
    table.to_csv(tmp_path / "both.csv", index=False)
    panel = read(tmp_path / "both.csv")
    np.testing.assert_array_equal(panel.prices["vwap"], panel.prices["close"])


def test_a_long_gap_is_told_and_no_return_reaches_over_it(files: PriceFiles) -> None:
    for frame in files.frames.values():
        later = pd.to_datetime(frame["Date"]) + pd.Timedelta(days=364)
        frame["Date"] = frame["Date"].where(frame.index < 50, later.astype(str).str[:10])
    files.write()
    panel = read(files.root)
    assert panel.session_gaps == (50,)
    assert np.isnan(panel.returns[50]).all()
    assert np.isfinite(panel.returns[51]).all()
    assert checks(panel) == ["gap"]
    with pytest.raises(ValueError, match="no session for 367 days"):
        read(files.root, quality={"strict": True})


def test_jumps_units_weekends_and_thin_stocks_are_warned_of(files: PriceFiles) -> None:
    prices = ["Open", "High", "Low", "Close"]
    files.frames["AAA"].loc[30:, prices] *= 1.6
    files.frames["M&M"].loc[30:, prices] /= 100
    files.frames["NA"] = files.frames["NA"].drop(index=range(20, 40))
    for frame in files.frames.values():
        frame.loc[79, "Date"] = "2023-04-22"
    files.write()
    panel = read(files.root, quality={"max_weekend_share": 0.02})
    found = {finding.check: finding for finding in panel.findings}
    assert set(found) == {
        *("suspected corporate action", "suspected other unit", "weekend", "many missing")
    }
    assert found["suspected corporate action"].ticker == "AAA"
    assert found["suspected other unit"].ticker == "M&M"
    assert found["many missing"].ticker == "NA"
    assert found["weekend"].date == "2023-04-22"
    with pytest.raises(ValueError, match="strict mode") as refusal:
        read(files.root, quality={"max_weekend_share": 0.02, "strict": True})
    assert all(check in str(refusal.value) for check in found)


def test_sectors_are_joined_by_ticker(files: PriceFiles, tmp_path: Path) -> None:
    path = tmp_path / "sectors.csv"
    path.write_text("Symbol,Sector\nTRUE,Tech\nAAA,Banks\n000001,Tech\nNA,Oil\nM&M,Cars\nX,None\n")
    panel = read(files.root, universe={"sectors_path": str(path), "sectors_ticker": "symbol"})
    assert panel.sectors is not None
    by_ticker = dict(zip(panel.tickers.tolist(), panel.sectors.tolist()))
    assert by_ticker == {
        **{"000001": "Tech", "1E5": "", "AAA": "Banks"},
        **{"M&M": "Cars", "NA": "Oil", "TRUE": "Tech"},
    }
    assert [(f.check, f.ticker) for f in panel.findings] == [("no sector", "1E5")]
    assert "sectors.csv" in panel.sources


def test_a_stock_counts_only_while_it_is_a_member(files: PriceFiles, tmp_path: Path) -> None:
    path = tmp_path / "members.csv"
    path.write_text(
        "ticker,start,end\nAAA,2023-01-10,2023-01-20\nAAA,2023-03-01,\nTRUE,2020-01-01,\n"
        "NA,2020-01-01,\nM&M,2020-01-01,\n000001,2020-01-01,\nGONE,2020-01-01,\n"
    )
    panel = read(files.root, universe={"members_path": str(path)})
    member = panel.member
    assert member is not None
    stays = member[:, panel.tickers.tolist().index("AAA")]
    expected = (panel.dates >= np.datetime64("2023-01-10")) & (
        panel.dates <= np.datetime64("2023-01-20")
    ) | (panel.dates >= np.datetime64("2023-03-01"))
    np.testing.assert_array_equal(stays, expected)
    assert member[:, panel.tickers.tolist().index("TRUE")].all()
    assert "survivorship: fixed list" not in panel.notes
    assert [(f.message, f.ticker) for f in panel.findings] == [
        ("a member without prices", "GONE"),
        ("never a member", "1E5"),
    ]
    path.write_text("ticker,start,end\nAAA,2023-01-10,2022-01-20\n")
    with pytest.raises(ValueError, match="the end is before the start"):
        read(files.root, universe={"members_path": str(path)})


def test_the_raw_nifty_200(shared: Path) -> None:
    root = str(shared / "data")
    panel = load(**source_settings("nifty200", data_dir=root))
    assert panel.returns.shape == (660, 191)
    assert {"M&M", "BAJAJ-AUTO", "360ONE", "M&MFIN"} <= set(panel.tickers.tolist())
    late = np.isnan(panel.prices["close"][0])
    assert sorted(panel.tickers[late].tolist()) == [
        *("BHARTIHEXA", "IREDA", "JIOFIN", "LICI", "MANKIND", "TATATECH")
    ]
    jumps = [f for f in panel.findings if f.check == "suspected corporate action"]
    assert [(f.ticker, f.date) for f in jumps] == [("NMDC", "2022-10-27")]
    assert "+95.6%" in str(jumps[0])
    assert [f.date for f in panel.findings if f.check == "weekend"] == [
        *("2023-11-12", "2024-01-20", "2024-03-02", "2024-05-18")
    ]
    label = pd.read_csv(shared / "data/nifty200_phase5/label.csv", index_col=0)
    ours = pd.DataFrame(panel.returns, columns=panel.tickers.tolist())[list(label.columns)]
    np.testing.assert_allclose(ours.to_numpy()[1:], label.to_numpy()[1:], atol=1e-12)


def test_a_packed_file_has_to_be_whole(files: PriceFiles, tmp_path: Path) -> None:
    whole = gzip.compress(files.long().to_csv(index=False).encode())
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="gzip archive damaged or truncated"):
        read(tmp_path / "cut.csv.gz")


@pytest.mark.parametrize("cut", [15, 40, 70])
def test_what_comes_later_changes_nothing_before(files: PriceFiles, cut: int) -> None:
    frame = files.frames["AAA"]
    prices = ["Open", "High", "Low", "Close"]
    frame.loc[cut - 8 : cut + 8, prices] = frame.loc[cut - 8, prices].to_numpy()
    files.frames["TRUE"].loc[cut - 1, "Volume"] = 0
    files.write()
    before = read(files.root, quality={"stale_days": 5})
    random = np.random.default_rng(cut)
    for changed in files.frames.values():
        rows = slice(cut + 1, None)
        changed.loc[rows, prices] *= random.uniform(0.2, 5, (80 - cut - 1, 1))
        changed.loc[rows, "Volume"] = random.integers(0, 2, 80 - cut - 1)
    files.write()
    after = read(files.root, quality={"stale_days": 5})
    known = slice(0, cut + 1)
    np.testing.assert_array_equal(before.returns[known], after.returns[known])
    for name, values in before.prices.items():
        np.testing.assert_array_equal(values[known], after.prices[name][known])
    assert not np.array_equal(before.returns[cut + 1 :], after.returns[cut + 1 :])
