"""Attention across stocks: each position takes the output of the query that attends to it most.

With A = softmax(q k^T / sqrt(d)), position n gets (A v)[argmax over m of A[m, n]]. The argmax needs
the scores of all queries. The outputs, and the whole backward pass, are needed for those queries
alone that are the strongest of some position, and only they are computed: u of all, 1 + 6u products
of N x N x D instead of 7. No gradient flows through the argmax.

The rows of different groups are laid side by side, padded to the most of a block of groups, so that
a block is one batched product. Memory is linear in the number of positions.

G groups that attend among themselves, E heads, S positions, d = D/E; g groups and r queries at
once; K = gE; U the most rows of a group, R all rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, scaled_dot_product_attention

from stockformer.models import attention
from stockformer.models.attention import blocks, joined

COMPARED = 1 << 18  # logarithms at once of one group: in float32 1 MiB, a core's own cache
SIZES = 16  # numbers of rows of arrays, from which a step takes one
SCORES_ON_GPU = 1 << 26  # larger than on the CPU, because every block costs kernel launches


def strongest_attention(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of the strongest queries, and which of them each position takes.

    packed (3, G, E, S, d): queries, keys, values -> rows (R, d), the last ones perhaps padding, and
    index (G, E, S) into them; `spread` gives every position its row. On a GPU all queries' outputs
    are computed: the library's flash kernels are the fastest there, and the host need not wait for
    the number of rows. Likewise where tensors have no content, to count what a step keeps at most.
    """
    if packed.device.type != "cpu" or without_content():
        return strongest_attention_by_library(packed)
    rows, index = StrongestAttention.apply(packed)
    return rows, index


def without_content() -> bool:
    """Whether torch only follows the shapes of fake tensors, other than to export."""
    fake = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
    return fake is not None and not torch.compiler.is_exporting()


def spread(rows: Tensor, index: Tensor) -> Tensor:
    """rows[index]: (R, D), (...) -> (..., D)."""
    flat = index.flatten()
    on_cpu = rows.device.type == "cpu"
    out = Spread.apply(rows, flat) if on_cpu else rows.index_select(0, flat)
    return out.view(*index.shape, -1)


