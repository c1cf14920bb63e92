"""Both attentions of the encoder, with a gradient written by hand.

Queries, keys and values are the three parts of one tensor, the output of one linear layer, and the
gradient is one tensor too: no part is copied to another layout. The weights exist for one block of
groups and queries at a time and are recomputed in the backward pass, so that memory is linear in
the number of positions, and the search for the strongest query needs no second pass over scores.

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
SCORES_ON_GPU = 1 << 26  # larger, because every block costs kernel launches


def causal_attention(packed: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the positions up to the query's own.

    packed (3, G, E, S, d): queries, keys, values -> (G, E, S, d), in the order of their strides.
    """
    return attend(packed, strongest=False)


def strongest_attention(packed: Tensor) -> Tensor:
    """For every position as a key, the output of the query that attends to it most.

    With A = softmax(q k^T / sqrt(d)), position n gets (A v)[argmax over m of A[m, n]]; no gradient
    flows through the argmax. packed (3, G, E, S, d) -> (G, E, S, d), in the order of its strides.
    """
    return attend(packed, strongest=True)


def attend(packed: Tensor, *, strongest: bool) -> Tensor:
    """The library's flash kernels are the fastest on a GPU, the blocks below on the CPU."""
    if packed.is_cuda:
        return attention_by_library(packed, strongest)
    return Attention.apply(packed, strongest)


def attention_by_library(packed: Tensor, strongest: bool) -> Tensor:
    """The same by scaled_dot_product_attention, with a second pass over the scores."""
    query, key, value = packed
    mixtures = scaled_dot_product_attention(query, key, value, is_causal=not strongest)
    if not strongest:
        return mixtures
    return mixtures.gather(2, strongest_query(query, key)[..., None].expand_as(mixtures))


@torch.no_grad()
def strongest_query(query: Tensor, key: Tensor) -> Tensor:
    """For every key the query that attends to it most: (G, E, S, d) -> (G, E, S)."""
    groups, heads, length, size = query.shape
    rows = max(1, SCORES_ON_GPU // (groups * heads * length))
    best, where = [], []
    for first in range(0, length, rows):
        scores = query[:, :, first : first + rows] @ key.transpose(2, 3) * size**-0.5
        weights = scores.log_softmax(-1, torch.promote_types(key.dtype, torch.float32))
        most, query_of_most = weights.max(dim=2)
        best.append(most)
        where.append(query_of_most + first)
    block = torch.stack(best).argmax(0, keepdim=True)
    return torch.stack(where).gather(0, block)[0]


class Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, strongest: bool) -> Tensor:
        out = torch.empty_like(packed[0])
        chosen = packed.new_empty(packed.shape[1:4] if strongest else 0, dtype=torch.int64)
        for groups, rows in blocks(packed):
            query, key, value = (part.flatten(0, 1) for part in packed[:, groups])  # (gE,S,d)
            mixtures, best, where = [], [], []
            for row in rows:
                scores = scores_of(query, key, row, causal=not strongest)  # (gE,S,r)
                weights = scores.log_softmax(1, torch.promote_types(key.dtype, torch.float32))
                if strongest:  # compare logarithms, because small weights may tie
                    most, query_of_most = weights.max(-1)
                    best.append(most)
                    where.append(query_of_most + row.start)
                mixtures.append(weights.exp_().to(key.dtype).transpose(1, 2) @ value)
            mixture = joined(mixtures)
            if strongest:
                block = torch.stack(best).argmax(0, keepdim=True)
                index = torch.stack(where).gather(0, block)[0]  # (gE,S)
                chosen[groups] = index.view_as(chosen[groups])
                mixture = mixture.flatten(0, 1).index_select(0, stacked(index))
            out[groups] = mixture.view_as(out[groups])
        ctx.strongest = strongest
        ctx.save_for_backward(packed, chosen)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_out: Tensor) -> tuple[Tensor, None]:
        packed, chosen = ctx.saved_tensors
        gradient = torch.empty_like(packed)
        for groups, rows in blocks(packed):
            query, key, value = (part.flatten(0, 1) for part in packed[:, groups])
            to_mixture = to_out[groups].flatten(0, 1)  # (gE,S,d)
            if ctx.strongest:
                index = stacked(chosen[groups].flatten(0, 1))
                to_rows = to_mixture.flatten(0, 1)
                to_mixture = torch.zeros_like(to_rows).index_add_(0, index, to_rows)
                to_mixture = to_mixture.view_as(query)
            to_query, to_key, to_value = [], [], []
            for row in rows:
                weights = scores_of(query, key, row, causal=not ctx.strongest).softmax(1)
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
        return gradient, None


def blocks(packed: Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Slices of groups, and for each the slices of queries, to compute at once."""
    _, groups, heads, length, _ = packed.shape
    r = max(1, min(length, SCORES // (heads * length)))
    g = max(1, SCORES // (heads * length * r))
    rows = [slice(row, min(row + r, length)) for row in range(0, length, r)]
    return ((slice(group, group + g), rows) for group in range(0, groups, g))


def scores_of(query: Tensor, key: Tensor, row: slice, causal: bool) -> Tensor:
    """k q^T / sqrt(d) of some queries, (gE, S, r): a query's scores are a column."""
    scores = key @ query[:, row].transpose(1, 2)
    scores *= key.shape[-1] ** -0.5
    if causal:
        positions = torch.arange(key.shape[1], device=key.device)
        scores.masked_fill_(positions[:, None] > positions[row], -torch.inf)
    return scores


def stacked(index: Tensor) -> Tensor:
    """(g, S) rows of each group -> (gS) rows of the stacked groups."""
    first = index.shape[1] * torch.arange(index.shape[0], device=index.device)
    return (index + first[:, None]).flatten()


def joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def summed(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
