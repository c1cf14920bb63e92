"""What a training step may cost, by counts and not by a clock: products, copies, kept memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speed import (
    Size,
    counted_flops,
    masked_loss,
    model_flops,
    our_flops,
    random_batch,
    stockformer,
)
from stockformer.models import stockformer as stockformer_model
from stockformer.models.strongest_attention import Padding

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
    return counted_flops(lambda: step_of(size, **changes).backward())


class StrongestQueries:
    """How many queries each attention across stocks computes outputs of, forward."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.rows, self.padded = list[int](), list[int]()
        attention = stockformer_model.strongest_attention
        of = Padding.of

        def observed(packed: Tensor) -> tuple[Tensor, Tensor]:
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(Padding, "of", self.padding_of(of))
                self.padded.append(0)
                rows, index = attention(packed)
            self.rows.append(len(rows))
            return rows, index

        patch.setattr(stockformer_model, "strongest_attention", observed)

    def padding_of(self, of: Callable[[Tensor], Padding]) -> Callable[[Tensor], Padding]:
        def padding(used: Tensor) -> Padding:
            made = of(used)
            self.padded[-1] += made.groups * made.most
            return made

        return padding


@pytest.mark.parametrize(
    "size", [SIZE._replace(stocks=40), SIZE._replace(stocks=50, lookback=9, layers=1)]
)
def test_a_step_does_the_products_of_the_formula_and_no_more(
    monkeypatch: pytest.MonkeyPatch, size: Size
) -> None:
    strongest = StrongestQueries(monkeypatch)
    flops = counted(size)
    assert len(strongest.rows) == 2 * size.layers
    assert flops == our_flops(size, strongest.rows, strongest.padded)
    cells = size.batch * size.lookback * size.stocks
    assert max(strongest.padded) < 0.9 * cells


def test_without_a_strongest_query_to_share_nothing_is_saved_but_scores_are_computed_anew() -> None:
    cells = SIZE.batch * SIZE.lookback * SIZE.stocks
    every = [cells] * 4
    anew = SIZE.layers * cells * (SIZE.lookback + 2 * SIZE.stocks)
    anew += SIZE.batch * SIZE.stocks * SIZE.horizon**2
    assert our_flops(SIZE, every, every) == model_flops(SIZE) + 2 * SIZE.width * anew


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
    # Attention over days writes its output where it belongs, and all attentions their gradients.
    assert len(forward.found) == SIZE.layers, forward.found
    assert len(backward.found) == 3 * 3 * SIZE.layers, backward.found


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
    assert (many - more) / (more - few) == pytest.approx(2.0, abs=0.03)


def test_a_layer_keeps_20_activations_and_two_of_the_strongest_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = SIZE._replace(stocks=1000, width=64)
    cells = size.batch * size.lookback * size.stocks
    strongest = StrongestQueries(monkeypatch)

    def of_one_layer(checkpointing: bool) -> float:
        one, two = (
            kept(size._replace(layers=n), activation_checkpointing=checkpointing) for n in (1, 2)
        )
        return (two - one) / (4 * cells * size.width)

    plain = of_one_layer(False)
    share = sum(strongest.rows[-2:]) / (2 * cells)
    # Three packed attentions of 3, 3 MLPs' inputs and hidden layers, 4 of norms and sums, and the
    # outputs of attention over days and of the strongest queries.
    assert plain == pytest.approx(20 + 2 * share, abs=0.5)
    assert share < 0.6
    assert of_one_layer(True) == pytest.approx(2, abs=0.1)
