"""Multitask-Stockformer: returns in two wavelet bands, attention over days and across stocks.

Ma, Xue, Lu and Chen, "Stockformer: a price-volume factor stock selection model based on wavelet
transform and multi-task self-attention networks", arXiv 2401.06139.

B batch, L lookback, H horizon, N stocks, F factors, D width, E heads.
Inside, time comes first, (L, B, N, D): attention over days and across stocks are then both views.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, one_hot, relu, scaled_dot_product_attention

from stockformer.interface import Batch, Forecast
from stockformer.models.wavelet import band_matrices

SCORE_BLOCK = 1 << 23  # scores held at once while looking for the strongest query: 32 MiB


def mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


def norm(x: Tensor) -> Tensor:
    """Layer norm over D without affine parameters."""
    return layer_norm(x, x.shape[-1:])


def over_days(x: Tensor, heads: int) -> Tensor:
    """(L, B, N, D) -> (B*N, E, L, D/E), a view."""
    return x.view(x.shape[0], -1, heads, x.shape[-1] // heads).permute(1, 2, 0, 3)


def over_stocks(x: Tensor, heads: int) -> Tensor:
    """(L, B, N, D) -> (L*B, E, N, D/E), a view."""
    return x.view(-1, x.shape[2], heads, x.shape[-1] // heads).transpose(1, 2)


class TemporalAttention(nn.Module):
    """Low band: causal attention over the L days of each stock."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feedforward = mlp(width, width, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        z = x + time  # (L,B,N,D)
        query, key, value = (
            over_days(part, self.heads) for part in self.query_key_value(z).split(z.shape[-1], -1)
        )
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        attended = attended.permute(2, 0, 1, 3).reshape(z.shape)
        u = norm(self.output(attended) + z)
        return norm(self.feedforward(u) + u)


class TemporalConvolution(nn.Module):
    """High band: a causal convolution over days of kernel size 2, yesterday and today."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.yesterday_today = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        yesterday, today = self.yesterday_today.weight.chunk(2, dim=1)
        mixed = linear(x, today, self.yesterday_today.bias)  # (L,B,N,D)
        mixed[1:] += linear(x[:-1], yesterday)
        return self.dropout(relu(mixed))


class SparseSpatialAttention(nn.Module):
    """Attention across the N stocks of one day, each stock keeping one query's mixture only."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feedforward = mlp(width, width, width)

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        z = x + graph  # (L,B,N,D)
        query, key, value = (
            over_stocks(part, self.heads) for part in self.query_key_value(z).split(z.shape[-1], -1)
        )
        mixtures = scaled_dot_product_attention(query, key, value)  # (LB,E,N,D/E), one a query
        strongest = strongest_query(query, key)[..., None].expand_as(mixtures)
        chosen = mixtures.gather(2, strongest).transpose(1, 2).reshape(z.shape)
        return self.feedforward(norm(self.output(chosen) + z))


