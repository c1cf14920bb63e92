"""Features of one's own: factors, ratios to the close, returns, and the public NASDAQ benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_data import PriceFiles, source_settings

from stockformer.data.panel import Panel
from stockformer.data.sources.features import load


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """A long table of six stocks with a moving average and a size."""
    table = PriceFiles(tmp_path / "data").long()[["Date", "Ticker", "Close"]]
    average = table.groupby("Ticker")["Close"].transform(lambda close: close.rolling(5).mean())
    return table.assign(MA5=average, size=np.arange(len(table), dtype=float))


def read(path: Path, **changes: object) -> Panel:
    own = {"features": ["size"], "ratios_to_close": ["ma5"], "path": str(path)}
    return load(**source_settings("features", **own | changes))


def test_factors_are_columns_and_ratios_to_the_close(table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "own.csv", index=False)
    panel = read(tmp_path / "own.csv")
    assert panel.factor_names == ("size", "ma5/close-1")
    close = table.pivot(index="Date", columns="Ticker", values="Close")
    average = table.pivot(index="Date", columns="Ticker", values="MA5")
    size = table.pivot(index="Date", columns="Ticker", values="size")
    assert panel.tickers.tolist() == list(close.columns)
    np.testing.assert_allclose(panel.factors[..., 0], size)
    np.testing.assert_allclose(panel.factors[..., 1], average / close - 1, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(panel.returns, close.pct_change(), rtol=1e-9, atol=1e-12)
    assert np.isnan(panel.factors[:4, :, 1]).all()
    assert panel.notes == (
        "returns: from close to close of column 'close', assumed to be adjusted",
        "survivorship: fixed list",
    )


def test_a_level_scaled_by_a_future_constant_changes_nothing(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    table.drop(columns="size").to_parquet(tmp_path / "own.parquet")
    scaled = table.copy()
    highest = scaled.groupby("Ticker")["Close"].transform("max")
    scaled[["Close", "MA5"]] = scaled[["Close", "MA5"]].div(highest, axis=0)
    scaled.to_parquet(tmp_path / "scaled.parquet")
    one = read(tmp_path / "own.parquet", features=[])
    other = read(tmp_path / "scaled.parquet", features=[])
    np.testing.assert_allclose(one.factors, other.factors, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(one.returns, other.returns, rtol=1e-7, atol=1e-12)


def test_a_return_column_is_taken_as_it_stands(table: pd.DataFrame, tmp_path: Path) -> None:
    returns = table.groupby("Ticker")["Close"].pct_change(fill_method=None)
    table.assign(R=returns).drop(columns="Close").to_parquet(tmp_path / "own.parquet")
    columns = {"columns": {"close": "", "return": "r"}, "ratios_to_close": []}
    panel = read(tmp_path / "own.parquet", **columns)
    expected = table.assign(R=returns).pivot(index="Date", columns="Ticker", values="R")
    np.testing.assert_array_equal(panel.returns, expected)
    assert panel.prices == {}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("size", np.nan, "no value in it (column size)"),
        ("MA5", 1e38, "ma5 is beyond single precision (3.4e38) on 2023-01-02 for 000001"),
        ("Close", 0.0, "price not above 0 on 2023-01-02 for 000001 (row 1, column close)"),
    ],
)
def test_bad_features_are_refused(
    table: pd.DataFrame, tmp_path: Path, column: str, value: float, message: str
) -> None:
    if column == "MA5":
        table["Close"] = 1e-3
    table[column] = value
    table.to_parquet(tmp_path / "own.parquet")
    with pytest.raises(ValueError, match="the data are refused") as refusal:
        read(tmp_path / "own.parquet")
    assert message in str(refusal.value)


def test_the_public_nasdaq_benchmark(shared: Path) -> None:
    panel = load(**source_settings("features", data_dir=str(shared / "data")))
    assert panel.factors.shape == (1245, 1026, 4)
    assert panel.factor_names == tuple(f"ma{days}/close-1" for days in (5, 10, 20, 30))
    raw = pd.read_parquet(shared / "data/nasdaq1026/panel.parquet")
    of_one = raw[raw["ticker"] == "AAPL"].set_index("date")
    stock = panel.tickers.tolist().index("AAPL")
    expected = of_one["close"].astype(float).pct_change(fill_method=None)
    np.testing.assert_allclose(panel.returns[:, stock], expected, atol=1e-12)
    ratio = of_one["ma10"].astype(float) / of_one["close"].astype(float) - 1
    np.testing.assert_allclose(panel.factors[:, stock, 1], ratio, atol=1e-6)
    jumps = {(f.ticker, f.date) for f in panel.findings if f.check == "suspected corporate action"}
    assert ("VRTX", "2013-04-19") in jumps
    unknown = np.isnan(panel.returns[1:]).mean()
    assert 0.001 < unknown < 0.01
