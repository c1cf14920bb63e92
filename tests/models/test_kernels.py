"""Gradients written by hand against autograd's, and what a step of the model may cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.testing import assert_close

from stockformer.models import attention, kernels, strongest_attention
from stockformer.models.attention import causal_attention, causal_attention_by_library
from stockformer.models.strongest_attention import spread, strongest_attention_by_library

SHAPE = (3, 4, 2, 7, 3)  # queries, keys, values; groups, heads, positions, width of a head
BLOCKS = [1, 60, 1 << 20]  # one query at a time, some groups at a time, all at once


def across(packed: Tensor) -> Tensor:
    return spread(*strongest_attention.strongest_attention(packed))


def plain_attention(packed: Tensor, strongest: bool) -> Tensor:
    query, key, value = packed
    scores = query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5
    if not strongest:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return scores.masked_fill(later, -torch.inf).softmax(-1) @ value
    weights = scores.softmax(-1)
    index = weights.argmax(dim=-2)[..., None].expand_as(value)
    return (weights @ value).gather(-2, index)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("strongest", [False, True])
def test_attention_in_blocks_is_plain_attention(
    monkeypatch: pytest.MonkeyPatch, block: int, strongest: bool
) -> None:
    monkeypatch.setattr(attention, "SCORES", block)
    monkeypatch.setattr(strongest_attention, "COMPARED", block // 3)
    torch.manual_seed(0)
    packed = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    kernel = across if strongest else causal_attention
    weight = torch.randn(SHAPE[1:], dtype=torch.float64)
    mine, plain = kernel(packed), plain_attention(packed, strongest)
    assert_close(mine, plain)
    gradients = [torch.autograd.grad((out * weight).sum(), packed)[0] for out in (mine, plain)]
    assert_close(*gradients)
    assert gradcheck(kernel, packed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_group_alone_has_the_outputs_it_has_among_others(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    packed = torch.randn(3, 6, 1, 185, 16).to(dtype)
    packed[0, 0] *= 9  # the groups have different numbers of strongest queries
    together = across(packed)
    for group in range(6):
        assert torch.equal(across(packed[:, group : group + 1]), together[group : group + 1])


def test_only_the_strongest_queries_are_computed() -> None:
    torch.manual_seed(0)
    packed = torch.randn(3, 5, 2, 30, 4)
    rows, index = strongest_attention.strongest_attention(packed)
    used = index.unique()
    assert used.tolist() == list(range(len(used)))
    assert len(rows) < len(used) + strongest_attention.rounded(index.numel())  # the rest is padding
    assert len(rows) < 0.8 * index.numel()


def test_values_without_a_number_stay_in_their_group() -> None:
    torch.manual_seed(0)
    packed = torch.randn(3, 3, 1, 9, 4)
    packed[:, 1] = torch.nan
    out = across(packed.requires_grad_())
    assert out.isfinite().all(dim=(1, 2, 3)).tolist() == [True, False, True]
    out.sum().backward()
    assert packed.grad is not None
    assert packed.grad.isfinite().all(dim=(0, 2, 3, 4)).tolist() == [True, False, True]


@pytest.mark.parametrize("block", [40, 1 << 26])
@pytest.mark.parametrize("strongest", [False, True])
def test_what_a_gpu_takes_instead_is_the_same(
    monkeypatch: pytest.MonkeyPatch, block: int, strongest: bool
) -> None:
    monkeypatch.setattr(strongest_attention, "SCORES_ON_GPU", block)
    torch.manual_seed(0)
    packed = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(SHAPE[1:], dtype=torch.float64)
    if strongest:
        library = spread(*strongest_attention_by_library(packed))
    else:
        library = causal_attention_by_library(packed)
    plain = plain_attention(packed, strongest)
    assert_close(library, plain)
    gradients = [torch.autograd.grad((out * weight).sum(), packed)[0] for out in (library, plain)]
    assert_close(*gradients)


def plain_convolution(x: Tensor, layer: nn.Linear) -> Tensor:
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    return layer(torch.cat([before, x], dim=-1)).relu()


def kernel_cases() -> dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]]:
    layer = nn.Linear(5, 5).double()
    two_days = nn.Linear(10, 5).double()
    return {
        "linear_relu": (
            lambda x, y: kernels.linear_relu(x + y, layer),
            lambda x, y: layer(x + y).relu(),
        ),
        "add_linear": (
            lambda x, y: torch.cat(kernels.add_linear(x, y[:1], layer)),
            lambda x, y: torch.cat([x + y[:1], layer(x + y[:1])]),
        ),
        "add_norm": (
            lambda x, y: kernels.add_norm(1 * x, y),
            lambda x, y: nn.functional.layer_norm(x + y, (5,)),
        ),
        "causal_convolution": (
            lambda x, y: kernels.causal_convolution(x + y, two_days, dropout=0.0),
            lambda x, y: plain_convolution(x + y, two_days),
        ),
    }


@pytest.mark.parametrize("name", kernel_cases())
def test_a_kernel_is_the_plain_formula(name: str) -> None:
    torch.manual_seed(0)
    mine, plain = kernel_cases()[name]
    x, y = torch.randn(2, 4, 3, 5, dtype=torch.float64).requires_grad_().unbind(0)
    assert_close(mine(x, y), plain(x, y))
    assert gradcheck(mine, (x.detach().requires_grad_(), y.detach().requires_grad_()))


@pytest.mark.parametrize("name", ["linear_relu", "add_linear", "causal_convolution"])
def test_a_kernel_trains_its_layer(name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(10 if name == "causal_convolution" else 5, 5).double()
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    outs = {
        "linear_relu": lambda: (kernels.linear_relu(x, layer), layer(x).relu()),
        "add_linear": lambda: (kernels.add_linear(x, x[:1], layer)[1], layer(x + x[:1])),
        "causal_convolution": lambda: (
            kernels.causal_convolution(x, layer, 0.0),
            plain_convolution(x, layer),
        ),
    }[name]()
    mine, plain = (
        torch.autograd.grad(out.square().sum(), [layer.weight, layer.bias]) for out in outs
    )
    assert_close(mine, plain)


def test_dropout_drops_its_share_scales_the_rest_and_passes_no_gradient_where_it_dropped() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    x = torch.randn(20, 500, 8, requires_grad=True)
    whole = kernels.causal_convolution(x, layer, 0.0)
    positive = whole > 0
    dropped = kernels.causal_convolution(x, layer, 0.2)
    survived = (dropped > 0)[positive].double().mean().item()
    assert survived == pytest.approx(0.8, abs=0.01)
    assert_close(dropped[dropped > 0], whole[dropped > 0] / 0.8)
    (bias,) = torch.autograd.grad(dropped.sum(), [layer.bias])
    assert_close(bias, (dropped > 0).sum((0, 1)) / 0.8)


def test_arrays_of_rows_have_few_sizes() -> None:
    """Else freed memory fits no later array, and a training takes several times its step's."""
    generator = torch.Generator().manual_seed(0)
    rows, most = set(), set()
    for sharpness in torch.linspace(0, 8, 60):  # from many strongest queries to few
        packed = torch.randn(3, 4, 1, 185, 16, generator=generator) * sharpness.sqrt()
        found, index = strongest_attention.strongest_attention(packed)
        assert int(index.max()) < len(found)
        rows.add(len(found))
        strongest = strongest_attention.strongest_query(packed[0], packed[1])[:, 0]
        used = torch.zeros(4, 185, dtype=torch.bool).scatter_(1, strongest, True)
        most.add(strongest_attention.Padding.of(used).most)
    assert 3 < len(rows) <= strongest_attention.SIZES
    assert 3 < len(most) <= strongest_attention.SIZES
