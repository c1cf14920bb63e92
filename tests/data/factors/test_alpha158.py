"""Alpha158 and Alpha360: against qlib, by hand, against pandas, and what must never happen."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stockformer.data.factors import alpha158, relative
from stockformer.data.factors.alpha158 import ALPHA158, ALPHA360, WINDOWS, compute

FIELDS = ("open", "high", "low", "close", "volume")


def market(dates: int, stocks: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A random market (dates, stocks) without gaps; prices in cents, so that some tie."""
    random = np.random.default_rng(seed)
    close = 50 * np.exp(np.cumsum(random.normal(0, 0.02, (dates, stocks)), axis=0))
    open_ = close * np.exp(random.normal(0, 0.01, close.shape))
    high = np.maximum(open_, close) * (1 + random.uniform(0, 0.01, close.shape))
    low = np.minimum(open_, close) * (1 - random.uniform(0, 0.01, close.shape))
    prices = {"open": open_, "high": high, "low": low, "close": close}
    prices = {field: np.round(array, 2) for field, array in prices.items()}
    return prices | {"volume": np.round(random.lognormal(10, 1, close.shape))}


def column(prices: dict[str, np.ndarray], names: tuple[str, ...] = ALPHA158) -> pd.DataFrame:
    """The factors of the only stock of a market, by date and name."""
    factors, names = compute(prices, names)
    assert factors.shape[1] == 1
    return pd.DataFrame(factors[:, 0].astype(np.float64), columns=list(names))


# --- against qlib ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(shared: Path) -> pd.DataFrame:
    """qlib's own factors by ticker and date."""
    table = pd.read_parquet(shared / "golden" / "alpha158_qlib_0.9.7.parquet")
    return table.set_index(["ticker", "date"])