@torch.no_grad()
def strongest_query(query: Tensor, key: Tensor) -> Tensor:
    """For every key the query that gives it most of its attention: (G, E, N, d) -> (G, E, N).

    The comparison is between normalised weights, not raw scores. In log space that is the score
    less the query's log-sum-exp, so blocks of queries do and the (N, N) matrix is never whole.
    """
    groups, heads, stocks, size = query.shape
    key = key.transpose(2, 3) * size**-0.5
    rows = max(1, SCORE_BLOCK // (groups * heads * stocks))
    best, where = [], []
    for first in range(0, stocks, rows):
        scores = query[:, :, first : first + rows] @ key
        scores -= scores.logsumexp(-1, keepdim=True)
        weight, index = scores.max(dim=2)
        best.append(weight)
        where.append(index + first)
    block = torch.stack(best).argmax(0, keepdim=True)
    return torch.stack(where).gather(0, block)[0]


class DualEncoderLayer(nn.Module):
    """One encoder layer of both bands: over time, then across stocks, added."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.temporal_low = TemporalAttention(width, heads)
        self.temporal_high = TemporalConvolution(width, dropout)
        self.spatial_low = SparseSpatialAttention(width, heads)
        self.spatial_high = SparseSpatialAttention(width, heads)

    def forward(
        self, low: Tensor, high: Tensor, time: Tensor, graph: Tensor
    ) -> tuple[Tensor, Tensor]:
        low = self.temporal_low(low, time)
        high = self.temporal_high(high)
        return low + self.spatial_low(low, graph), high + self.spatial_high(high, graph)


class AdaptiveFusion(nn.Module):
    """The low band asks, the high band answers: causal attention over the H days of each stock."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.feedforward = mlp(width, width, width)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        query = over_days(self.query(low), self.heads)
        key, value = (
            over_days(part, self.heads)
            for part in relu(self.key_value(high)).split(low.shape[-1], -1)
        )
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        u = norm(self.output(attended.permute(2, 0, 1, 3).reshape(low.shape)) + low)
        return norm(self.feedforward(u) + u)  # (H,B,N,D)


class Stockformer(nn.Module):
    """Predicts each stock's next H returns and directions from L days of all N stocks.

    calendar_slots: size of each of the two one-hot calendar codes; values are taken modulo it.
    factors, graph (N, D) and learn_graph are facts of the run, known once the data are.
    """

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        lookback: int,
        horizon: int,
        wavelet: str,
        calendar_slots: tuple[int, int],
        factors: int,
        graph: Tensor,
        learn_graph: bool,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"model.width={width} must be a multiple of model.heads={heads}")
        self.lookback, self.calendar_slots = lookback, calendar_slots
        for name, band in zip(("band_low", "band_high"), band_matrices(lookback, wavelet)):
            matrix = torch.as_tensor(band, dtype=torch.get_default_dtype())
            self.register_buffer(name, matrix, persistent=False)
        if learn_graph:
            self.graph = nn.Parameter(graph)
        else:
            self.register_buffer("graph", graph)
        self.embed_low = mlp(factors + 2, width, width)
        self.embed_high = mlp(factors + 2, width, width)
        self.embed_time = mlp(sum(calendar_slots), width, width)
        self.layers = nn.ModuleList(DualEncoderLayer(width, heads, dropout) for _ in range(layers))
        self.days_low = nn.Linear(lookback, horizon)
        self.days_high = nn.Linear(lookback, horizon)
        self.fusion = AdaptiveFusion(width, heads)
        self.head_class = mlp(width, width, 2)
        self.head_return = mlp(width, width, 1)

    @property
    def idle(self) -> tuple[str, ...]:
        """Parameters that cannot learn: over a single day attention has nothing to choose."""
        only_day = self.days_low.out_features == 1
        return ("fusion.query.weight", "fusion.query.bias") if only_day else ()

    def forward(self, batch: Batch) -> Forecast:
        low = torch.einsum("kl,bln->bkn", self.band_low, batch.returns)
        high = torch.einsum("kl,bln->bkn", self.band_high, batch.returns)
        return self.forecast(low, high, batch.trend, batch.factors, batch.calendar)

    def forecast(
        self, low: Tensor, high: Tensor, trend: Tensor, factors: Tensor, calendar: Tensor
    ) -> Forecast:
        """low, high, trend (B,L,N); factors (B,L,N,F); calendar (B,L+H,2) integers."""
        time = self.time_embedding(calendar)  # (L+H,B,1,D)
        h_low = self.embed_low(self.window(low, trend, factors))  # (L,B,N,D)
        h_high = self.embed_high(self.window(high, trend, factors))
        for layer in self.layers:
            h_low, h_high = layer(h_low, h_high, time[: self.lookback], self.graph)
        ahead = time[self.lookback :]
        h_low = mix_days(h_low, self.days_low) + ahead  # (H,B,N,D)
        h_high = mix_days(h_high, self.days_high) + ahead
        fused = self.fusion(h_low, h_high)
        return Forecast(
            returns=self.head_return(fused).squeeze(-1).transpose(0, 1),  # (B,H,N)
            logits=self.head_class(fused).transpose(0, 1),  # (B,H,N,2)
            returns_low=self.head_return(h_low).squeeze(-1).transpose(0, 1),
            logits_low=self.head_class(h_low).transpose(0, 1),
        )

    def window(self, band: Tensor, trend: Tensor, factors: Tensor) -> Tensor:
        """[band | trend | factors], time first: (L,B,N,F+2)."""
        columns = torch.cat([band[..., None], trend[..., None], factors], dim=-1)
        return columns.transpose(0, 1).contiguous()

    def time_embedding(self, calendar: Tensor) -> Tensor:
        codes = [
            one_hot(calendar[..., i].remainder(slots), slots)
            for i, slots in enumerate(self.calendar_slots)
        ]
        code = torch.cat(codes, dim=-1).to(self.days_low.weight.dtype)
        return self.embed_time(code).transpose(0, 1).unsqueeze(2)


def mix_days(x: Tensor, days: nn.Linear) -> Tensor:
    """A learned mix of the L days into H days: (L,B,N,D) -> (H,B,N,D)."""
    mixed = torch.addmm(days.bias[:, None], days.weight, x.reshape(x.shape[0], -1))
    return mixed.view(-1, *x.shape[1:])
