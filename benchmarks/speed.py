"""How fast and how small training is on this machine: python -m benchmarks.speed [--quick]

Each row is a process of its own, so that its peak memory is its own. A row takes the rate of a
matrix product (B*L*N, D)(D, D) and of whole training steps (model, loss, backward pass, clipping,
Adam) in turns, and gives the best of each: another process can only slow one. Utilisation is the
published operations in a step's time over that rate, and the same of the operations computed here,
as torch counts them: less in attention across stocks, more where they are computed anew. Writes
docs/performance.svg and the part of docs/performance.md between its markers.

--quick: few steps of a small size, printed only, nothing written.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.data import batch_ratio
from stockformer.interface import Batch
from stockformer.models.stockformer import Stockformer
from stockformer.training.allocator import keep_freed_memory
from stockformer.training.losses import MaskedLoss

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.svg"
BEGIN, END = "<!-- benchmarks/speed.py writes from here -->", "<!-- to here -->"
CALENDAR = (7, 31)
COMPILE_MODES = {"cuda": "reduce-overhead"}  # with CUDA graphs


class Size(NamedTuple):
    """What decides the arithmetic of a step; the defaults are the published sizes."""

    batch: int = 12
    lookback: int = 20
    horizon: int = 2
    stocks: int = 185
    factors: int = 22
    width: int = 128
    layers: int = 2


# How a row trains: weights are float32 in each.
MODES: dict[str, dict[str, bool]] = {
    "float32": {},
    "float32, checkpointing": {"checkpointing": True},
    "float32, compiled": {"compiled": True},
    "bfloat16": {"bfloat16": True},
    "bfloat16, checkpointing": {"bfloat16": True, "checkpointing": True},
    "bfloat16, compiled": {"bfloat16": True, "compiled": True},
}


def model_flops(size: Size) -> int:
    """Multiplications and additions of a step's matrix products, forward and backward.

    The published arithmetic, whole attention scores also where a mask hides them, each once: not
    counted are what a backward pass computes anew and the optimizer.
    """
    batch, lookback, horizon, stocks, factors, width, layers = size
    day = batch * stocks  # cells
    cells, ahead, square = lookback * day, horizon * day, width**2
    temporal = 6 * cells * square + 2 * lookback * cells * width
    convolution = (2 * cells - day) * square
    spatial = 6 * cells * square + 2 * stocks * cells * width
    days = batch * (lookback + horizon)
    inputs = 2 * cells * (factors + 2) * width + days * sum(CALENDAR) * width
    embedding = inputs + (2 * cells + days) * square
    mix = 2 * horizon * cells * width
    fusion = 6 * ahead * square + 2 * horizon * ahead * width
    heads = 2 * ahead * (2 * square + 3 * width)
    # Bands of inputs and targets have no backward pass; nor is there one to the inputs.
    bands = 2 * lookback * cells + horizon * ahead
    forward = layers * (temporal + convolution + 2 * spatial) + embedding + mix + fusion + heads
    return 2 * (3 * forward - inputs + bands)


def our_flops(size: Size, rows: Sequence[int], padded: Sequence[int]) -> int:
    """The same of what is computed here.

    rows: how many queries are the strongest of some stock, for each attention across stocks;
    padded: the same with padding (stockformer/models/strongest_attention.py). The others' outputs
    are left out, and every attention's backward pass computes its scores anew.
    """
    lookback, horizon, stocks, width = size.lookback, size.horizon, size.stocks, size.width
    day = size.batch * stocks
    cells = lookback * day
    again = width * (size.layers * lookback * cells + horizon**2 * day)
    queries = sum(padded) - len(padded) * cells
    outputs = sum(rows) - len(rows) * cells
    # Of seven products, scores and theirs anew included, only the first scores are of all queries.
    less = 6 * queries * stocks * width + 3 * outputs * width**2
    again += len(rows) * stocks * cells * width
    return model_flops(size) + 2 * (again + less)


def counted_flops(step: Callable[[], object]) -> int:
    """What torch counts while a step runs."""

    def product(_to: Any, a: Any, b: Any, **_: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    in_place = {torch.ops.aten.addmm_: product}  # which the counter does not know
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        step()
    return counter.get_total_flops()


def stockformer(size: Size, activation_checkpointing: bool = False) -> Stockformer:
    return Stockformer(
        width=size.width,
        layers=size.layers,
        heads=1,
        dropout=0.2,
        lookback=size.lookback,
        horizon=size.horizon,
        wavelet="sym2",
        calendar_slots=CALENDAR,
        activation_checkpointing=activation_checkpointing,
        factors=size.factors,
        graph=0.1 * torch.randn(size.stocks, size.width),
        learn_graph=False,
    )


def masked_loss(size: Size) -> MaskedLoss:
    return MaskedLoss(
        horizon=size.horizon,
        wavelet="sym2",
        error="absolute",
        low_band_return=True,
        regression_weight=1.0,
        classification_weight=1.0,
    )


def random_batch(size: Size) -> Batch:
    cells = (size.batch, size.lookback, size.stocks)
    ahead = (size.batch, size.horizon, size.stocks)
    returns, target = 0.02 * torch.randn(cells), 0.02 * torch.randn(ahead)
    values = {
        "returns": returns,
        "trend": (returns > 0).float(),
        "factors": torch.randn(*cells, size.factors),
        "calendar": torch.randint(0, 7, (size.batch, size.lookback + size.horizon, 2)),
        "target": target,
        "up": (target > 0).long(),
        "valid": torch.ones(ahead, dtype=torch.bool),
        "signal": torch.arange(size.batch),
        "known": torch.ones(cells, dtype=torch.bool),
    }
    # An earlier commit's batch (benchmarks/compare.py) may have fewer fields.
    return Batch(**{field.name: values[field.name] for field in fields(Batch)})


def step_of(
    size: Size, bfloat16: bool, checkpointing: bool, compiled: bool, device: str = "cpu"
) -> Callable[[], None]:
    """A whole training step on one random batch."""
    module = stockformer(size, checkpointing).to(device)
    model = torch.compile(module, mode=COMPILE_MODES.get(device)) if compiled else module
    loss, batch = masked_loss(size).to(device), random_batch(size).to(torch.device(device))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=device != "cpu")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            total = loss(model(batch), batch).total
        total.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        optimizer.step()

    return step


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def seconds_of(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure(
    size: Size,
    repeats: int,
    bfloat16: bool = False,
    checkpointing: bool = False,
    compiled: bool = False,
) -> dict[str, float]:
    """One row, in a process that has done nothing else."""
    keep_freed_memory()
    imported = peak_gib()
    torch.manual_seed(0)
    step = step_of(size, bfloat16, checkpointing, compiled)
    first = seconds_of(step)
    cells = size.batch * size.lookback * size.stocks
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    rows, weight = torch.randn(cells, size.width).to(dtype), torch.randn(size.width, size.width)
    product = 2 * cells * size.width**2
    several = min(200, max(3, round(1e11 / product)))  # at full size half a second in float32

    def products() -> None:
        for _ in range(several):
            rows @ weight.to(dtype)

    if repeats > 1:
        step()
    steps, rates = [], []
    for _ in range(repeats):
        rates.append(several * product / seconds_of(products))
        steps.append(seconds_of(step))
    seconds, rate, peak = min(steps), max(rates), peak_gib() - imported
    computed = counted_flops(step_of(size, bfloat16, checkpointing, False))
    return {
        "seconds": seconds,
        "rate": rate / 1e9,
        "utilisation": model_flops(size) / seconds / rate,
        "computed": computed / seconds / rate,
        "peak": peak,
        "first": first,
    }


def in_own_process(size: Size, repeats: int, **mode: bool) -> dict[str, float]:
    request = json.dumps({"size": size, "repeats": repeats, "mode": mode})
    command = [sys.executable, "-m", "benchmarks.speed", "--row", request]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


# Runs a program as its command line does and reports on its steps: until the first, or all of them.
PROBE = """
import json, os, runpy, sys, time
started, until_first, spans = time.perf_counter(), sys.argv[1] == "first", []
from torch.nn.modules.module import (
    register_module_forward_hook, register_module_forward_pre_hook)