@pytest.fixture(scope="module")
def nifty(shared: Path, golden: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Daily prices of the golden file's tickers by field, (dates, tickers)."""
    files = {
        ticker: shared / "data" / "nifty200" / "raw" / f"{ticker}.csv"
        for ticker in sorted(golden.index.unique("ticker"))
    }
    tables = {
        ticker: pd.read_csv(file, index_col="Date", parse_dates=["Date"])
        for ticker, file in files.items()
    }
    panel = pd.concat(tables, axis=1).sort_index()
    return {f: panel.xs(f.capitalize(), axis=1, level=1).astype(float) for f in FIELDS}


def disagreements(golden: pd.DataFrame, nifty: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """True where a factor is neither within 1e-3 relative of qlib's nor within 1e-5 absolute."""
    factors, names = compute({field: table.to_numpy() for field, table in nifty.items()})
    close = nifty["close"]
    rows = close.index.get_indexer(golden.index.get_level_values("date"))
    columns = close.columns.get_indexer(golden.index.get_level_values("ticker"))
    ours, theirs = factors[rows, columns].astype(np.float64), golden[list(names)].to_numpy()
    relative = np.isclose(ours, theirs, rtol=1e-3, atol=0, equal_nan=True)
    absolute = np.isclose(ours, theirs, rtol=0, atol=1e-5)
    return pd.DataFrame(~(relative | absolute), index=golden.index, columns=list(names))


def test_agrees_with_qlib(golden, nifty):
    """All but 4 of 770,408 cells; the four are one class: qlib computes in float32.

    Each is reproduced to all digits by evaluating its formula in float32: KSFT2 of NMDC and KUP2 of
    MRF are small differences of rounded prices; CORD5 of RELIANCE, twice, is a correlation near 0
    of rounded ratios.
    """
    assert tuple(golden.columns) == ALPHA158
    wrong = disagreements(golden, nifty)
    assert wrong.to_numpy().mean() < 1e-3
    explained = {("NMDC", "KSFT2"), ("MRF", "KUP2"), ("RELIANCE", "CORD5")}
    rows, columns = np.nonzero(wrong.to_numpy())
    tickers = wrong.index.get_level_values("ticker")[rows]
    assert set(zip(tickers, wrong.columns[columns], strict=True)) <= explained


def test_agrees_with_qlib_only_if_prices_are_the_same_prices(golden, nifty):
    """The comparison above can fail: half a per cent on one field, or one day's delay, shows."""
    for field in FIELDS:
        jittered = nifty[field] * (1 + 0.005 * (np.arange(len(nifty[field])) % 2)[:, None])
        assert disagreements(golden, nifty | {field: jittered}).to_numpy().mean() > 0.01, field
    late = {field: table.shift(1).bfill() for field, table in nifty.items()}
    late = {field: table.where(nifty[field].notna()) for field, table in late.items()}
    assert disagreements(golden, late).to_numpy().mean() > 0.5


# --- worked by hand -------------------------------------------------------------------------------


def hand_market() -> dict[str, np.ndarray]:
    table = {
        "open": [10, 10, 12, 11, 13, 15],
        "high": [12, 17, 13, 17, 16, 16],
        "low": [9, 10, 8, 9, 8, 12],
        "close": [10, 12, 11, 13, 15, 15],
        "volume": [100, 200, 100, 400, 300, 300],
    }
    return {field: np.array(values, np.float64)[:, None] for field, values in table.items()}


def test_every_family_on_a_table_worked_by_hand():
    """Row 4, the first with a full window of 5: closes 10 12 11 13 15, mean 12.2, squares 14.8."""
    closes, volumes = [10, 12, 11, 13, 15], [100, 200, 100, 400, 300]
    ratios = [12 / 10, 11 / 12, 13 / 11, 15 / 13]
    volume_ratios = [np.log(ratio + 1) for ratio in (2, 0.5, 4, 0.75)]
    moves = [2 / 10 * 200, 1 / 12 * 100, 2 / 11 * 400, 2 / 13 * 300]
    expected = {
        "KMID": 2 / 13,
        "KLEN": 8 / 13,
        "KMID2": 2 / 8,
        "KUP": 1 / 13,
        "KUP2": 1 / 8,
        "KLOW": 5 / 13,
        "KLOW2": 5 / 8,
        "KSFT": 6 / 13,
        "KSFT2": 6 / 8,
        "OPEN0": 13 / 15,
        "HIGH0": 16 / 15,
        "LOW0": 8 / 15,
        "VWAP0": 13 / 15,
        "ROC5": np.nan,
        "MA5": 12.2 / 15,
        "STD5": np.sqrt(14.8 / 4) / 15,
        "BETA5": 1.1 / 15,
        "RSQR5": 11**2 / (10 * 14.8),
        "RESI5": (15 - (12.2 + 2 * 1.1)) / 15,
        "MAX5": 17 / 15,
        "MIN5": 8 / 15,
        "QTLU5": 13.4 / 15,
        "QTLD5": 10.8 / 15,
        "RANK5": 1.0,
        "RSV5": 7 / 9,
        "IMAX5": 2 / 5,
        "IMIN5": 3 / 5,
        "IMXD5": -1 / 5,
        "CORR5": statistics.correlation(closes, [np.log(volume + 1) for volume in volumes]),
        "CORD5": statistics.correlation(ratios, volume_ratios),
        "CNTP5": 3 / 5,
        "CNTN5": 1 / 5,
        "CNTD5": 2 / 5,
        "SUMP5": 6 / 7,
        "SUMN5": 1 / 7,
        "SUMD5": 5 / 7,
        "VMA5": 220 / 300,
        "VSTD5": np.sqrt(17000) / 300,
        "WVMA5": statistics.stdev(moves) / statistics.mean(moves),
        "VSUMP5": 4 / 6,
        "VSUMN5": 2 / 6,
        "VSUMD5": 2 / 6,
    }
    families_of_five = [name for name in ALPHA158 if not name.endswith(("10", "20", "30", "60"))]
    assert [n for n in families_of_five if n in expected] == list(expected)
    row = column(hand_market(), tuple(expected)).loc[4]
    np.testing.assert_allclose(row, list(expected.values()), rtol=1e-6)


def test_the_window_moves_on():
    """Row 5: closes 12 11 13 15 15, the first row left; the close ties with yesterday's."""
    row = column(hand_market(), ("ROC5", "MA5", "RANK5", "IMAX5", "IMIN5", "CNTP5", "SUMP5")).loc[5]
    np.testing.assert_allclose(
        row, [10 / 15, 13.2 / 15, 4.5 / 5, 1 / 5, 2 / 5, 3 / 5, 6 / 7], rtol=1e-6
    )


def test_before_the_window_is_full_it_is_what_there_is():
    table = column(hand_market(), ("MA60", "STD60", "MAX60", "IMAX60", "CNTP60", "SUMP60"))
    np.testing.assert_allclose(table.loc[0], [1, np.nan, 12 / 10, 1 / 60, 0, np.nan])
    row = [11 / 12, np.sqrt(2) / 12, 17 / 12, 2 / 60, 1 / 2, 1]
    np.testing.assert_allclose(table.loc[1], row, rtol=1e-6)


def test_alpha360_is_sixty_lags_over_today():
    prices = market(70, 3)
    prices["vwap"] = prices["close"] + 0.25
    factors, names = compute(prices, ALPHA360)
    assert names == ALPHA360
    assert (names[0], *names[59:61]) == ("CLOSE59", "CLOSE0", "OPEN59")
    assert names[-1] == "VOLUME0"
    fields = ("close", "open", "high", "low", "vwap", "volume")
    for field, block in zip(fields, np.split(factors, 6, axis=-1), strict=True):
        today = prices["volume" if field == "volume" else "close"][65]
        for lag in range(60):
            expected = prices[field][65 - lag] / today
            np.testing.assert_allclose(block[65, :, 59 - lag], expected, rtol=1e-6)
    assert np.isnan(factors[58, :, names.index("CLOSE59")]).all()


# --- against pandas, where days are missing -------------------------------------------------------


def pandas_factors(prices: dict[str, np.ndarray], days: int) -> dict[str, pd.Series]:
    """The rolling factors of one stock by pandas and least squares, one plain formula each."""
    table = pd.DataFrame({field: array[:, 0] for field, array in prices.items()})
    close, volume, high, low = (table[field] for field in ("close", "volume", "high", "low"))
    change, volume_change = close - close.shift(1), volume - volume.shift(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(volume / volume.shift(1) + 1).replace(np.inf, np.nan)
    moves = (close / close.shift(1) - 1).abs() * volume
    traded = close.notna()

    def roll(series: pd.Series):
        return series.where(np.isfinite(series)).rolling(days, min_periods=1)

    def fit(values: np.ndarray) -> tuple[float, float]:
        rows = np.flatnonzero(np.isfinite(values))
        if len(rows) < 2:
            return np.nan, np.nan
        slope, intercept = np.polynomial.polynomial.polyfit(rows, values[rows], 1)[::-1]
        return slope, values[-1] - (intercept + slope * (len(values) - 1))

    def first_extreme(series: pd.Series, argument) -> pd.Series:
        return roll(series).apply(lambda x: (argument(x) + 1) / days, raw=True)

    def parts(differences: pd.Series, name: str) -> dict[str, pd.Series]:
        up, down = roll(differences.clip(lower=0)).sum(), roll(-differences.clip(upper=0)).sum()
        total = roll(differences.abs()).sum() + 1e-12
        return {f"{name}P": up / total, f"{name}N": down / total, f"{name}D": (up - down) / total}

    up_days, down_days = ((change > 0).where(traded), (change < 0).where(traded))
    ups, downs = (roll(flags.astype(float)).mean() for flags in (up_days, down_days))
    highest, lowest = roll(high).max(), roll(low).min()
    rows = pd.Series(np.arange(len(close), dtype=float))
    factors = {
        "ROC": close.shift(days) / close,
        "MA": roll(close).mean() / close,
        "STD": roll(close).std() / close,
        "BETA": roll(close).apply(lambda x: fit(x)[0], raw=True) / close,
        "RSQR": roll(close).corr(rows) ** 2,
        "RESI": roll(close).apply(lambda x: fit(x)[1], raw=True) / close,
        "MAX": highest / close,
        "MIN": lowest / close,
        "QTLU": roll(close).quantile(0.8) / close,
        "QTLD": roll(close).quantile(0.2) / close,
        "RANK": roll(close).rank(pct=True),
        "RSV": (close - lowest) / (highest - lowest + 1e-12),
        "IMAX": first_extreme(high, np.nanargmax),
        "IMIN": first_extreme(low, np.nanargmin),
        "CORR": roll(close).corr(np.log(volume + 1)),
        "CORD": roll(close / close.shift(1)).corr(log_ratio),
        "CNTP": ups,
        "CNTN": downs,
        "CNTD": ups - downs,
        "VMA": roll(volume).mean() / (volume + 1e-12),
        "VSTD": roll(volume).std() / (volume + 1e-12),
        "WVMA": roll(moves).std() / (roll(moves).mean() + 1e-12),
    }
    factors["IMXD"] = factors["IMAX"] - factors["IMIN"]
    factors |= parts(change, "SUM") | parts(volume_change, "VSUM")
    assert set(factors) == set(alpha158.ROLLING)
    return {f"{name}{days}": series.where(traded) for name, series in factors.items()}


@pytest.mark.parametrize("days", WINDOWS)
def test_missing_days_are_unknown_and_skipped(days):
    """Scattered days, a gap longer than the window, and days without volume, by pandas."""
    prices = market(300, 1, seed=1)
    random = np.random.default_rng(2)
    missing = random.random(300) < 0.1
    missing[150 : 150 + 70] = True
    missing[0] = False
    for array in prices.values():
        array[missing] = np.nan
    prices["volume"][random.random(300) < 0.03] = 0
    expected = pd.DataFrame(pandas_factors(prices, days))
    found = column(prices, tuple(expected.columns))
    assert found[missing].isna().all(axis=None)
    for name in expected:
        ours, theirs = found[name].to_numpy(), expected[name].to_numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_late_listing_has_its_own_history():
    prices = market(200, 5)
    alone, _ = compute({field: array[90:, 2:3].copy() for field, array in prices.items()})
    for array in prices.values():
        array[:90, 2] = np.nan
    factors, _ = compute(prices)
    assert np.isnan(factors[:90, 2]).all()
    np.testing.assert_array_equal(factors[90:, 2], alone[:, 0])
    assert not np.isnan(factors[:90, [0, 1, 3, 4]]).all(axis=(0, 2)).any()


# --- what must never happen -----------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 2, 7, 61, 64, 150, 199])
def test_the_future_does_not_move_one_bit_of_the_past(cut):
    prices = market(200, 23)
    prices["close"][40:45, 3] = np.nan
    for array in prices.values():
        array[:120, 4] = np.nan
    names = ALPHA158 + ALPHA360
    before = compute(prices, names)[0][:cut].tobytes()
    ended = {field: array[:cut] for field, array in prices.items()}
    assert compute(ended, names)[0].tobytes() == before
    random = np.random.default_rng(3)
    futures = (
        random.lognormal(3, 2, (200 - cut, 23)),
        np.full((200 - cut, 23), np.nan),
        np.full((200 - cut, 23), 1e12),
    )
    for future in futures:
        changed = {f: np.concatenate([array[:cut], future]) for f, array in prices.items()}
        assert compute(changed, names)[0][:cut].tobytes() == before


@pytest.mark.parametrize("field", FIELDS)
def test_a_spike_is_forgotten_when_the_window_has_passed_it(field):
    """ROC, CORD and the differences see one row more than the window's 60."""
    prices = market(150, 4)
    usual = compute(prices)[0]
    prices[field][50] = 1e12
    spiked = compute(prices)[0]
    assert not np.array_equal(spiked[50:111], usual[50:111], equal_nan=True)
    np.testing.assert_array_equal(spiked[111:], usual[111:])


def test_constant_prices_have_exactly_no_spread():
    prices = {field: np.full((100, 2), 1e6 + 0.1) for field in FIELDS}
    table = column({field: array[:, :1] for field, array in prices.items()}).loc[99]
    for name in ("STD", "BETA", "RESI", "CNTP", "CNTD", "SUMP", "SUMD", "VSTD", "WVMA", "RSV"):
        assert (table[[f"{name}{days}" for days in WINDOWS]] == 0).all(), name
    for name in ("RSQR", "CORR", "CORD"):
        assert table[[f"{name}{days}" for days in WINDOWS]].isna().all(), name
    for name in ("MA", "MAX", "MIN", "QTLU", "QTLD", "VMA"):
        assert (table[[f"{name}{days}" for days in WINDOWS]] == 1).all(), name


def test_there_is_no_correlation_with_a_flat_series():
    """As in qlib: nothing where the standard deviation is at most 2e-5."""
    prices = market(30, 1)
    names = ("RSQR5", "RSQR20", "CORR5", "CORR20", "CORD5", "CORD20")
    wave = np.where(np.arange(30) % 3, 1.0, -1.0)[:, None]
    prices["close"] = 10 + 1e-3 * wave
    assert column(prices, names).loc[29].notna().all()
    prices["close"] = 10 + 1e-5 * wave
    assert column(prices, names).loc[29].isna().all()


def test_a_high_price_level_costs_no_digits():
    """Prices of 1e6 + a little: spreads, trends and correlations are those of the little."""
    little = market(150, 3)
    little = {f: np.round(array * 1024) / 1024 for f, array in little.items()}
    level = 2.0**20
    high = {f: array + (level if f != "volume" else 0) for f, array in little.items()}
    names = tuple(f"{name}{days}" for name in ("RSQR", "RANK", "CORR", "RSV") for days in WINDOWS)
    np.testing.assert_allclose(compute(high, names)[0], compute(little, names)[0], atol=1e-6)
    names = tuple(f"{name}{days}" for name in ("STD", "BETA", "RESI") for days in WINDOWS)
    spread = compute(high, names)[0] * high["close"][..., None]
    expected = compute(little, names)[0] * little["close"][..., None]
    np.testing.assert_allclose(spread, expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_infinite():
    prices = market(100, 4)
    prices["volume"][::7] = 0
    prices["open"][::11] = 0
    prices["close"][::13] = 0
    prices["high"][50] = np.inf
    factors, _ = compute(prices, ALPHA158 + ALPHA360)
    assert not np.isinf(factors).any()
    assert np.isfinite(factors).mean() > 0.7


# --- names and arrays -----------------------------------------------------------------------------


def test_names_are_alpha158s():
    assert len(ALPHA158) == len(set(ALPHA158)) == 158
    assert len(ALPHA360) == len(set(ALPHA360)) == 360


def test_a_subset_comes_in_the_order_given_and_only_it_is_computed(monkeypatch):
    prices = market(80, 3)
    everything, names = compute(prices)
    wanted = ("STD60", "KMID", "CNTP5", "STD5", "QTLD20", "MA30", "OPEN0")
    for family in set(alpha158.ROLLING) - {"STD", "CNTP", "QTLD", "MA"}:
        monkeypatch.setitem(alpha158.ROLLING, family, None)
    monkeypatch.setattr(alpha158.Stocks, "price_swings", None)
    subset, found = compute(prices, list(wanted))
    assert found == wanted
    np.testing.assert_array_equal(subset, everything[..., [names.index(n) for n in wanted]])


def test_an_unknown_name_is_told():
    with pytest.raises(ValueError, match=r"STD61.*none of Alpha158"):
        compute(market(10, 1), ("KMID", "STD61"))


def test_what_is_wrong_with_the_arrays_is_told():
    prices = market(10, 2)
    with pytest.raises(ValueError, match=r"lack \['volume'\]"):
        compute({field: prices[field] for field in FIELDS[:4]})
    with pytest.raises(ValueError, match=r"vwap has shape \(9, 2\)"):
        compute(prices | {"vwap": prices["close"][1:]})
    with pytest.raises(ValueError, match=r"out is \(10, 2, 3\) float32, expected \(10, 2, 2\)"):
        compute(prices, ("KMID", "MA5"), out=np.empty((10, 2, 3), np.float32))
    with pytest.raises(ValueError, match="float64, expected"):
        compute(prices, ("KMID", "MA5"), out=np.empty((10, 2, 2)))


def test_writes_into_a_memory_map_block_by_block(tmp_path, monkeypatch):
    prices = market(80, 11)
    expected, _ = compute(prices)
    shape = (80, 11, 158)
    out = np.lib.format.open_memmap(tmp_path / "factors.npy", "w+", np.float32, shape)
    monkeypatch.setattr(alpha158, "BLOCK_CELLS", 80 * 4)
    assert compute(prices, out=out)[0] is out
    np.testing.assert_array_equal(np.load(tmp_path / "factors.npy"), expected)


def test_the_layout_of_the_prices_does_not_matter():
    prices = market(80, 5)
    transposed = {field: np.asfortranarray(array) for field, array in prices.items()}
    np.testing.assert_array_equal(compute(transposed)[0], compute(prices)[0])


def test_prices_are_left_as_they_were():
    prices = market(80, 2)
    prices["high"][3] = np.inf
    copies = {field: array.copy() for field, array in prices.items()}
    compute(prices)
    for field in FIELDS:
        np.testing.assert_array_equal(prices[field], copies[field])


def test_a_factor_of_ones_own_is_one_function(monkeypatch):
    def range_share(stocks, days):
        return (stocks.highest(days) - stocks.lowest(days)) / stocks.close

    monkeypatch.setitem(alpha158.EXTRA, "RANGE", range_share)
    table = column(market(80, 1), ("RANGE20", "MAX20", "MIN20"))
    np.testing.assert_allclose(table["RANGE20"], table["MAX20"] - table["MIN20"], rtol=1e-5)


@pytest.mark.parametrize("names", [("alpha158",), ("alpha360",), ("KMID",)])
@pytest.mark.parametrize("known_days", [1, 2, 59, 60, 61, 62, 150, 199, 200])
def test_extended_to_the_bit(names, known_days):
    """Suspended, delisted and newly listed stocks too: IMAX counts the days from the listing."""
    prices = market(200, 7)
    for field in FIELDS:
        prices[field][:140, 1] = np.nan  # listed late
        prices[field][20:150, 2] = np.nan  # long suspended
        prices[field][100:, 3] = np.nan  # delisted
        prices[field][:, 4] = np.nan  # never traded
        prices[field][np.random.default_rng(1).random(200) < 0.3, 5] = np.nan
    names = alpha158.expand(names)
    whole, _ = compute(prices, names)
    order = np.array([5, 4, 3, 2, 1, 0])  # the seventh stock is new
    known = whole[:known_days, order].copy()
    columns = np.array([5, 4, 3, 2, 1, 0, -1])
    out = np.full_like(whole, 7)
    assert alpha158.extend(prices, names, out, known, columns)
    np.testing.assert_array_equal(out.view(np.int32), whole.view(np.int32))


def test_own_factors_and_other_values_are_not_extended(monkeypatch):
    prices = market(80, 3)
    monkeypatch.setitem(alpha158.EXTRA, "AGE", lambda s, _: s.rows + 0.0)
    for names, change in ((("ROC5", "AGE5"), 0), (("ROC5",), 1)):
        known = compute(prices, names)[0][:70].copy()
        known[-1, 2] += change
        out = np.empty((80, 3, len(names)), np.float32)
        assert not alpha158.extend(prices, names, out, known, np.arange(3))


def test_every_name_is_explained() -> None:
    page = (Path(__file__).parents[3] / "docs" / "factors.md").read_text()
    explained = set(re.findall(r"`([A-Z]+2?)`", page))
    of_alpha = {*alpha158.SINGLE_DAY, *alpha158.LAGGED, *alpha158.ROLLING}
    assert explained == {*of_alpha, *relative.FAMILIES}
