"""Attention across the stocks of one day.

The cross-asset attention of Wang et al., "AlphaStock", KDD 2019, arXiv 1908.02646, here as encoder
layers of a transformer (Vaswani et al. 2017), with a forecast of each stock for a rank.

B batch, H horizon, N stocks, F factors, D width.
"""

from __future__ import annotations

from torch import nn

from stockformer.interface import Batch, Forecast
from stockformer.models.layers import EncoderLayer, Heads, cells


class CrossSection(nn.Module):
    """Each stock's factors of the signal day, and attention to the stocks known that day.

    The order of the stocks does not matter.
    """

    def __init__(
        self, *, width: int, layers: int, heads: int, dropout: float, horizon: int, factors: int
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(factors + 1, width), nn.GELU(), nn.Dropout(dropout))
        self.layers = nn.ModuleList(EncoderLayer(width, heads, dropout) for _ in range(layers))
        self.heads = Heads(width, horizon)

    def forward(self, batch: Batch) -> Forecast:
        stocks = self.embed(cells(batch)[:, :, -1])  # (B,N,D)
        for layer in self.layers:
            stocks = layer(stocks, batch.known[:, -1])
        return self.heads(stocks)
