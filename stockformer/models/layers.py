"""What several models share: their inputs, attention, and the heads of both tasks.

B batch, L lookback, H horizon, N stocks, F factors, D width, E heads.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from stockformer.interface import Batch, Forecast


def cells(batch: Batch) -> Tensor:
    """[return in percent | factors] of each stock and day, (B, N, L, F+1)."""
    columns = torch.cat([100 * batch.returns[..., None], batch.factors], dim=-1)  # (B,L,N,F+1)
    return columns.transpose(1, 2)


class Heads(nn.Module):
    """Returns and directions of the H target days from one state of each stock."""

    def __init__(self, width: int, horizon: int) -> None:
        super().__init__()
        self.head_return = nn.Linear(width, horizon)
        self.head_class = nn.Linear(width, 2 * horizon)

    def forward(self, state: Tensor) -> Forecast:
        """state (B, N, D). In full precision: with bfloat16's 8 bits, forecasts would tie."""
        with torch.autocast(state.device.type, enabled=False):
            state = state.to(self.head_return.weight.dtype)
            returns = self.head_return(state)  # (B,N,H)
            logits = self.head_class(state).unflatten(-1, (-1, 2))  # (B,N,H,2)
        return Forecast(returns=returns.transpose(1, 2), logits=logits.transpose(1, 2))


class Recurrent(nn.Module):
    """Each stock alone; its last state is the forecast's. dropout: of each layer's outputs."""

    cell: ClassVar[type[nn.GRU | nn.LSTM]]

    def __init__(
        self, *, width: int, layers: int, dropout: float, horizon: int, factors: int
    ) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.encoder = self.cell(factors + 1, width, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.heads = Heads(width, horizon)

    def forward(self, batch: Batch) -> Forecast:
        x = cells(batch)  # (B,N,L,F+1)
        states, _ = self.encoder(x.flatten(0, 1))  # (B*N,L,D)
        return self.heads(self.dropout(states[:, -1]).view(*x.shape[:2], -1))


class Attention(nn.Module):
    """Scaled dot-product attention with several heads, in groups of S positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        require_divisible(width, heads)
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """x (G, S, D); only positions in known (G, S) are attended to -> (G, S, D)."""
        packed = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))  # (G,S,3,E,D/E)
        query, key, value = packed.permute(2, 0, 3, 1, 4)  # (G,E,S,D/E)
        mask = None if known is None else unknown_as_least(known, query.dtype)[:, None, None]
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Attention, then a position-wise feedforward network, each on the norm of its input and added
    to it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feedforward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """x (G, S, D), known (G, S) -> (G, S, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), known))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


def unknown_as_least(known: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where known, else the least number; added to scores, it leaves positions out of a softmax.

    Not minus infinity, which is NaN after the softmax where nothing is known.
    """
    return torch.zeros(known.shape, dtype=dtype, device=known.device).masked_fill(
        ~known, torch.finfo(dtype).min
    )


def sinusoids(length: int, width: int) -> Tensor:
    """The position code (length, D) of Vaswani et al. 2017, section 3.5."""
    rate = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2) / width)
    angle = torch.arange(length)[:, None] * rate  # (L, D/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


def require_divisible(width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        raise ValueError(f"model.width={width} must be a multiple of model.heads={heads}")
