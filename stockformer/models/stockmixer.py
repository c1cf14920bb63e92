"""StockMixer: MLPs that mix indicators, then days at several scales, then stocks.

Fan and Shen, "StockMixer: a simple yet strong MLP-based architecture for stock price forecasting",
AAAI 2024. The paper's five indicators are mixed as they are; here factors may be many, so a linear
layer makes D channels of them first.

The weights of the stock mixing belong to places in the list of stocks: a permutation of the stocks
is another model, and a new stock needs another training.

B batch, L lookback, H horizon, N stocks, F factors, D width, S steps of all scales together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import hardswish, linear

from stockformer.interface import Batch, Forecast
from stockformer.models.layers import Heads, cells


class IndicatorMixing(nn.Module):
    """Mixes the D channels of a day."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Sequential(
            nn.Linear(width, width), nn.Hardswish(), nn.Dropout(dropout), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(x))  # (B,N,steps,D)


class CausalLinear(nn.Linear):
    """A linear layer over steps in which a step sees itself and those before it."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.tril(), self.bias)


class TimeMixing(nn.Module):
    """Mixes the days of a channel at one scale: steps of `scale` days, the oldest that fill no step
    left out."""

    def __init__(self, width: int, lookback: int, scale: int, dropout: float) -> None:
        super().__init__()
        self.scale, self.steps = scale, lookback // scale
        self.patch = nn.Conv1d(width, width, scale, stride=scale)
        self.norm = nn.LayerNorm(width)
        self.first = CausalLinear(self.steps, self.steps)
        self.second = CausalLinear(self.steps, self.steps)
        self.dropout = nn.Dropout(dropout)
        self.indicators = IndicatorMixing(width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (B,N,L,D) -> (B,N,steps,D)."""
        days = x[:, :, -self.steps * self.scale :].flatten(0, 1).transpose(1, 2)  # (B*N,D,L)
        patches = self.patch(days).transpose(1, 2).unflatten(0, x.shape[:2])  # (B,N,steps,D)
        hidden = hardswish(self.first(self.norm(patches).transpose(2, 3)))
        mixed = self.second(self.dropout(hidden)).transpose(2, 3)
        return self.indicators(patches + mixed)


class StockMixing(nn.Module):
    """Mixes the stocks: N to `market` hidden states of the market and back."""

    def __init__(self, stocks: int, market: int) -> None:
        super().__init__()
        self.to_market = nn.Linear(stocks, market)
        self.to_stocks = nn.Linear(market, stocks)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """x (B,N,S), known (B,N): stocks that enter the market's state -> (B,N,S)."""
        shares = known.to(x.dtype) / known.sum(dim=1, keepdim=True).clamp(min=1)  # (B,N)
        apart = x - torch.einsum("bns,bn->bs", x, shares)[:, None]
        variance = torch.einsum("bns,bn->bs", apart.square(), shares)[:, None]
        normed = apart * (variance + 1e-5).rsqrt() * known[..., None]
        return self.to_stocks(hardswish(self.to_market(normed.transpose(1, 2)))).transpose(1, 2)


class StockMixer(nn.Module):
    """market: hidden states between the stocks; scales: days of a step, each its own time mixing.

    A stock that is not known on the signal day does not enter the market's state.
    """

    def __init__(
        self,
        *,
        width: int,
        market: int,
        scales: list[int],
        dropout: float,
        lookback: int,
        horizon: int,
        factors: int,
        stocks: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(factors + 1, width)
        self.indicators = IndicatorMixing(width, dropout)
        self.times = nn.ModuleList(TimeMixing(width, lookback, s, dropout) for s in scales)
        self.channels = nn.Linear(width, 1)
        steps = sum(lookback // scale for scale in scales)
        self.stocks = StockMixing(stocks, market)
        self.heads = Heads(2 * steps, horizon)

    def forward(self, batch: Batch) -> Forecast:
        x = self.indicators(self.embed(cells(batch)))  # (B,N,L,D)
        x = torch.cat([mixing(x) for mixing in self.times], dim=2)  # (B,N,S,D)
        own = self.channels(x).squeeze(-1)  # (B,N,S)
        market = self.stocks(own, batch.known[:, -1])
        return self.heads(torch.cat([own, market], dim=-1))
