"""A gated recurrent unit over the days of each stock.

Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine
translation", EMNLP 2014, arXiv 1406.1078; the last state is the forecast's.

B batch, L lookback, H horizon, N stocks, F factors, D width.
"""

from __future__ import annotations

from torch import nn

from stockformer.interface import Batch, Forecast
from stockformer.models.layers import Heads, cells


class GRU(nn.Module):
    """Each stock alone. dropout: of each layer's outputs."""

    def __init__(
        self, *, width: int, layers: int, dropout: float, horizon: int, factors: int
    ) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.encoder = nn.GRU(factors + 1, width, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.heads = Heads(width, horizon)

    def forward(self, batch: Batch) -> Forecast:
        x = cells(batch)  # (B,N,L,F+1)
        states, _ = self.encoder(x.flatten(0, 1))  # (B*N,L,D)
        return self.heads(self.dropout(states[:, -1]).view(*x.shape[:2], -1))
