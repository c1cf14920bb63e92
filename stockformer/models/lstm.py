"""A long short-term memory over the days of each stock.

Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9 (1997); for stock returns
as in Fischer and Krauss, "Deep learning with long short-term memory networks for financial market
predictions", European Journal of Operational Research 270 (2018): the last state is the forecast's.

B batch, L lookback, H horizon, N stocks, F factors, D width.
"""

from __future__ import annotations

from torch import nn

from stockformer.interface import Batch, Forecast
from stockformer.models.layers import Heads, cells


class LSTM(nn.Module):
    """Each stock alone. dropout: of each layer's outputs."""

    def __init__(
        self, *, width: int, layers: int, dropout: float, horizon: int, factors: int
    ) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.encoder = nn.LSTM(factors + 1, width, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.heads = Heads(width, horizon)

    def forward(self, batch: Batch) -> Forecast:
        x = cells(batch)  # (B,N,L,F+1)
        states, _ = self.encoder(x.flatten(0, 1))  # (B*N,L,D)
        return self.heads(self.dropout(states[:, -1]).view(*x.shape[:2], -1))
