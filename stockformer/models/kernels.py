"""Steps of the model with gradients written by hand, to save memory and copies of autograd.

Each works in any float type and follows autocast like a linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


def operands(x: Tensor, layer: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias in the type of the products."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    return x.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype)


def linear_relu(x: Tensor, layer: nn.Linear) -> Tensor:
    """relu(layer(x)) in place; autograd would make a copy."""
    return LinearRelu.apply(*operands(x, layer))


class LinearRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = linear(x, weight, bias).relu_()
        ctx.save_for_backward(x, weight, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        to_sum = torch.ops.aten.threshold_backward(to_out, out, 0)
        rows = to_sum.flatten(0, -2)
        to_x = to_sum @ weight if ctx.needs_input_grad[0] else None
        return to_x, rows.t() @ x.flatten(0, -2), rows.sum(0)


def add_linear(x: Tensor, offset: Tensor, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """z = x + offset and layer(z); z is recomputed in the backward pass, not kept.

    x (..., D) is kept instead, which costs nothing if the previous step keeps it anyway.
    """
    x, weight, bias = operands(x, layer)
    return AddLinear.apply(x, offset.to(x.dtype), weight, bias)


class AddLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, offset, weight)
        z = x + offset
        return z, linear(z, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_z: Tensor, to_out: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, weight = ctx.saved_tensors
        rows = to_out.flatten(0, -2)
        to_x = torch.addmm(to_z.flatten(0, -2), rows, weight).view_as(x)
        to_offset = to_x.sum_to_size(offset.shape) if ctx.needs_input_grad[1] else None
        return to_x, to_offset, rows.t() @ (x + offset).flatten(0, -2), rows.sum(0)


def add_norm(x: Tensor, y: Tensor) -> Tensor:
    """Layer norm of x + y over the last axis, without affine parameters.

    x is overwritten. The backward pass uses the output, which the next linear layer keeps anyway,
    instead of the sum.
    """
    return AddNorm.apply(x, y)


class AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        out, _, inverse = torch.native_layer_norm(x.add_(y), x.shape[-1:], None, None, 1e-5)
        ctx.save_for_backward(out, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_out: Tensor) -> tuple[Tensor, Tensor]:
        out, inverse = ctx.saved_tensors
        # The gradient for an input of mean 0 and deviation 1, then divided by the real deviation.
        zero, one = torch.zeros_like(inverse), torch.ones_like(inverse)
        to_x, _, _ = torch.ops.aten.native_layer_norm_backward(
            to_out, out, out.shape[-1:], zero, one, None, None, [True, False, False]
        )
        to_x *= inverse
        return to_x, to_x


def causal_convolution(x: Tensor, layer: nn.Linear, dropout: float) -> Tensor:
    """dropout(relu(convolution)) over days, kernel size 2, zeros before the first day.

    x (L, ..., D). layer.weight (D, 2D): yesterday's columns, then today's. dropout: the
    probability, to 1/65,536. The backward pass derives the mask from the output.
    """
    return CausalConvolution.apply(*operands(x, layer), dropout)


class CausalConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dropout: float) -> Tensor:
        yesterday, today = weight.chunk(2, dim=1)
        out = linear(x, today, bias)
        out[1:].flatten(0, -2).addmm_(x[:-1].flatten(0, -2), yesterday.t())
        out.relu_()
        if dropout:
            out *= kept(out, dropout)
            out *= 1 / (1 - dropout)
        ctx.dropout = dropout
        ctx.save_for_backward(x, weight, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        yesterday, today = weight.chunk(2, dim=1)
        to_sum = torch.ops.aten.threshold_backward(to_out, out, 0)
        if ctx.dropout:
            to_sum *= 1 / (1 - ctx.dropout)
        rows, later = to_sum.flatten(0, -2), to_sum[1:].flatten(0, -2)
        to_x = to_sum @ today
        to_x[:-1].flatten(0, -2).addmm_(later, yesterday)
        to_weight = [later.t() @ x[:-1].flatten(0, -2), rows.t() @ x.flatten(0, -2)]
        return to_x, torch.cat(to_weight, dim=1), rows.sum(0), None


def kept(x: Tensor, dropout: float) -> Tensor:
    """A mask like x, False with probability `dropout`: 16 random bits an element, drawn by 64."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    words.random_(torch.iinfo(torch.int64).min, None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    return bits >= round(dropout * 2**16) - 2**15
