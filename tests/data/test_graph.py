"""Stock embeddings: what they see, and what they make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockformer.data.graph import (
    Embedding,
    FileGraph,
    LearnedGraph,
    NoGraph,
    SectorGraph,
    SpectralGraph,
)
from stockformer.data.panel import Panel

DATES = np.arange("2020-01-01", "2020-12-31", dtype="datetime64[D]")
SECTORS = np.repeat([0, 1, 2], 8)


def sector_returns(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    market = random.normal(size=(len(DATES), 3))[:, SECTORS]
    return 0.01 * (market + random.normal(size=(len(DATES), len(SECTORS))))


def fit(
    graph: Any, returns: np.ndarray, width: int = 6, sectors: np.ndarray | None = None
) -> Embedding:
    panel = Panel(
        dates=DATES,
        tickers=np.arange(returns.shape[1]).astype(str),
        returns=returns,
        factors=np.zeros((*returns.shape, 0), dtype=np.float32),
        factor_names=(),
        sectors=sectors,
    )
    return graph.fit(panel, slice(0, 300), width, seed=0)


def spectral(threshold: float = 0.0) -> SpectralGraph:
    return SpectralGraph(neighbours=5, threshold=threshold, components=4, scale=0.1)


def test_stocks_of_one_sector_lie_close_together() -> None:
    returns = sector_returns()
    returns[np.random.default_rng(1).random(returns.shape) < 0.05] = np.nan
    values = fit(spectral(), returns).values
    assert values.shape == (24, 6)
    assert values.dtype == np.float32
    assert not values[:, 4:].any()
    np.testing.assert_allclose(values[:, :4].std(axis=0), 0.1, rtol=1e-5)
    distance = np.linalg.norm(values[:, None] - values[None], axis=-1)
    same = SECTORS[:, None] == SECTORS[None]
    assert distance[same].mean() < 0.5 * distance[~same].mean()


def test_the_order_of_stocks_does_not_matter() -> None:
    order = np.random.default_rng(2).permutation(24)
    one = fit(spectral(), sector_returns()).values
    other = fit(spectral(), sector_returns()[:, order]).values
    gram = one @ one.T
    np.testing.assert_allclose((other @ other.T), gram[np.ix_(order, order)], atol=1e-5)


def test_the_same_returns_give_the_same_bits_and_the_last_date_is_told() -> None:
    one, other = (fit(spectral(), sector_returns()) for _ in range(2))
    assert np.array_equal(one.values, other.values)
    assert one.last_date == str(DATES[299])
    assert not one.learned


def test_a_learned_graph_starts_small_and_no_graph_is_zero() -> None:
    learned = fit(LearnedGraph(scale=0.1), sector_returns(), 64)
    assert learned.learned
    assert learned.values.std() == pytest.approx(0.1, rel=0.1)
    assert not fit(NoGraph(), sector_returns(), 64).values.any()


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(24, 6))
    np.save(tmp_path / "graph.npy", values)
    embedding = fit(FileGraph(path=str(tmp_path / "graph.npy")), sector_returns())
    np.testing.assert_allclose(embedding.values, values, rtol=1e-6)


def test_a_threshold_leaves_only_close_stocks_joined() -> None:
    loose, strict = (fit(spectral(t), sector_returns()).values for t in (0.0, 0.9))
    assert not np.allclose(loose @ loose.T, strict @ strict.T)


def test_stocks_of_one_sector_share_a_vector() -> None:
    names = np.array(["a", "b", "c"])[SECTORS]
    values = fit(SectorGraph(scale=0.1), sector_returns(), sectors=names).values
    gram = values @ values.T
    np.testing.assert_allclose(gram, np.where(names[:, None] == names, 0.01, 0.0), atol=1e-8)
    with pytest.raises(ValueError, match="has no sectors"):
        fit(SectorGraph(scale=0.1), sector_returns())
    with pytest.raises(ValueError, match=r"3 sectors do not fit into model.width=2"):
        fit(SectorGraph(scale=0.1), sector_returns(), width=2, sectors=names)


def test_too_few_stocks_for_a_spectrum_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 stocks, got 3"):
        fit(spectral(), sector_returns()[:, :3])
