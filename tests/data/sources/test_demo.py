"""The simulated market is what it says: consistent prices, a known signal, hard for ridge."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy.stats import spearmanr

from stockformer.config.hydra_lines import VERSION_BASE
from stockformer.config.schema import CONFIG_NAME, config_folder
from stockformer.data.factors import alpha158
from stockformer.data.panel import Panel
from stockformer.data.sources import demo
from stockformer.data.targets import next_returns
from stockformer.evaluation.baselines import BaselineInputs, all_baselines
from stockformer.evaluation.predictions import Predictions, score

TEST_DAYS = 127  # as split=ratio cuts them


@cache
def settings() -> dict[str, Any]:
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
        config = compose(CONFIG_NAME, ["experiment=demo"])
    return OmegaConf.to_container(config.dataset, resolve=True)  # type: ignore[return-value]


def market(**changes: Any) -> Panel:
    source = {k: v for k, v in settings()["source"].items() if k != "_target_"}
    return demo.load(**(source | changes))


@cache
def oracle_and_ridge(seed: int) -> tuple[float, float]:
    """Mean test rank IC of the oracle and of ridge on the demo's factors."""
    panel = market(seed=seed)
    panel = panel.with_factors(*alpha158.compute(panel.prices, settings()["factors"]))
    targets = next_returns(
        panel, horizon=1, offset=0, excess=False, median_class=False, limit_threshold=0.04
    )
    rows = np.arange(len(panel.dates) - TEST_DAYS, len(panel.dates) - 1)
    label = np.where(targets.valid, targets.returns, np.nan)
    oracle = panel.oracle[rows][:, None, :, 0]  # type: ignore[index]
    known = Predictions(
        signal_dates=panel.dates[rows],
        target_start=panel.dates[rows][:, None],
        target_end=panel.dates[rows + 1][:, None],
        tickers=panel.tickers,
        prediction=oracle,
        probability=np.full(oracle.shape, 0.5),
        label=label[rows],
        up=targets.up[rows],
        valid=targets.valid[rows] & np.isfinite(oracle),
    )
    history = BaselineInputs(
        dates=panel.dates,
        tickers=panel.tickers,
        returns=panel.returns,
        factors=panel.factors,
        label=label,
        up=targets.up,
        valid=targets.valid,
        training_days=np.arange(9, 594),
    )
    ridge = all_baselines(known, history, with_lightgbm=False)["ridge"]
    return score(known)["rank_ic"], score(ridge)["rank_ic"]


def test_prices_are_consistent_and_some_days_are_missing() -> None:
    panel = market()
    prices = panel.prices
    traded = np.isfinite(prices["close"])
    assert 0.97 < traded.mean() < 0.995
    assert sorted((~traded).cumprod(axis=0).sum(axis=0))[-2:] == pytest.approx([90, 180], abs=3)
    low, high = (prices[name][traded] for name in ("low", "high"))
    for name in ("open", "close"):
        assert (low <= prices[name][traded]).all()
        assert (prices[name][traded] <= high).all()
    assert (low > 0).all()
    assert (prices["volume"][traded] > 0).all()
    both = traded[1:] & traded[:-1]
    change = prices["close"][1:] / prices["close"][:-1] - 1
    np.testing.assert_array_equal(panel.returns[1:][both], change[both])
    assert np.isnan(panel.returns[1:][~both]).all()


def test_volatility_comes_in_clusters() -> None:
    found = []
    for seed in range(3):
        size = np.abs(np.nan_to_num(market(seed=seed).returns[1:])).mean(axis=1)
        found.append(np.corrcoef(size[:-1], size[1:])[0, 1])
    assert np.mean(found) > 0.08


def test_moves_that_feed_on_themselves_do_not_run_away() -> None:
    panel = market(weights={"flow": 0.0, "lag": 0.0, "spillover": 2.0})
    assert np.nanmax(np.abs(panel.returns)) < 0.3


def test_the_signal_is_between_stocks_and_moves_no_market() -> None:
    drift = np.nanmean(market().oracle[200:, :, 0], axis=1)  # type: ignore[index]
    assert np.abs(drift).mean() < 1e-4


def test_the_same_seed_gives_the_same_bits_and_more_days_change_none() -> None:
    one, again, longer = market(), market(), market(days=900)
    for name in one.prices:
        np.testing.assert_array_equal(one.prices[name], again.prices[name])
        np.testing.assert_array_equal(one.prices[name], longer.prices[name][:850])
    assert not np.array_equal(one.returns, market(seed=1).returns, equal_nan=True)
    np.testing.assert_array_equal(one.oracle, longer.oracle[:850])  # type: ignore[index]


def test_the_oracle_can_be_had_and_ridge_sees_little_of_it() -> None:
    oracle, ridge = zip(*(oracle_and_ridge(seed) for seed in range(5)))
    assert 0.13 < np.mean(oracle) < 0.17
    assert 0.12 < oracle[0] < 0.15
    assert np.mean(ridge) < 0.55 * np.mean(oracle)
    assert ridge[0] < 0.55 * oracle[0]


