"""Lists of stocks: the one that ships, and those of a user, with what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.download.market import write_universe

from stockformer.data.download.universe import read_universe, shipped_lists


def test_the_list_that_ships() -> None:
    universe = read_universe("nifty200", Path("nifty200"))
    assert (universe.name, universe.edition) == ("nifty200", "nifty200-2026-03-30")
    assert universe.market is not None
    assert (universe.market.currency, universe.market.timezone) == ("INR", "Asia/Kolkata")
    assert len(universe.stocks) == 200
    assert all(stock.symbol == f"{stock.ticker}.NS" and stock.sector for stock in universe.stocks)
    tickers = [stock.ticker for stock in universe.stocks]
    assert tickers == sorted(tickers)
    assert {"TCS", "M&M", "BAJAJ-AUTO", "360ONE", "GVT&D"} <= set(tickers)
    assert "VOGL" not in tickers
    assert read_universe("nifty200-2026-03-30", Path()) == universe
    assert set(shipped_lists()) == {"nifty200", "nifty200-2026-03-30"}


def test_a_list_of_one_s_own(tmp_path: Path) -> None:
    path = write_universe(
        tmp_path / "mine.csv", "x,Power,AAA,", "y,,^NSEI,N1", header="isin,SECTOR,Ticker,symbol"
    )
    universe = read_universe(str(path), path)
    assert (universe.name, universe.market) == ("mine", None)
    assert [(s.ticker, s.symbol, s.sector) for s in universe.stocks] == [
        ("AAA", "AAA", "Power"),
        ("^NSEI", "N1", ""),
    ]


BAD = {
    "missing column": (["AAA"], "symbol", "no column 'ticker'; the file has symbol"),
    "empty": ([], "ticker", "a header and no valid row below it"),
    "twice": (["AAA", "BBB", "AAA"], "ticker", "'AAA' is in row 2 already (row 4, column ticker)"),
    "case": (["AAA", "aaa"], "ticker", "'AAA' and 'aaa' differ only by case or blanks"),
    "symbol twice": (["A,X", "B,X"], "ticker,symbol", "'X' is in row 2 already (row 3, column"),
    "symbol case": (["A,X", "B,x"], "ticker,symbol", "'x' is in row 2 already (row 3, column"),
    "path": (["../AAA"], "ticker", "'../AAA' is not a ticker"),
    "dots": (["A..B"], "ticker", "'A..B' is not a ticker"),
    "slash": (["A/B"], "ticker", "'A/B' is not a ticker"),
    "hidden": ([".AAA"], "ticker", "'.AAA' is not a ticker"),
    "option": (["-rf"], "ticker", "'-rf' is not a ticker"),
    "formula": (["=1+1"], "ticker", "'=1+1' is not a ticker"),
    "blank": (["A,X", ",Y"], "ticker,symbol", "'' is not a ticker"),
    "two words": (["A B"], "ticker", "'A B' is not a ticker"),
    "long": (["A" * 33], "ticker", "is not a ticker"),
    "symbol path": (["A,../x"], "ticker,symbol", "'../x' is not a symbol"),
    "ragged": (["A,B,C"], "ticker", "3 fields, the header has 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_list_is_refused_with_the_place(case: str, tmp_path: Path) -> None:
    rows, header, message = BAD[case]
    path = write_universe(tmp_path / "bad.csv", *rows, header=header)
    with pytest.raises(ValueError, match="the list of stocks is refused") as error:
        read_universe(str(path), path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_word_that_is_neither_a_list_nor_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a list of this package") as error:
        read_universe("nifty20", tmp_path / "nifty20")
    assert "nifty200-2026-03-30" in str(error.value)
    with pytest.raises(ValueError, match="a folder, expected a file"):
        read_universe(str(tmp_path), tmp_path)


def test_tickers_choose_from_the_list() -> None:
    universe = read_universe("nifty200", Path())
    assert [s.symbol for s in universe.only(["TCS", "M&M", "TCS"])] == ["TCS.NS", "M&M.NS"]
    with pytest.raises(ValueError, match="'TCSS' is not in nifty200-2026-03-30; did you mean TCS"):
        universe.only(["TCSS"])
