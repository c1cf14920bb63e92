"""What a training step may cost, by counts and not by a clock: products, copies, kept memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import Size, extra_flops, masked_loss, model_flops, random_batch, stockformer

SIZE = Size(batch=2, lookback=8, horizon=2, stocks=16, factors=5, width=16)


class Copies(TorchDispatchMode):
    """Bytes of whole activations that are written by copying or joining alone."""

    NAMES = ("aten::copy_", "aten::clone", "aten::cat", "aten::_to_copy", "aten::stack")

    def __init__(self, at_least: int) -> None:
        super().__init__()
        self.at_least, self.found = at_least, list[tuple[str, tuple[int, ...]]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name().split(".")[0]
        if name in self.NAMES and out.numel() >= self.at_least:
            self.found.append((name, tuple(out.shape)))
        return out


def step_of(size: Size, **changes: object) -> Tensor:
    torch.manual_seed(0)
    batch = random_batch(size)
    return masked_loss(size)(stockformer(size, **changes)(batch), batch).total


def counted(size: Size, **changes: object) -> int:
    def product(_to: Any, a: Any, b: Any, **_: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    in_place = {torch.ops.aten.addmm_: product}  # which the counter does not know
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        step_of(size, **changes).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("size", [SIZE, SIZE._replace(stocks=40, lookback=9, layers=1)])
def test_a_step_does_the_products_of_the_formula_and_no_more(size: Size) -> None:
    assert counted(size) == model_flops(size) + extra_flops(size)


def test_checkpointing_computes_one_more_forward_pass_of_the_encoder() -> None:
    more = counted(SIZE, activation_checkpointing=True) / counted(SIZE)
    assert 1.2 < more < 1.4


def test_a_step_copies_few_whole_activations() -> None:
    activation = SIZE.batch * SIZE.lookback * SIZE.stocks * SIZE.width
    loss = step_of(SIZE)
    with Copies(activation) as backward:
        loss.backward()
    with Copies(activation) as forward:
        step_of(SIZE)
    # An attention writes its output and, backward, its three gradients where they belong.
    attentions = 3 * SIZE.layers
    assert len(forward.found) == attentions, forward.found
    assert len(backward.found) == 3 * attentions, backward.found


def kept(size: Size, **changes: object) -> int:
    """Bytes that the forward pass keeps for the backward pass, each storage once."""
    storages: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        step_of(size, **changes)
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def test_what_is_kept_is_linear_in_the_stocks() -> None:
    few, more, many = (kept(SIZE._replace(stocks=n)) for n in (100, 200, 400))
    assert (many - more) / (more - few) == pytest.approx(2.0, abs=0.01)


def test_a_layer_keeps_22_activations_or_two_with_checkpointing() -> None:
    size = SIZE._replace(stocks=1000, width=64)
    activation = 4 * size.batch * size.lookback * size.stocks * size.width

    def of_one_layer(checkpointing: bool) -> float:
        one, two = (
            kept(size._replace(layers=n), activation_checkpointing=checkpointing) for n in (1, 2)
        )
        return (two - one) / activation

    # Three packed attentions of 3 + 1 each, 3 MLPs' inputs and hidden layers, 4 of norms and sums.
    assert of_one_layer(False) == pytest.approx(22, abs=0.5)
    assert of_one_layer(True) == pytest.approx(2, abs=0.1)
