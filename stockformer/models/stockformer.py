"""Multitask-Stockformer: returns in two wavelet bands, attention over days and across stocks.

Ma, Xue, Lu and Chen, "Stockformer: a price-volume factor stock selection model based on wavelet
transform and multi-task self-attention networks", arXiv 2401.06139.

B batch, L lookback, H horizon, N stocks, F factors, D width, E heads.
Inside, time comes first, (L, B, N, D), so that attention over days and across stocks need no copy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.checkpoint import checkpoint

from stockformer.interface import Batch, Forecast
from stockformer.models.attention import causal_attention
from stockformer.models.kernels import add_linear, add_norm, causal_convolution, linear_relu
from stockformer.models.layers import require_divisible
from stockformer.models.strongest_attention import spread, strongest_attention
from stockformer.models.wavelet import band_matrices


class MLP(nn.Sequential):
    """Linear, ReLU, linear."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))

    def ends(self) -> tuple[nn.Linear, nn.Linear]:
        first, _, last = self
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        return first, last

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.ends()
        return last(linear_relu(x, first))

    def in_full_precision(self, x: Tensor) -> Tensor:
        """The last layer always in full precision: with bfloat16's 8 bits, forecasts would tie."""
        first, last = self.ends()
        hidden = linear_relu(x, first)
        with torch.autocast(x.device.type, enabled=False):
            return last(hidden.to(last.weight.dtype))


def attend_over_days(packed: Tensor, heads: int) -> Tensor:
    """(L, B, N, 3D) queries, keys and values -> (L, B, N, D); views, except for the attention."""
    days, batch, stocks, width = packed.shape
    parts = packed.view(days, batch * stocks, 3, heads, -1).permute(2, 1, 3, 0, 4)
    return causal_attention(parts).permute(2, 0, 1, 3).reshape(days, batch, stocks, width // 3)


def attend_across_stocks(packed: Tensor, heads: int, output: nn.Linear) -> Tensor:
    """(L, B, N, 3D) queries, keys and values -> output(attention), (L, B, N, D)."""
    days, batch, stocks, width = packed.shape
    parts = packed.view(days * batch, stocks, 3, heads, -1).permute(2, 0, 3, 1, 4)
    # On the CPU the number of rows differs from step to step: a compiler would compile each.
    across = uncompiled_output_across if packed.device.type == "cpu" else output_across
    return across(parts, output).view(days, batch, stocks, width // 3)


def output_across(parts: Tensor, output: nn.Linear) -> Tensor:
    """(3, G, E, N, d) -> output(attention), (G, N, D)."""
    rows, index = strongest_attention(parts)
    if parts.shape[2] == 1:  # stocks share rows: the product is needed once for each
        return spread(output(rows), index.squeeze(1))
    return output(spread(rows, index).transpose(1, 2).flatten(2))


uncompiled_output_across = torch.compiler.disable(output_across)


class TemporalAttention(nn.Module):
    """Low band: causal attention over the L days of each stock."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feedforward = MLP(width, width, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        z, packed = add_linear(x, time, self.query_key_value)  # (L,B,N,D), (L,B,N,3D)
        u = add_norm(self.output(attend_over_days(packed, self.heads)), z)
        return add_norm(self.feedforward(u), u)


class TemporalConvolution(nn.Module):
    """High band: a causal convolution over days of kernel size 2, yesterday and today."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.yesterday_today = nn.Linear(2 * width, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return causal_convolution(x, self.yesterday_today, self.dropout if self.training else 0.0)


class SparseSpatialAttention(nn.Module):
    """Attention across the N stocks of one day; each stock keeps the output of only one query."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feedforward = MLP(width, width, width)

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        z, packed = add_linear(x, graph, self.query_key_value)  # (L,B,N,D), (L,B,N,3D)
        u = add_norm(attend_across_stocks(packed, self.heads, self.output), z)
        return self.feedforward(u)


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
    """Causal attention over the H days of each stock; queries from the low band, keys and values
    from the high band."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.feedforward = MLP(width, width, width)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        packed = torch.cat(
            [self.query(low), linear_relu(high, self.key_value)], dim=-1
        )  # (H,B,N,3D)
        u = add_norm(self.output(attend_over_days(packed, self.heads)), low)
        return add_norm(self.feedforward(u), u)  # (H,B,N,D)


class Stockformer(nn.Module):
    """Predicts each stock's next H returns and directions from L days of all N stocks.

    calendar_slots: size of each of the two one-hot calendar codes; values are taken modulo it.
    activation_checkpointing: keep only the inputs of each encoder layer for the backward pass and
    recompute the rest: the same numbers with less memory and more time.
    factors, graph (N, D) and learn_graph come from the data.
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
        activation_checkpointing: bool,
        factors: int,
        graph: Tensor,
        learn_graph: bool,
    ) -> None:
        super().__init__()
        require_divisible(width, heads)
        self.lookback, self.calendar_slots = lookback, calendar_slots
        self.activation_checkpointing = activation_checkpointing
        for name, band in zip(("band_low", "band_high"), band_matrices(lookback, wavelet)):
            matrix = torch.as_tensor(band, dtype=torch.get_default_dtype())
            self.register_buffer(name, matrix, persistent=False)
        if learn_graph:
            self.graph = nn.Parameter(graph)
        else:
            self.register_buffer("graph", graph)
        self.embed_low = MLP(factors + 2, width, width)
        self.embed_high = MLP(factors + 2, width, width)
        self.embed_time = MLP(sum(calendar_slots), width, width)
        self.layers = nn.ModuleList(DualEncoderLayer(width, heads, dropout) for _ in range(layers))
        self.days_low = nn.Linear(lookback, horizon)
        self.days_high = nn.Linear(lookback, horizon)
        self.fusion = AdaptiveFusion(width, heads)
        self.head_class = MLP(width, width, 2)
        self.head_return = MLP(width, width, 1)

    @property
    def idle(self) -> tuple[str, ...]:
        """Parameters without gradient: attention over a single day does not depend on them."""
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
            inputs = (h_low, h_high, time[: self.lookback], self.graph)
            if self.activation_checkpointing and torch.is_grad_enabled():
                h_low, h_high = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                h_low, h_high = layer(*inputs)
        ahead = time[self.lookback :]
        h_low = mix_days(h_low, self.days_low) + ahead  # (H,B,N,D)
        h_high = mix_days(h_high, self.days_high) + ahead
        fused = self.fusion(h_low, h_high)
        head_return = self.head_return.in_full_precision
        head_class = self.head_class.in_full_precision
        return Forecast(
            returns=head_return(fused).squeeze(-1).transpose(0, 1),  # (B,H,N)
            logits=head_class(fused).transpose(0, 1),  # (B,H,N,2)
            returns_low=head_return(h_low).squeeze(-1).transpose(0, 1),
            logits_low=head_class(h_low).transpose(0, 1),
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
