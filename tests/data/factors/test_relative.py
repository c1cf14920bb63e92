"""Factors relative to sector, market and peers, against their definitions on a small market."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from stockformer.data.factors import alpha158, library, relative
from stockformer.data.panel import Panel

DAYS, STOCKS = 300, 9
SECTORS = np.array(["a", "a", "a", "b", "b", "c", "", "", "b"])


def made(seed: int = 0, days: int = DAYS) -> Panel:
    """A random market with shared moves; stock 4 pauses for a week, stock 8 is listed late."""
    rng = np.random.default_rng(seed)
    returns = 0.01 * rng.standard_normal((days, 1)) + 0.02 * rng.standard_normal((days, STOCKS))
    close = 100 * np.cumprod(1 + returns, axis=0)
    opened = close / (1 + 0.01 * rng.standard_normal((days, STOCKS)))
    volume = rng.uniform(1e3, 1e4, (days, STOCKS))
    untraded = np.zeros((days, STOCKS), bool)
    untraded[100:105, 4] = untraded[:150, 8] = True
    prices = {"open": opened, "high": np.maximum(opened, close), "low": np.minimum(opened, close)}
    prices |= {"close": close, "volume": volume}
    prices = {name: np.where(untraded, np.nan, array) for name, array in prices.items()}
    change = np.full(close.shape, np.nan)
    change[1:] = prices["close"][1:] / prices["close"][:-1] - 1
    return Panel(
        dates=np.arange(days).astype("datetime64[D]"),
        tickers=np.array([f"S{i}" for i in range(STOCKS)]),
        returns=change,
        factors=np.zeros((days, STOCKS, 0), np.float32),
        factor_names=(),
        prices=prices,
        sectors=SECTORS,
    )


@pytest.fixture(scope="module")
def panel() -> Panel:
    return made()


@pytest.fixture(scope="module")
def factors(panel: Panel) -> dict[str, np.ndarray]:
    values, names = library.compute(panel, ["relative"])
    assert names == relative.RELATIVE
    return {name: values[..., i].astype(float) for i, name in enumerate(names)}


def mean_of_market(panel: Panel) -> np.ndarray:
    return np.array([np.nan, *np.nanmean(panel.returns[1:], axis=1)])


def regression(panel: Panel, row: int, stock: int) -> tuple[float, np.ndarray]:
    """Beta of a stock over the last 60 days, and its residuals with each day's own beta of then."""
    market = mean_of_market(panel)
    y, x = panel.returns[row - 59 : row + 1, stock], market[row - 59 : row + 1]
    known = np.isfinite(y)
    beta = np.cov(y[known], x[known])[0, 1] / np.var(x[known], ddof=1)
    return beta, y - beta * x


def test_beta_and_residual(panel: Panel, factors: dict[str, np.ndarray]) -> None:
    market = mean_of_market(panel)
    for row, stock in ((90, 0), (200, 3), (299, 6)):
        beta, _ = regression(panel, row, stock)
        assert factors["MBETA60"][row, stock] == pytest.approx(beta, rel=1e-5)
        residuals = [
            panel.returns[t, stock] - regression(panel, t, stock)[0] * market[t]
            for t in range(row - 19, row + 1)
        ]
        assert factors["RES1"][row, stock] == pytest.approx(residuals[-1], rel=1e-4, abs=1e-7)
        assert factors["RES20"][row, stock] == pytest.approx(sum(residuals), rel=1e-4, abs=1e-7)
        assert factors["IVOL20"][row, stock] == pytest.approx(np.std(residuals, ddof=1), rel=1e-4)


def test_sectors(panel: Panel, factors: dict[str, np.ndarray]) -> None:
    inside = np.flatnonzero(SECTORS == "a")
    mean = panel.returns[:, inside].mean(axis=1)
    for days in (1, 3, 20):
        window = slice(250 - days + 1, 251)
        assert factors[f"SECMOM{days}"][250, 0] == pytest.approx(mean[window].sum(), rel=1e-4)
        own = panel.returns[window, 0].sum()
        found = factors[f"SECREL{days}"][250, 0]
        assert found == pytest.approx(own - mean[window].sum(), rel=1e-4)
    alone = np.isin(SECTORS, ["c", ""])
    assert np.isnan(factors["SECREL1"][:, alone]).all()
    assert np.isnan(factors["SECMOM5"][:, alone]).all()


def test_peers(panel: Panel, factors: dict[str, np.ndarray]) -> None:
    excess = np.nan_to_num(panel.returns - mean_of_market(panel)[:, None])
    row = 280
    window = excess[row - 59 : row + 1]
    for stock in range(STOCKS):
        weights = np.array(
            [
                window[:, stock]
                @ window[:, other]
                / np.linalg.norm(window[:, stock])
                / np.linalg.norm(window[:, other])
                for other in range(STOCKS)
            ]
        )
        weights[stock] = 0
        weights[weights < relative.LEAST_CORRELATION] = 0
        for days in (1, 5):
            recent = excess[row - days + 1 : row + 1].sum(axis=0)
            expected = weights @ recent / weights.sum() - recent[stock] if weights.any() else np.nan
            assert_allclose(factors[f"PEER{days}"][row, stock], expected, rtol=1e-4, atol=1e-7)


