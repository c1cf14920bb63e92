"""Processors learn from training days alone and leave the past as it was."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from stockformer.data import dataset
from stockformer.data.dataset import apply_processors
from stockformer.data.factors.processors import (
    KINDS,
    CrossSectional,
    Fill,
    Neutralise,
    Processor,
    RobustZScore,
    Select,
    Winsorise,
)
from stockformer.data.panel import Panel
from stockformer.data.targets import Targets, next_returns

DAYS, STOCKS, SEEN = 80, 30, slice(0, 50)


def market() -> Panel:
    random = np.random.default_rng(3)
    returns = random.normal(0, 0.02, (DAYS, STOCKS))
    factors = random.normal(size=(DAYS, STOCKS, 4)).astype(np.float32)
    factors[:-1, :, 2] -= 40 * returns[1:]  # tells the next return, upside down
    factors[random.random(factors.shape) < 0.1] = np.nan
    return Panel(
        dates=np.arange(DAYS).astype("datetime64[D]"),
        tickers=np.arange(STOCKS).astype(str),
        returns=returns,
        factors=factors,
        factor_names=("a", "b", "told", "d"),
        prices={
            "close": np.exp(random.normal(size=(DAYS, STOCKS))),
            "volume": np.exp(random.normal(size=(DAYS, STOCKS))),
        },
        sectors=np.array(["x", "y", ""])[np.arange(STOCKS) % 3],
    )


def targets_of(panel: Panel) -> Targets:
    return next_returns(
        panel, horizon=1, offset=0, excess=False, median_class=False, limit_threshold=0.04
    )


def run(processor: Any, panel: Panel) -> Panel:
    return processor.apply(panel, processor.fit(panel, targets_of(panel), SEEN))


PROCESSORS = [
    CrossSectional(kind="rank"),
    CrossSectional(kind="zscore", clip=3.0),
    Winsorise(share=0.05),
    RobustZScore(clip=3.0),
    Neutralise(sector=True, size=True),
    Select(names=[], count=2),
    Fill(forward=True),
]


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda p: type(p).__name__)
def test_the_future_does_not_move_the_past(processor: Any) -> None:
    panel = market()
    before = run(processor, panel)
    late = np.arange(DAYS) > 50
    noise = np.random.default_rng(9).normal(size=panel.factors.shape) * 1e6
    changed = replace(
        panel,
        factors=np.where(late[:, None, None], noise, panel.factors).astype(np.float32),
        returns=np.where(late[:, None], 0.5, panel.returns),
        prices={k: np.where(late[:, None], 7.0, v) for k, v in panel.prices.items()},
    )
    after = run(processor, changed)
    assert after.factor_names == before.factor_names
    np.testing.assert_array_equal(after.factors[:51], before.factors[:51])
    assert not np.array_equal(after.factors[51:], before.factors[51:], equal_nan=True)


def test_ranks_and_z_scores_are_of_the_day() -> None:
    for kind in ("rank", "zscore"):
        factors = run(CrossSectional(kind=kind, clip=9.0), market()).factors
        np.testing.assert_allclose(np.nanmean(factors, axis=1), 0, atol=1e-5)
        np.testing.assert_allclose(np.nanstd(factors, axis=1), 1, atol=0.05)
        assert np.array_equal(np.isnan(factors), np.isnan(market().factors))


def test_robust_z_scores_of_the_day() -> None:
    panel = market()
    factors = run(CrossSectional(kind="robust", clip=4.0), panel).factors
    day, column = 30, 1
    values = panel.factors[day, :, column].astype(float)
    centred = values - np.nanmedian(values)
    expected = centred / (1.4826 * np.nanmedian(np.abs(centred)))
    np.testing.assert_allclose(factors[day, :, column], expected.clip(-4, 4), rtol=1e-5, atol=1e-7)
    assert np.array_equal(np.isnan(factors), np.isnan(panel.factors))


def test_robust_z_scores_where_most_stocks_are_equal_or_none_is_known() -> None:
    panel = market()
    values = panel.factors.copy()
    values[10, :, 0], values[11, :, 0] = 3.0, np.nan
    values[10, 0, 0] = 9.0
    given = panel.with_factors(values, panel.factor_names)
    factors = run(CrossSectional(kind="robust", clip=4.0), given).factors
    assert (factors[10, :, 0] == 0).all()
    assert np.isnan(factors[11, :, 0]).all()


def test_outliers_are_cut_at_the_training_quantiles() -> None:
    panel = market()
    low, high = np.nanquantile(panel.factors[SEEN], (0.05, 0.95), axis=(0, 1))
    cut = run(Winsorise(share=0.05), panel).factors
    np.testing.assert_allclose(np.nanmin(cut, axis=(0, 1)), low, rtol=1e-5)
    np.testing.assert_allclose(np.nanmax(cut, axis=(0, 1)), high, rtol=1e-5)


def test_robust_scores_have_the_training_median_and_deviation_of_one() -> None:
    seen = run(RobustZScore(clip=9.0), market()).factors[SEEN]
    np.testing.assert_allclose(np.nanmedian(seen, axis=(0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanmedian(np.abs(seen), axis=(0, 1)), 1 / 1.4826, rtol=1e-4)
    constant = replace(market(), factors=np.ones((DAYS, STOCKS, 4), dtype=np.float32))
    assert not run(RobustZScore(clip=9.0), constant).factors.any()


def test_nothing_of_sector_and_size_is_left() -> None:
    panel = market()
    left = run(Neutralise(sector=True, size=True), panel).factors
    assert panel.sectors is not None
    for sector in np.unique(panel.sectors):
        mean = np.nanmean(left[:, panel.sectors == sector], axis=1)
        np.testing.assert_allclose(mean, 0, atol=1e-5)
    with pytest.raises(ValueError, match="has no sectors"):
        run(Neutralise(sector=True, size=False), replace(panel, sectors=None))


def test_the_factor_that_tells_is_selected_by_its_ic_or_by_name() -> None:
    panel = market()
    assert run(Select(names=[], count=1), panel).factor_names == ("told",)
    assert run(Select(names=["d", "a"], count=1), panel).factor_names == ("d", "a")
    with pytest.raises(ValueError, match="do not exist: \\['z'\\]"):
        run(Select(names=["z"], count=1), panel)


def test_the_ic_of_a_selection_is_spearmans() -> None:
    from stockformer.data.factors.processors import _mean_rank_ic

    panel, label = market(), targets_of(market()).returns[:40, 0]
    factor = panel.factors[:40, :, 2]
    days = [spearmanr(f, y, nan_policy="omit")[0] for f, y in zip(factor, label)]
    assert _mean_rank_ic(factor, label) == pytest.approx(np.mean(days), abs=0.02)


@pytest.mark.parametrize(
    "processor",
    [
        *(CrossSectional(kind=kind, clip=3.0) for kind in KINDS),
        Neutralise(sector=True, size=True),
        Fill(forward=True),
    ],
)
def test_a_stateless_processor_fits_nothing(processor: Processor) -> None:
    """Else what was fitted for one split would be taken from the cache for another."""
    assert processor.stateless
    panel = market()
    assert processor.fit(panel, targets_of(panel), SEEN) == {}


@pytest.mark.parametrize(
    "processors",
    [[CrossSectional(kind="rank"), Neutralise(sector=True, size=True)], [Fill(forward=True)]],
    ids=["neutral", "fill"],
)
def test_some_rows_alone_are_processed_as_all_of_them(processors: list[Processor]) -> None:
    panel, rows = market(), slice(60, 70)
    named = {str(place): processor for place, processor in enumerate(processors)}
    targets = targets_of(panel)
    whole, _ = apply_processors(panel, named, targets, SEEN)
    part, _ = apply_processors(panel, named, targets, SEEN, rows=rows)
    np.testing.assert_array_equal(part.factors[rows], whole.factors[rows])
    assert part.factors.shape == whole.factors.shape


PIPELINES: dict[str, list[Processor]] = {
    "rank": [CrossSectional(kind="rank"), Fill(forward=False)],
    "robust": [Winsorise(share=0.05), RobustZScore(clip=3.0), Fill(forward=True)],
    "neutral": [Neutralise(sector=True, size=True), Select(names=[], count=2), Fill(forward=True)],
    "none": [],
    "reordered": [CrossSectional(kind="rank"), Select(names=["d", "told", "a", "b"], count=1)],
}


@pytest.mark.parametrize("name", PIPELINES)
def test_blocks_of_days_are_processed_as_all_of_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = market()
    named = {str(place): processor for place, processor in enumerate(PIPELINES[name])}
    targets, before = targets_of(panel), panel.factors.copy()
    whole, states = apply_processors(panel, named, targets, SEEN)
    made: list[np.ndarray] = []

    def new_array(shape: tuple[int, ...], dtype: type[np.float32]) -> np.ndarray:
        made.append(np.full(shape, 7, dtype))
        return made[-1]

    monkeypatch.setattr(dataset, "BLOCK_CELLS", 7 * STOCKS * 4)
    parts, of_parts = apply_processors(panel, named, targets, SEEN, new_array=new_array)
    np.testing.assert_array_equal(parts.factors, whole.factors)
    assert parts.factor_names == whole.factor_names
    for key, state in states.items():
        for array in state:
            np.testing.assert_array_equal(of_parts[key][array], state[array])
    np.testing.assert_array_equal(panel.factors, before)  # the source's are never written to
    assert len(made) == {"neutral": 2, "none": 0}.get(name, 1)


def test_factors_in_another_order_keep_their_names() -> None:
    panel = market()
    named = {str(place): each for place, each in enumerate(PIPELINES["reordered"])}
    made, _ = apply_processors(panel, named, targets_of(panel), SEEN)
    assert made.factor_names == ("d", "told", "a", "b")
    ranked = run(PIPELINES["reordered"][0], panel).factors
    np.testing.assert_array_equal(made.factors, ranked[..., [3, 2, 0, 1]])


def test_a_processor_that_does_not_say_what_a_row_depends_on_is_refused() -> None:
    class Doubled:
        stateless = True
        earlier_rows = 0

        def fit(self, panel: Panel, targets: Targets, fit_rows: slice) -> dict[str, np.ndarray]:
            return {}

        def apply(self, panel: Panel, state: dict[str, np.ndarray]) -> Panel:
            return panel.with_factors(2 * panel.factors, panel.factor_names)

    panel = market()
    processors: Any = {"doubled": Doubled()}
    with pytest.raises(
        ValueError, match=r"processors\.doubled: Doubled has no attribute 'recursive'"
    ):
        apply_processors(panel, processors, targets_of(panel), SEEN)


def test_the_memory_that_processing_takes_is_that_of_blocks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With maps of files, whatever the number of days."""
    panel = market()
    large = np.lib.format.open_memmap(tmp_path / "in.npy", "w+", np.float32, (800, STOCKS, 200))
    large[:] = np.random.default_rng(0).normal(size=large.shape)
    panel = Panel(
        dates=np.arange(800).astype("datetime64[D]"),
        tickers=panel.tickers,
        returns=np.zeros((800, STOCKS)),
        factors=large,
        factor_names=tuple(map(str, range(200))),
    )
    monkeypatch.setattr(dataset, "BLOCK_CELLS", 20 * STOCKS * 200)
    targets = targets_of(panel)

    def mapped(shape: tuple[int, ...], dtype: type[np.float32]) -> np.ndarray:
        return np.lib.format.open_memmap(tmp_path / "out.npy", "w+", dtype, shape)

    for name in ("rank", "robust"):
        named = {str(place): processor for place, processor in enumerate(PIPELINES[name])}
        tracemalloc.start()
        apply_processors(panel, named, targets, slice(0, 400), new_array=mapped)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < large.nbytes / 2, f"{name}: {peak / large.nbytes:.2f} copies"
