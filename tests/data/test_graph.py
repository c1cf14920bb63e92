"""Stock embeddings: what they see, and what they make of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stockformer.data.graph import FileGraph, LearnedGraph, NoGraph, SpectralGraph

DATES = np.arange("2020-01-01", "2020-12-31", dtype="datetime64[D]")
SECTORS = np.repeat([0, 1, 2], 8)


def sector_returns(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    market = random.normal(size=(len(DATES), 3))[:, SECTORS]
    return 0.01 * (market + random.normal(size=(len(DATES), len(SECTORS))))


def spectral() -> SpectralGraph:
    return SpectralGraph(neighbours=5, components=4, scale=0.1)


def test_stocks_of_one_sector_lie_close_together() -> None:
    returns = sector_returns()
    returns[np.random.default_rng(1).random(returns.shape) < 0.05] = np.nan
    values = spectral().fit(returns, DATES, width=6, seed=0).values
    assert values.shape == (24, 6)
    assert values.dtype == np.float32
    assert not values[:, 4:].any()
    np.testing.assert_allclose(values[:, :4].std(axis=0), 0.1, rtol=1e-5)
    distance = np.linalg.norm(values[:, None] - values[None], axis=-1)
    same = SECTORS[:, None] == SECTORS[None]
    assert distance[same].mean() < 0.5 * distance[~same].mean()


def test_the_order_of_stocks_does_not_matter() -> None:
    order = np.random.default_rng(2).permutation(24)
    one = spectral().fit(sector_returns(), DATES, 6, seed=0).values
    other = spectral().fit(sector_returns()[:, order], DATES, 6, seed=0).values
    gram = one @ one.T
    np.testing.assert_allclose((other @ other.T), gram[np.ix_(order, order)], atol=1e-5)


def test_the_same_returns_give_the_same_bits_and_the_last_date_is_told() -> None:
    one, other = (spectral().fit(sector_returns(), DATES, 6, seed=0) for _ in range(2))
    assert np.array_equal(one.values, other.values)
    assert one.last_date == "2020-12-30"
    assert not one.learned


def test_a_learned_graph_starts_small_and_no_graph_is_zero() -> None:
    learned = LearnedGraph(scale=0.1).fit(sector_returns(), DATES, 64, seed=0)
    assert learned.learned
    assert learned.values.std() == pytest.approx(0.1, rel=0.1)
    assert not NoGraph().fit(sector_returns(), DATES, 64, seed=0).values.any()


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(24, 6))
    np.save(tmp_path / "graph.npy", values)
    embedding = FileGraph(path=str(tmp_path / "graph.npy")).fit(sector_returns(), DATES, 6, 0)
    np.testing.assert_allclose(embedding.values, values, rtol=1e-6)
