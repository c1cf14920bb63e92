"""qlib's binary layout gives the panel that the same prices give as CSV files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_data import PriceFiles, QlibFiles, source_settings

from stockformer.data.panel import Panel
from stockformer.data.sources import ohlcv, qlib


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
