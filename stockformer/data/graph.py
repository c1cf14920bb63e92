"""Graphs of the stocks: an embedding (N, D) as input of the model, with a record of its fit.

Every graph has the same signature, `fit(panel, fit_rows, width, seed)`, and uses only those rows of
the panel, the training rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stockformer.data.panel import Panel
from stockformer.data.reading.files import Folder


@dataclass(frozen=True)
class Embedding:
    """values (N, D) float32; learned: whether they train with the model; last_date: the last date
    of the fit; sources: SHA-256 of files read, by name."""

    values: np.ndarray
    learned: bool
    last_date: str
    sources: Mapping[str, str] = field(default_factory=dict)


class SpectralGraph:
    """Spectral embedding of the graph of return correlations.

    Belkin and Niyogi, "Laplacian eigenmaps", Neural Computation 15 (2003), by scikit-learn. Two
    stocks are joined, with their correlation as weight, if one is among the other's `neighbours`
    closest and the correlation is above `threshold`. Missing returns count as the stock's mean.
    """

    def __init__(self, *, neighbours: int, threshold: float, components: int, scale: float) -> None:
        self.neighbours, self.threshold = neighbours, threshold
        self.components, self.scale = components, scale

    def fit(self, panel: Panel, fit_rows: slice, width: int, seed: int) -> Embedding:
        from sklearn.manifold import spectral_embedding  # noqa: PLC0415 (slow, seldom needed)

        if len(panel.tickers) < 4:
            raise ValueError(
                f"graph=spectral needs at least 4 stocks, got {len(panel.tickers)}; use graph=none"
            )
        correlation = _correlation(panel.returns[fit_rows])
        np.fill_diagonal(correlation, -np.inf)
        stocks = len(correlation)
        weakest = max(0, stocks - self.neighbours)
        near = correlation >= np.sort(correlation, axis=1)[:, weakest : weakest + 1]
        joined = (near | near.T) & (correlation > self.threshold)
        weights = np.where(joined, correlation, 0.0)
        weights += 1e-3  # keeps the graph connected, also for a stock without neighbours
        np.fill_diagonal(weights, 0.0)
        count = min(self.components, width, stocks - 2)
        values = np.zeros((stocks, width), dtype=np.float32)
        columns = spectral_embedding(weights, n_components=count, random_state=seed)
        values[:, :count] = self.scale * columns / columns.std(axis=0)
        return Embedding(values, learned=False, last_date=str(panel.dates[fit_rows][-1]))


class FileGraph:
    """An embedding (N, D) from a .npy file; the dates of its fit are unknown."""

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)

    def fit(self, panel: Panel, fit_rows: slice, width: int, seed: int) -> Embedding:
        folder = Folder(self.path.parent)
        values = folder.array(self.path.name)
        expected = (len(panel.tickers), width)
        if values.shape != expected:
            raise ValueError(
                f"{self.path}: shape {values.shape}, expected {expected} (stocks, model.width)"
            )
        broken = np.argwhere(~np.isfinite(values))
        if len(broken):
            row, column = broken[0]
            raise ValueError(
                f"{self.path}: {len(broken)} values are not finite, first in row {row}, "
                f"column {column}; recompute the embedding or use graph=spectral"
            )
        return Embedding(
            values.astype(np.float32),
            learned=False,
            last_date="unknown: from a file",
            sources=folder.hashes,
        )


class LearnedGraph:
    """A free vector for each stock, trained with the model."""

    def __init__(self, *, scale: float) -> None:
        self.scale = scale

    def fit(self, panel: Panel, fit_rows: slice, width: int, seed: int) -> Embedding:
        values = np.random.default_rng(seed).normal(0, self.scale, (len(panel.tickers), width))
        return Embedding(values.astype(np.float32), learned=True, last_date="none")


class NoGraph:
    """Zeros: stocks differ only by their inputs."""

    def fit(self, panel: Panel, fit_rows: slice, width: int, seed: int) -> Embedding:
        values = np.zeros((len(panel.tickers), width), dtype=np.float32)
        return Embedding(values, learned=False, last_date="none")


class SectorGraph:
    """A vector for each sector: equal within a sector, orthogonal between sectors."""

    def __init__(self, *, scale: float) -> None:
        self.scale = scale

    def fit(self, panel: Panel, fit_rows: slice, width: int, seed: int) -> Embedding:
        if panel.sectors is None:
            raise ValueError("graph=sector: the data set has no sectors; use graph=spectral")
        names, sector = np.unique(panel.sectors, return_inverse=True)
        if len(names) > width:
            raise ValueError(
                f"graph=sector: {len(names)} sectors do not fit into model.width={width}"
            )
        values = np.zeros((len(sector), width), dtype=np.float32)
        values[np.arange(len(sector)), sector] = self.scale
        return Embedding(values, learned=False, last_date="none")


def _correlation(returns: np.ndarray) -> np.ndarray:
    known = np.isfinite(returns)
    counts = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, returns - np.where(known, returns, 0).sum(axis=0) / counts, 0.0)
    length = np.sqrt((centred**2).sum(axis=0))
    unit = centred / np.where(length > 0, length, 1.0)
    return unit.T @ unit
