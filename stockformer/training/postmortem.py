"""Finds the tensors that are not finite, by repeating the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from stockformer.interface import Batch
from stockformer.training.losses import Loss


def nonfinite_tensors(model: nn.Module, loss: Loss, batch: Batch) -> list[str]:
    """Names of inputs, weights, module outputs, loss and gradients that are not finite, in order.

    `batch` is on the model's device. The parameters keep the gradient of this batch.
    """
    found = [f"batch.{name}" for name, value in _tensors(batch) if not value.isfinite().all()]
    found += [f"weight {n}" for n, value in model.named_parameters() if not value.isfinite().all()]

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if any(not value.isfinite().all() for _, value in _tensors(output)):
                found.append(f"output of {name or 'the model'}")

        return hook

    hooks = [m.register_forward_hook(note(name)) for name, m in model.named_modules()]
    try:
        model.zero_grad(set_to_none=True)
        total = loss(model(batch), batch).total
        if not total.isfinite():
            found.append("loss")
        total.backward()
    finally:
        for handle in hooks:
            handle.remove()
    gradients = ((name, p.grad) for name, p in model.named_parameters())
    return found + [
        f"gradient of {name}" for name, g in gradients if g is not None and not g.isfinite().all()
    ]


def _tensors(value: object) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tensor, a sequence of them, or one of our dataclasses."""
    if isinstance(value, Tensor):
        yield "", value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "__dataclass_fields__"):
        for f in fields(value):  # type: ignore[arg-type]
            for _, tensor in _tensors(getattr(value, f.name)):
                yield f.name, tensor
