"""A transformer encoder over the days of each stock.

Vaswani et al., "Attention is all you need", NeurIPS 2017, arXiv 1706.03762. The norm comes before
each part, as in Xiong et al., arXiv 2002.04745, which needs no warm-up of the learning rate. The
state of the signal day is the forecast's; the window has no future to mask.

B batch, L lookback, H horizon, N stocks, F factors, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from stockformer.interface import Batch, Forecast
from stockformer.models.layers import EncoderLayer, Heads, cells, sinusoids


class Transformer(nn.Module):
    """Each stock alone."""

    positions: Tensor

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        lookback: int,
        horizon: int,
        factors: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(factors + 1, width)
        self.register_buffer("positions", sinusoids(lookback, width), persistent=False)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.heads = Heads(width, horizon)

    def forward(self, batch: Batch) -> Forecast:
        x = cells(batch)  # (B,N,L,F+1)
        days = self.embed(x).flatten(0, 1) + self.positions  # (B*N,L,D)
        for layer in self.layers:
            days = layer(days)
        return self.heads(self.norm(days[:, -1]).view(*x.shape[:2], -1))
