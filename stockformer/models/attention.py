"""Attention over days, with a gradient written by hand.

Queries, keys and values are the three parts of one tensor, the output of one linear layer, and the
gradient is one tensor too: no part is copied to another layout. The weights exist for one block of
groups and queries at a time and are recomputed in the backward pass, so that memory is linear in
the number of positions.

G groups that attend among themselves, E heads, S positions, d = D/E;
g groups and r queries at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

SCORES = 1 << 20  # held at once: in float32 4 MiB, which fits into the cache


def causal_attention(packed: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the positions up to the query's own.

    packed (3, G, E, S, d): queries, keys, values -> (G, E, S, d), in the order of their strides.
    The library's flash kernels are the fastest on a GPU, the blocks below on the CPU.
    """
    if packed.device.type != "cpu":
        return causal_attention_by_library(packed)
    return CausalAttention.apply(packed)


def causal_attention_by_library(packed: Tensor) -> Tensor:
    query, key, value = packed
    return scaled_dot_product_attention(query, key, value, is_causal=True)


class CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> Tensor:
        out = torch.empty_like(packed[0])
        for groups, rows in blocks(packed):
            query, key, value = (part.flatten(0, 1) for part in packed[:, groups])  # (gE,S,d)
            parts = [weights_of(query, key, row).transpose(1, 2) @ value for row in rows]
            out[groups] = joined(parts).view_as(out[groups])
        ctx.save_for_backward(packed)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_out: Tensor) -> Tensor:
        (packed,) = ctx.saved_tensors
        gradient = torch.empty_like(packed)
        for groups, rows in blocks(packed):
            query, key, value = (part.flatten(0, 1) for part in packed[:, groups])
            to_mixture = to_out[groups].flatten(0, 1)  # (gE,S,d)
            to_query, to_key, to_value = [], [], []
            for row in rows:
                weights = weights_of(query, key, row)
                to_value.append(weights @ to_mixture[:, row])
                to_scores = value @ to_mixture[:, row].transpose(1, 2)  # (gE,S,r)
                to_scores -= (to_scores * weights).sum(1, keepdim=True)
                to_scores *= weights
                to_scores *= key.shape[-1] ** -0.5
                to_query.append(to_scores.transpose(1, 2) @ key)
                to_key.append(to_scores @ query[:, row])
            parts = joined(to_query), summed(to_key), summed(to_value)
            for whole, part in zip(gradient, parts):
                whole[groups] = part.view_as(whole[groups])
        return gradient


def blocks(packed: Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Slices of groups, and for each the slices of queries, to compute at once."""
    _, groups, heads, length, _ = packed.shape
    parts = max(1, heads * length**2 // SCORES)  # about equal, and each less than 2 SCORES
    r = -(-length // parts)
    g = max(1, SCORES // (heads * length * r))
    rows = [slice(row, min(row + r, length)) for row in range(0, length, r)]
    return ((slice(group, group + g), rows) for group in range(0, groups, g))


def weights_of(query: Tensor, key: Tensor, row: slice) -> Tensor:
    """softmax(k q^T / sqrt(d)) of some queries, (gE, S, r): a query's weights are a column."""
    scores = key @ query[:, row].transpose(1, 2)
    scores *= key.shape[-1] ** -0.5
    positions = torch.arange(key.shape[1], device=key.device)
    scores.masked_fill_(positions[:, None] > positions[row], -torch.inf)
    return scores.softmax(1)


def joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def summed(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