def test_a_stock_that_lags_behind_its_twin_has_a_high_peer_factor() -> None:
    panel = made()
    twin = panel.returns.copy()
    twin[:, 1] = twin[:, 0]
    twin[-1, 1] -= 0.05
    values, _ = library.compute(replace(panel, returns=twin), ["PEER1"])
    assert values[-1, 1, 0] > 0.02 > values[-1, 0, 0]


def test_history_and_parts_of_the_day(panel: Panel, factors: dict[str, np.ndarray]) -> None:
    row, stock = 299, 2
    close, opened = panel.prices["close"][:, stock], panel.prices["open"][:, stock]
    own = panel.returns[:, stock]
    assert factors["MOM120"][row, stock] == pytest.approx(own[180:280].sum(), rel=1e-4)
    assert factors["TOHIGH60"][row, stock] == pytest.approx(
        close[row] / close[240:].max(), rel=1e-5
    )
    by_night = opened[295:] / close[294:-1] - 1
    assert factors["OVERNIGHT5"][row, stock] == pytest.approx(by_night.mean(), rel=1e-3, abs=1e-7)
    by_day = close[295:] / opened[295:] - 1
    assert factors["INTRADAY5"][row, stock] == pytest.approx(by_day.mean(), rel=1e-3, abs=1e-7)
    value = close * panel.prices["volume"][:, stock]
    assert factors["TRADED5"][row, stock] == pytest.approx(
        value[row] / value[295:].mean(), rel=1e-4
    )


@pytest.mark.parametrize("last", [130, 222])
def test_later_days_change_no_bit(panel: Panel, last: int) -> None:
    whole, _ = library.compute(panel, ["relative"])
    before, _ = library.compute(panel.between(0, last), ["relative"])
    assert_array_equal(whole[:last], before)


def test_no_factor_where_not_traded(panel: Panel, factors: dict[str, np.ndarray]) -> None:
    untraded = ~np.isfinite(panel.prices["close"])
    assert all(np.isnan(values[untraded]).all() for values in factors.values())
    assert np.isfinite(factors["RES20"][299]).all()


def test_only_members_make_the_market(panel: Panel) -> None:
    member = np.ones(panel.returns.shape, bool)
    member[:, [1, 5]] = False
    shaken = panel.returns.copy()
    shaken[:, [1, 5]] *= -3
    one, _ = library.compute(replace(panel, member=member), ["relative"])
    two, _ = library.compute(replace(panel, member=member, returns=shaken), ["relative"])
    others = [0, 2, 3, 4, 6, 7, 8]
    assert_array_equal(one[:, others], two[:, others])


def test_levels_of_prices_do_not_matter(panel: Panel) -> None:
    """An adjusted price tells of later splits and dividends by its level."""
    scale = np.linspace(0.1, 10, STOCKS)
    prices = {
        name: array if name == "volume" else scale * array for name, array in panel.prices.items()
    }
    one, _ = library.compute(panel, ["relative"])
    two, _ = library.compute(replace(panel, prices=prices), ["relative"])
    assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_sets_keep_the_order_of_names(panel: Panel) -> None:
    names = ["RES5", "KMID", "ROC5", "PEER1", "STD20"]
    mixed, found = library.compute(panel, names)
    assert found == tuple(names)
    assert_array_equal(mixed[..., 1:3], alpha158.compute(panel.prices, ["KMID", "ROC5"])[0])
    assert_array_equal(mixed[..., 3:4], library.compute(panel, ["PEER1"])[0])


def test_a_new_day_extends_mixed_factors(panel: Panel) -> None:
    names = ("KMID", "ROC5", "RES5", "STD20")
    earlier, _ = library.compute(panel.between(0, DAYS - 1), names)
    whole, _ = library.compute(panel, names)
    out = np.empty_like(whole)
    assert library.extend(panel, names, out, earlier, np.arange(STOCKS))
    assert_array_equal(out, whole)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("STD61", "STD60"), ("kmid", "KMID"), ("RSQ5", "RSQR5"), ("RES4", "RES"), ("peer1", "PEER1")],
)
def test_an_unknown_name_is_told_with_its_nearest(panel: Panel, name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"dataset.factors: unknown name '{name}'.*{nearest}"):
        library.compute(panel, ["KMID", name])


def test_closes_are_enough_for_all_but_parts_of_the_day_and_volume(panel: Panel) -> None:
    given = replace(panel, prices={"close": panel.prices["close"]})
    some = [n for n in relative.RELATIVE if not n.startswith(("OVERNIGHT", "INTRADAY", "TRADED"))]
    assert_array_equal(library.compute(given, some)[0], library.compute(panel, some)[0])
    returns_only = replace(panel, prices={})
    values, _ = library.compute(returns_only, ["RES5", "SECREL1"])
    assert_array_equal(values[1:], library.compute(panel, ["RES5", "SECREL1"])[0][1:])
    with pytest.raises(ValueError, match=r"no price 'close'.*TOHIGH"):
        library.compute(returns_only, ["TOHIGH60"])
    for name, missing in (("OVERNIGHT5", "open"), ("INTRADAY5", "open"), ("TRADED5", "volume")):
        with pytest.raises(ValueError, match=rf"no price '{missing}'.*{name[:-1]}"):
            library.compute(given, [*some, name])
