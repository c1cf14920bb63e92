"""A multilayer perceptron on the whole window of each stock.

Feed-forward networks of ReLU layers as in Gu, Kelly and Xiu, "Empirical asset pricing via machine
learning", Review of Financial Studies 33 (2020); here with layers of one width and dropout.

B batch, L lookback, H horizon, N stocks, F factors, D width.
"""

from __future__ import annotations

from torch import nn

from stockformer.interface import Batch, Forecast
from stockformer.models.layers import Heads, cells


class MLP(nn.Module):
    """Each stock alone; every day of the window is an input of its own."""

    def __init__(
        self, *, width: int, layers: int, dropout: float, lookback: int, horizon: int, factors: int
    ) -> None:
        super().__init__()
        inputs = [lookback * (factors + 1), *[width] * (layers - 1)]
        hidden = [(nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout)) for size in inputs]
        self.hidden = nn.Sequential(*(module for layer in hidden for module in layer))
        self.heads = Heads(width, horizon)

    def forward(self, batch: Batch) -> Forecast:
        return self.heads(self.hidden(cells(batch).flatten(2)))  # (B,N,L*(F+1)) -> (B,N,D)