def strongest_attention_by_library(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The same by scaled_dot_product_attention, with a second pass over the scores."""
    query, key, value = packed
    mixtures = scaled_dot_product_attention(query, key, value).flatten(0, 2)
    index = strongest_query(query, key)
    first = index.shape[-1] * torch.arange(index[..., 0].numel(), device=index.device)
    return mixtures, index + first.view(*index.shape[:2], 1)


@torch.no_grad()
def strongest_query(query: Tensor, key: Tensor) -> Tensor:
    """For every key the query that attends to it most: (G, E, S, d) -> (G, E, S)."""
    groups, heads, length, _ = query.shape
    r = max(1, SCORES_ON_GPU // (groups * heads * length))
    return strongest_of(scaled(query), key, [slice(row, row + r) for row in range(0, length, r)])[0]


def strongest_of(query: Tensor, key: Tensor, rows: list[slice]) -> tuple[Tensor, Tensor]:
    """For every key the strongest of the scaled queries, and the scores of the last of `rows`."""
    best, where = list[Tensor](), list[Tensor]()
    several = max(1, COMPARED // key.shape[-2])
    for row in rows:
        scores = query[..., row, :] @ key.transpose(-1, -2)  # (...,r,S)
        for i, some in enumerate(scores.split(several, -2)):
            # Logarithms are compared, because small weights may tie.
            weights = some.log_softmax(-1, torch.promote_types(key.dtype, torch.float32))
            most, query_of_most = weights.max(-2)
            best.append(most)
            where.append(query_of_most + (row.start + i * several))
    if len(best) == 1:
        return where[0], scores
    block = torch.stack(best).argmax(0, keepdim=True)
    return torch.stack(where).gather(0, block)[0], scores


def scaled(query: Tensor) -> Tensor:
    return query * query.shape[-1] ** -0.5


class StrongestAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> tuple[Tensor, Tensor]:
        index = packed.new_empty(packed.shape[1:4], dtype=torch.int64)
        used = torch.zeros_like(index, dtype=torch.bool)
        rows, count = [], 0
        for groups, parts in blocks(packed):
            query, key, value = (part.flatten(0, 1) for part in packed[:, groups])  # (K,S,d)
            query = scaled(query)
            strongest, scores = strongest_of(query, key, parts)
            used_here = torch.zeros_like(strongest, dtype=torch.bool).scatter_(1, strongest, True)
            padding = Padding.of(used_here)
            if len(parts) == 1:  # the scores of all queries are at hand
                mixtures = padding.pad(scores).softmax(-1) @ value  # (K,U,d)
            else:
                few = padding.pad(query)
                pieces = [weights_of(few[:, row], key) @ value for row in padding.blocks()]
                mixtures = joined(pieces)
            rows.append(padding.unpad(mixtures))
            used[groups] = used_here.view_as(used[groups])
            number = used_here.flatten().cumsum(0).view_as(strongest) + (count - 1)
            index[groups] = number.gather(1, strongest).view_as(index[groups])
            count = count + rows[-1].shape[0]
        rows.append(rows[0].new_zeros(-count % rounded(index.numel()), rows[0].shape[-1]))
        ctx.save_for_backward(packed, used)
        ctx.mark_non_differentiable(index)
        return torch.cat(rows), index

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_rows: Tensor, _to_index: None) -> Tensor:
        packed, used = ctx.saved_tensors
        gradient = torch.empty_like(packed)
        count = 0
        for groups, _ in blocks(packed):
            query, key, value = (part.flatten(0, 1) for part in packed[:, groups])
            padding = Padding.of(used[groups].flatten(0, 1))
            few = scaled(padding.pad(query))  # (K,U,d)
            to_mixtures = padding.with_zeros(to_rows[count : count + len(padding.rows)])
            to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
            to_few = []
            for row in padding.blocks():
                weights = weights_of(few[:, row], key)  # (K,r,S)
                to_mixture = to_mixtures[:, row]
                to_value = torch.baddbmm(to_value, weights.transpose(1, 2), to_mixture)
                to_scores = torch.ops.aten._softmax_backward_data(
                    to_mixture @ value.transpose(1, 2), weights, -1, weights.dtype
                )
                to_key = torch.baddbmm(to_key, to_scores.transpose(1, 2), few[:, row])
                to_few.append(to_scores @ key)
            of_rows = scaled(padding.unpad(joined(to_few)))
            to_query = torch.zeros_like(to_key).flatten(0, 1)
            to_query.index_copy_(0, padding.rows, of_rows)
            for whole, part in zip(gradient, (to_query, to_key, to_value)):
                whole[groups] = part.view_as(whole[groups])
            count += len(padding.rows)
        return gradient


def weights_of(few: Tensor, key: Tensor) -> Tensor:
    """softmax(q k^T) of some scaled queries, (K, r, S)."""
    return (few @ key.transpose(1, 2)).softmax(-1)


def rounded(length: int) -> int:
    """The unit in rows of a number of rows: arrays of a few sizes fill the gaps of each other."""
    return 8 * -(-length // (8 * SIZES))


class Padding(NamedTuple):
    """Some rows of each of K groups, padded to U, the most of a group.

    rows (R,) of the K·S, in order; slots (R,) their places among the K·U.
    """

    rows: Tensor
    slots: Tensor
    groups: int
    length: int
    most: int

    @classmethod
    def of(cls, used: Tensor) -> Padding:
        """used (K, S): which rows.

        U is a multiple of `rounded`, at least 8: a product of very few rows may round otherwise.
        """
        groups, length = used.shape
        place = used.cumsum(1)
        unit = rounded(length)
        units = cast(int, place[:, -1].max().add(unit - 1).floor_divide(unit).item())
        torch._check(units >= 1)  # what an exporter must know
        rows = used.flatten().nonzero()[:, 0]
        first = unit * units * torch.arange(groups, device=used.device) - 1
        slots = (place + first[:, None]).flatten()[rows]
        return cls(rows, slots, groups, length, unit * units)

    def blocks(self) -> list[slice]:
        """Slices of the U rows whose scores are held at once."""
        r = max(1, attention.SCORES // (self.groups * self.length))
        if torch.compiler.is_exporting():  # how many rows there will be is not known
            return [slice(0, self.most)]
        return [slice(row, min(row + r, self.most)) for row in range(0, self.most, r)]

    def pad(self, x: Tensor) -> Tensor:
        """(K, S, d) -> (K, U, d), the group's first row in the padding."""
        first = self.length * torch.arange(self.groups, device=x.device)
        index = first[:, None].expand(-1, self.most).flatten()
        index = index.index_copy(0, self.slots, self.rows)
        return x.flatten(0, 1).index_select(0, index).view(self.groups, self.most, -1)

    def with_zeros(self, x: Tensor) -> Tensor:
        """(R, d) -> (K, U, d), 0 in the padding, so that no gradient comes from there."""
        whole = x.new_zeros(self.groups * self.most, x.shape[-1]).index_copy_(0, self.slots, x)
        return whole.view(self.groups, self.most, -1)

    def unpad(self, x: Tensor) -> Tensor:
        """(K, U, d) -> (R, d)."""
        return x.flatten(0, 1).index_select(0, self.slots)


class Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = rows.shape[0]
        return rows.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_out: Tensor) -> tuple[Tensor, None]:
        """Sums by row; on several threads and in a fixed order, which index_add is not."""
        (index,) = ctx.saved_tensors
        order = index.argsort(stable=True)
        ends = index.bincount(minlength=ctx.count).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])
        sums = embedding_bag(order, to_out, starts, mode="sum", include_last_offset=True)
        return sums, None
