"""Where the time of a training step goes: python -m benchmarks.blocks [--quick]

Each block of the model runs forward and backward alone, on the inputs that it has in a step of
benchmarks/speed.py at the published size; the optimizer and the loss likewise. Counted: the
products that torch counts. Rate: their share of the rate of (B*L*N, D)(D, D) in the same type. The
blocks run in turns, and the best of each counts. Printed, nothing written.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.speed import (
    Size,
    counted_flops,
    masked_loss,
    random_batch,
    seconds_of,
    step_of,
    stockformer,
)
from stockformer.interface import Batch
from stockformer.models.stockformer import Stockformer
from stockformer.training.allocator import keep_freed_memory

# Title, and a module of the kind; the others are alike.
BLOCKS = {
    "embedding of inputs": "embed_low",
    "attention over days": "layers.0.temporal_low",
    "convolution over days": "layers.0.temporal_high",
    "attention across stocks": "layers.0.spatial_low",
    "fusion": "fusion",
}


class Work(NamedTuple):
    """times: how often a step has it."""

    action: Callable[[], object]
    times: int


def inputs_of(
    model: Stockformer, batch: Batch, names: list[str], bfloat16: bool
) -> dict[str, tuple[Tensor, ...]]:
    """What each module is given in a forward pass."""
    seen: dict[str, tuple[Tensor, ...]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = tuple(x.detach().clone() for x in inputs)

        return hook

    hooks = [model.get_submodule(n).register_forward_pre_hook(keep(n)) for n in names]
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        model(batch)
    for hook in hooks:
        hook.remove()
    return seen


def forward_backward(
    module: nn.Module, inputs: tuple[Tensor, ...], learned: bool, bfloat16: bool
) -> Callable[[], None]:
    """learned: whether the inputs come from layers that are trained."""
    first = inputs[0].requires_grad_(learned)

    def action() -> None:
        module.zero_grad()
        first.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out = module(*inputs)
        out.backward(out.detach())

    return action


def works(size: Size, bfloat16: bool) -> dict[str, Work]:
    torch.manual_seed(0)
    model, batch = stockformer(size), random_batch(size)
    seen = inputs_of(model, batch, list(BLOCKS.values()), bfloat16)
    found = {}
    for title, name in BLOCKS.items():
        learned = not name.startswith("embed")
        module = model.get_submodule(name)
        kind = [m for m in model.modules() if type(m) is type(module)]
        times = 2 if name.startswith("embed") else len(kind)
        found[title] = Work(forward_backward(module, seen[name], learned, bfloat16), times)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        masked_loss(size)(model(batch), batch).total.backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()

    found["clipping and Adam"] = Work(update, 1)
    found["the whole step"] = Work(step_of(size, bfloat16, False, False), 1)
    return found


def table(size: Size, bfloat16: bool, repeats: int) -> list[str]:
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    rows = torch.randn(size.batch * size.lookback * size.stocks, size.width).to(dtype)
    weight = torch.randn(size.width, size.width).to(dtype)
    several = 20
    found = works(size, bfloat16)
    counts = {title: work.times * counted_flops(work.action) for title, work in found.items()}
    best, product = dict.fromkeys(found, float("inf")), float("inf")
    for _ in range(repeats):
        product = min(product, seconds_of(lambda: [rows @ weight for _ in range(several)]))
        for title, work in found.items():
            best[title] = min(best[title], work.times * seconds_of(work.action))
    rate = several * 2 * rows.numel() * size.width / product
    whole = "the whole step"
    rest = [title for title in found if title != whole]
    best["mix of days, heads, loss, sums"] = best[whole] - sum(best[title] for title in rest)
    counts["mix of days, heads, loss, sums"] = counts[whole] - sum(counts[t] for t in rest)
    name = "bfloat16" if bfloat16 else "float32"
    lines = [f"| {name} | GFLOP | of the step's | seconds | of the step | rate |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for title in [*rest, "mix of days, heads, loss, sums", whole]:
        count, seconds = counts[title], best[title]
        lines.append(
            f"| {title} | {count / 1e9:.1f} | {count / counts[whole]:.0%} | {seconds:.3f} "
            f"| {seconds / best[whole]:.0%} | {count / seconds / rate:.0%} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small size")
    arguments = parser.parse_args()
    size = Size(batch=2, stocks=20, width=16) if arguments.quick else Size()
    keep_freed_memory()
    repeats = 2 if arguments.quick else 9
    print("\n".join([*table(size, False, repeats), "", *table(size, True, repeats)]))


if __name__ == "__main__":
    main()
