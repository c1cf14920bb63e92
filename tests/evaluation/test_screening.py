"""Factors that know the future are named, and honest ones are not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from stockformer.evaluation.screening import PEAKS, TOO_GOOD, daily_rank_ic, likely_leaks, screen

DAYS, STOCKS = 250, 40


def market(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (T, N) with volatility that lasts and volumes that go with their size."""
    random = np.random.default_rng(seed)
    level = np.zeros((DAYS, STOCKS))
    for day in range(1, DAYS):
        level[day] = 0.9 * level[day - 1] + 0.25 * random.normal(size=STOCKS)
    returns = 0.02 * np.exp(0.5 * level) * random.normal(size=level.shape)
    volume = np.abs(returns) / 0.02 + random.exponential(size=level.shape)
    returns[0] = np.nan
    return returns, volume


def rolling(values: np.ndarray, days: int) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(np.nan_to_num(values), days, axis=0)
    result = np.full(values.shape, np.nan)
    result[days - 1 :] = windows.mean(axis=-1)
    return result


def honest(seed: int) -> dict[str, np.ndarray]:
    returns, volume = market(seed)
    noise = np.random.default_rng(seed + 100).normal(size=returns.shape)
    weak = np.roll(np.nan_to_num(returns), -1, axis=0) / 0.02
    return {
        "return": returns,
        "momentum": rolling(returns, 20),
        "volatility": rolling(np.abs(returns), 5),
        "volume": volume / rolling(volume, 20),
        "noise": noise,
        "constant": np.ones(returns.shape),
        "unknown": np.full(returns.shape, np.nan),
        "rank IC of 0.03": 0.03 * weak + noise,
    }


def early(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[1:], np.full((1, STOCKS), np.nan)])


def leaks(factors: dict[str, np.ndarray], seed: int) -> dict[str, str]:
    stacked = np.stack(list(factors.values()), axis=-1).astype(np.float32)
    found = likely_leaks(screen(stacked, list(factors), market(seed)[0]))
    return {leak.name: leak.reason for leak in found}


@pytest.mark.parametrize("seed", range(5))
def test_honest_factors_pass(seed: int) -> None:
    assert leaks(honest(seed), seed) == {}


LEAKING = {
    "return": "with the return 1 day later is +1.000",
    "momentum": "with the return 1 day later",
    "volatility": "with tomorrow's absolute return",
    "volume": "with tomorrow's absolute return",
}


@pytest.mark.parametrize("name", LEAKING)
def test_a_factor_a_day_early_is_named(name: str) -> None:
    assert LEAKING[name] in leaks({name: early(honest(0)[name])}, 0)[name]


def test_a_factor_that_peaks_at_tomorrow_below_the_line_is_named() -> None:
    returns = market(0)[0]
    noise = np.random.default_rng(1).normal(size=returns.shape)
    factor = 0.09 * np.nan_to_num(early(returns)) / 0.02 + noise
    stacked = factor[..., None].astype(np.float32)
    screened = screen(stacked, ["hint"], returns)
    assert PEAKS["return"] < screened["return", 1, "rank_ic"].iloc[0] < TOO_GOOD
    assert "tomorrow's return" in likely_leaks(screened)[0].reason
    assert likely_leaks(screened, limit=0.05)[0].reason.startswith("its rank IC with the return 1")


def test_a_later_day_counts_too_and_the_sign_does_not() -> None:
    later = -early(early(market(0)[0]))
    assert "with the return 2 days later is -1.000" in leaks({"later": later}, 0)["later"]


def test_rank_ics_are_spearmans_of_the_right_days() -> None:
    returns, volume = market(2)
    ics = daily_rank_ic(volume[..., None].astype(np.float32), returns)
    for lag, day in ((-5, 30), (-1, 30), (0, 30), (1, 30), (5, 30)):
        expected = spearmanr(volume[day], returns[day + lag]).statistic
        assert ics["return"][lag][day, 0] == pytest.approx(expected, abs=1e-5)
        expected = spearmanr(volume[day], np.abs(returns[day + lag])).statistic
        assert ics["absolute_return"][lag][day, 0] == pytest.approx(expected, abs=1e-5)
    assert np.isnan(ics["return"][5][-5:]).all()
    assert np.isnan(ics["return"][-1][:2]).all()


def test_only_members_count() -> None:
    returns, volume = market(3)
    member = np.zeros(returns.shape, bool)
    member[:, :20] = True
    factor = np.where(member, volume, early(returns))[..., None].astype(np.float32)
    assert likely_leaks(screen(factor, ["mixed"], returns))
    assert likely_leaks(screen(factor, ["mixed"], returns, member)) == []


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected returns by names"):
        screen(np.zeros((3, 2, 1), np.float32), ["a", "b"], np.zeros((3, 2)))