def test_without_its_signal_the_oracle_knows_nothing() -> None:
    silent = market(signal_strength=0.0)
    assert not np.nan_to_num(silent.oracle).any()


@pytest.mark.parametrize("effect", ["flow", "lag", "spillover"])
def test_every_planted_effect_can_be_had(effect: str) -> None:
    weights = {"flow": 0.0, "lag": 0.0, "spillover": 0.0, effect: 1.0}
    panel = market(weights=weights)
    expected, happened = panel.oracle[20:-1, :, 0], panel.returns[21:]  # type: ignore[index]
    known = np.isfinite(expected) & np.isfinite(happened)
    assert np.corrcoef(expected[known], happened[known])[0, 1] > 0.08


def test_an_unknown_effect_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weights are of \['flow', 'lag', 'spillover'\]"):
        market(weights={"flow": 1.0})


def test_the_signal_decays_over_days_and_the_oracle_foresees_how() -> None:
    panel = market(stocks=200, days=600)
    oracle, returns = panel.oracle, panel.returns
    assert oracle is not None
    rank_ic, slope = {}, {}
    for ahead in (1, 4, 8):
        expected, happened = oracle[20:-ahead, :, ahead - 1], returns[20 + ahead :]
        today = oracle[20:-ahead, :, 0]
        known = np.isfinite(today) & np.isfinite(happened)
        days = [
            spearmanr(now[its], later[its]).statistic
            for now, later, its in zip(today, happened, known)
        ]
        rank_ic[ahead] = np.mean(days)
        relative = happened - np.nanmean(happened, axis=1, keepdims=True)
        slope[ahead] = (expected * relative)[known].sum() / (expected**2)[known].sum()
    assert 0.35 < rank_ic[4] / rank_ic[1] < 0.65  # about half is left three days later
    assert abs(rank_ic[8]) < 0.3 * rank_ic[1]
    assert slope[1] == pytest.approx(1, abs=0.15)
    assert slope[4] == pytest.approx(1, abs=0.35)


def observed_impulse(panel: Panel, row: int) -> np.ndarray:
    """The impulse of a row, by the text of the module, from prices up to that row alone."""
    source = settings()["source"]
    close, volume = (panel.prices[name][: row + 1] for name in ("close", "volume"))
    change = close[1:] / close[:-1] - 1

    def surprise(day: int) -> np.ndarray:
        if day < demo.FIRST_SIGNAL:
            return np.zeros(len(panel.tickers))
        week = volume[day - 4 : day + 1]
        mean = np.nan_to_num(week).sum(axis=0) / np.isfinite(week).sum(axis=0).clip(1)
        return np.nan_to_num(np.log(week[-1] / mean).clip(-1.5, 1.5))

    z = (change[-1] - np.nanmean(change[-1])) / np.nanstd(change[-1])
    z = np.nan_to_num(z.clip(-3, 3))
    sector = np.arange(z.size) % source["sectors"]
    means = np.array([z[sector == s].mean() for s in range(source["sectors"])])
    effects = {
        "flow": -z * (np.clip(surprise(row) / 0.4, -2, 2) + 0.3) / 1.12,
        "lag": sum(surprise(row - lag) for lag in (4, 5, 6, 7)),
        "spillover": means[sector] / 0.42,
    }
    total = sum(source["weights"][name] * effect for name, effect in effects.items())
    return total - total.mean()


def observed_signal(panel: Panel, row: int) -> np.ndarray:
    """The oracle's first day again, from prices up to that row alone."""
    source = settings()["source"]
    kept = 0.5 ** (1 / source["half_life_days"])
    signal = np.zeros(len(panel.tickers))
    for day in range(demo.FIRST_SIGNAL, row + 1):
        signal = kept * signal + np.sqrt(1 - kept**2) * observed_impulse(panel, day)
        signal = signal.clip(-4, 4)
    close = panel.prices["close"][: row + 1]
    change = close[1:] / close[:-1] - 1
    size = source["signal_strength"] * np.nanstd(change[-10:], axis=1).mean()
    return np.where(np.isfinite(change[-1]), size * signal, np.nan)


def test_the_oracle_is_a_function_of_the_prices_up_to_its_day() -> None:
    panel = market()
    for row in (190, 300, 420):
        again = observed_signal(panel, row)
        np.testing.assert_allclose(panel.oracle[row, :, 0], again, atol=1e-12)  # type: ignore[index]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("stocks", 3),
        ("sectors", 0),
        ("sectors", 91),
        ("days", 10),
        ("missing_share", 1.0),
        ("missing_share", -0.1),
        ("listing_days", [850]),
        ("listing_days", [-1]),
        ("half_life_days", 0.0),
    ],
)
def test_settings_that_make_no_market_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"dataset.source.{setting}="):
        market(**{setting: value})