from torch.optim.optimizer import register_optimizer_step_post_hook
def end(*_):
    spans[-1][1] = time.perf_counter()
    if until_first:
        raise SystemExit(0)
def pre(module, _):
    if type(module).__name__ == "Stockformer":
        spans.append([time.perf_counter(), 0.0])
register_module_forward_pre_hook(pre)
register_module_forward_hook(lambda m, *_: end() if type(m).__name__ == "Stockformer"
                             and not m.training else None)
register_optimizer_step_post_hook(end)
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("\\n" + json.dumps({"until_first": spans[0][1] - started, "spans": spans}))
"""


def probe(until: str, *overrides: str) -> dict[str, Any]:
    """train.py from outside: seconds to the end of its first step, or the spans of all passes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", PROBE, until, str(ROOT / "train.py"), *overrides]
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def bookkeeping(epochs: int, *overrides: str) -> float:
    """The share of an epoch, validation included, that is not spent in the model or its step."""
    spans = probe("all", f"trainer.max_epoch={epochs}", *overrides)["spans"]
    starts, ends = zip(*spans)
    # The test pass after the last epoch reads the best weights first: a pause that is no epoch's.
    pauses = [start - end for start, end in zip(starts[1:], ends)]
    last = len(pauses) - 1 - pauses[::-1].index(max(pauses[len(pauses) // 2 :]))
    work = sum(end - start for start, end in spans[: last + 1])
    return 1 - work / (ends[last] - starts[0])


def command_seconds(*arguments: str) -> float:
    """The least of three runs of train.py in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), *arguments]

        def run() -> None:
            subprocess.run(command, cwd=folder, capture_output=True, check=False)

        return min(seconds_of(run) for _ in range(3))


def table(title: str, rows: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        f"| {title} | step | GEMM rate | utilisation | of what is computed "
        "| peak above the imports |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        cells = f"{row['seconds']:.2f} s | {row['rate']:.0f} GFLOP/s | {row['utilisation']:.0%}"
        lines.append(f"| {name} | {cells} | {row['computed']:.0%} | {row['peak']:.2f} GiB |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def picture(modes: dict[str, dict[str, float]], stocks: dict[int, dict[str, float]]) -> str:
    """Utilisation by mode as bars, and peak memory against the number of stocks."""
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 270" font-family="sans-serif"'
        ' font-size="12" fill="#222"><rect width="760" height="270" fill="#fff"/>',
        '<text x="10" y="20" font-weight="bold">Share of the machine\'s GEMM rate</text>',
    ]
    for i, (name, row) in enumerate(modes.items()):
        top, length = 36 + 36 * i, 180 * row["utilisation"]
        out.append(f'<text x="10" y="{top + 16}">{name}</text>')
        out.append(f'<rect x="165" y="{top}" width="{length:.0f}" height="22" fill="#4c78a8"/>')
        out.append(f'<text x="{170 + length:.0f}" y="{top + 16}">{row["utilisation"]:.0%}</text>')
    out.append('<text x="420" y="20" font-weight="bold">Peak GiB by stocks, one window</text>')
    most, highest = max(stocks), max(row["peak"] for row in stocks.values())
    points = [
        (430 + 290 * n / most, 230 - 180 * row["peak"] / highest, n, row["peak"])
        for n, row in stocks.items()
    ]
    out.append('<path d="M430 40V230H740" fill="none" stroke="#999"/>')
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y, _, _ in points)
    out.append(f'<polyline points="{line}" fill="none" stroke="#e45756" stroke-width="2"/>')
    for x, y, n, peak in points:
        out.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="#e45756"/>')
        out.append(f'<text x="{x - 14:.0f}" y="{y - 9:.0f}">{peak:.2f}</text>')
        out.append(f'<text x="{x - 10:.0f}" y="248">{n}</text>')
    return "\n".join([*out, "</svg>\n"])


def measured_modes(size: Size, repeats: int) -> dict[str, dict[str, float]]:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    return {
        name: in_own_process(size, repeats, **mode)
        for name, mode in MODES.items()
        if compiler or not mode.get("compiled")
    }


def programs() -> list[str]:
    """What surrounds the steps: reading, starting, bookkeeping."""
    milliseconds, _, _ = batch_ratio(185, 22)
    figures = (
        ("loader, 185 stocks x 22 factors", f"{12e3 / milliseconds:,.0f} windows/s", ""),
        ("`train.py --help`", f"{command_seconds('--help'):.2f} s", "under 1.5 s"),
        ("a config error", f"{command_seconds('trainer.max_epochs=3'):.2f} s", "under 1.5 s"),
        (
            "`train.py`, cold, to its first step",
            f"{probe('first')['until_first']:.1f} s",
            "under 8 s",
        ),
        ("data and bookkeeping, demo", f"{bookkeeping(3):.1%} of an epoch", ""),
        (
            "the same with the full model",
            f"{bookkeeping(1, 'model=stockformer'):.1%} of an epoch",
            "under 5 %",
        ),
    )
    lines = ["| around the steps | measured | target |", "| --- | --- | --- |"]
    for figure in figures:
        lines.append("| {} | {} | {} |".format(*figure))
        print(lines[-1], flush=True)
    return lines


def write_page(lines: list[str]) -> None:
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text("\n".join([before + BEGIN, "", *lines, "", END]) + after)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of training on this machine.")
    parser.add_argument("--quick", action="store_true", help="a small size, nothing written")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        request = json.loads(arguments.row)
        row = measure(Size(*request["size"]), request["repeats"], **request["mode"])
        print(json.dumps(row))
        return
    if arguments.quick:
        small = Size(batch=2, stocks=20, width=16)
        names = ("float32", "bfloat16, checkpointing")
        table("mode", {name: in_own_process(small, 2, **MODES[name]) for name in names})
        return
    size, one = Size(), Size(batch=1)
    modes = measured_modes(size, repeats=9)
    lines = table("mode, B=12 L=20 N=185", modes)
    stocks = {
        n: in_own_process(one._replace(stocks=n), repeats=5 if n < 1000 else 1)
        for n in (185, 500, 1000, 1026, 2000, 4000)
    }
    lines += table("stocks, B=1 L=20", {f"N={n}": row for n, row in stocks.items()})
    days = {f"L={n}": in_own_process(size._replace(lookback=n, batch=4), 3) for n in (10, 20, 40)}
    lines += table("days, B=4 N=185", days)
    batches = {f"B={n}": in_own_process(size._replace(batch=n), 3) for n in (1, 4, 24)}
    lines += table("windows at once, L=20 N=185", batches)
    lines += [*programs(), "", f"![Utilisation and memory]({PICTURE.name})"]
    del stocks[1026]  # in the picture it would lie on 1,000
    PICTURE.write_text(picture(modes, stocks))
    write_page(lines)


if __name__ == "__main__":
    main()
