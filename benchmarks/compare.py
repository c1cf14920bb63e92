"""This tree's model against another commit's: python -m benchmarks.compare COMMIT [--quick]

Other work on a machine disturbs both alike when two versions run in turns, so that the median of
their ratios can be trusted where a time cannot. Each version is a process of its own, which waits
while the other one works. Rows: attention across stocks, forward and backward, with 0.3 of the
queries the strongest of some stock, and whole training steps (benchmarks/speed.py, whose random
batch has 0.4 to 0.55). Ratios are given of the wall clock and of the processor time, which other
processes disturb less where OMP_NUM_THREADS=1. Nothing is written.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.speed import ROOT, Size, peak_gib, step_of
from stockformer.training.allocator import keep_freed_memory

WIDTH, DAYS = 128, 20
STRONGEST, SHARPNESS = 0.3, 3.0


class Row(NamedTuple):
    """batch: windows at once."""

    part: str
    batch: int
    stocks: int
    bfloat16: bool
    repeats: int


ROWS = [
    Row("attention across stocks", 12, 185, False, 41),
    Row("attention across stocks", 12, 185, True, 41),
    Row("attention across stocks", 1, 1026, False, 21),
    Row("attention across stocks", 1, 1026, True, 21),
    Row("attention across stocks", 1, 4000, False, 3),
    Row("attention across stocks", 1, 4000, True, 3),
    Row("step", 12, 185, False, 9),
    Row("step", 12, 185, True, 9),
    Row("step", 1, 1026, False, 5),
    Row("step", 1, 4000, False, 1),
]
QUICK = [Row("attention across stocks", 1, 40, False, 2), Row("step", 1, 20, False, 2)]


class Version:
    """A process that repeats a row's work when told to."""

    def __init__(self, folder: Path, row: Row) -> None:
        command = [sys.executable, "-m", "benchmarks.compare", "--repeat", json.dumps(row)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, text=True)
        self.facts = self.next()

    def next(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a version ended; its error is above")
        return json.loads(line)

    def run(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.next()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(row: Row, other: Path) -> str:
    """A line of the table."""
    versions = [Version(folder, row) for folder in (other, ROOT)]
    turns = [[version.run() for version in versions] for _ in range(row.repeats)]
    for version in versions:
        version.stop()
    wall, cpu = (statistics.median(a[k] / b[k] for a, b in turns) for k in ("wall", "cpu"))
    before, after = (min(turn[i]["wall"] for turn in turns) for i in range(2))
    peaks = [turns[-1][i]["peak"] - versions[i].facts["imported"] for i in range(2)]
    kind = "bfloat16" if row.bfloat16 else "float32"
    return (
        f"| {row.part}, B={row.batch} N={row.stocks}, {kind} | {before:.3f} s | {after:.3f} s "
        f"| {wall:.2f} | {cpu:.2f} | {peaks[0]:.2f} GiB | {peaks[1]:.2f} GiB |"
    )


def repeat(row: Row) -> None:
    """A version's side: work once for every line that comes."""
    keep_freed_memory()
    imported = peak_gib()
    torch.manual_seed(0)
    size = Size(batch=row.batch, stocks=row.stocks, lookback=DAYS, width=WIDTH)
    step = row.part == "step"
    action = step_of(size, row.bfloat16, False, False) if step else attention_of(row)
    if row.repeats > 1:
        action()
    print(json.dumps({"imported": imported}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(seconds | {"peak": peak_gib()}), flush=True)


def attention_of(row: Row) -> Callable[[], object]:
    packed = queries_keys_values(row).requires_grad_()
    across = attention_across_stocks()
    to_out = torch.randn(packed.shape[1:]).to(packed.dtype)

    def action() -> None:
        packed.grad = None
        across(packed).backward(to_out)

    return action


def queries_keys_values(row: Row) -> Tensor:
    """(3, G, 1, N, D), as the model has them. About STRONGEST of the queries attend sharply, and
    only they are the strongest of some stock."""
    x = torch.randn(DAYS * row.batch, row.stocks, 3, 1, WIDTH)
    sharp = torch.rand(DAYS * row.batch, row.stocks) < 1.05 * STRONGEST
    x[:, :, 0] *= torch.where(sharp, SHARPNESS, 0.1)[..., None, None]
    return x.to(torch.bfloat16 if row.bfloat16 else torch.float32).permute(2, 0, 3, 1, 4)


def attention_across_stocks() -> Callable[[Tensor], Tensor]:
    try:
        from stockformer.models.strongest_attention import (  # noqa: PLC0415 (of either version)
            spread,
            strongest_attention,
        )
    except ImportError:  # until 575c134 one function of another module
        from stockformer.models import attention  # noqa: PLC0415

        return attention.strongest_attention  # type: ignore[attr-defined]
    return lambda packed: spread(*strongest_attention(packed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", default="HEAD")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--repeat", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.repeat:
        repeat(Row(*json.loads(arguments.repeat)))
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = ["git", "archive", arguments.commit, "stockformer"]
        tree = subprocess.run(archive, cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=tree, check=True)
        shutil.copytree(ROOT / "benchmarks", Path(folder) / "benchmarks")
        print(f"| in turns | {arguments.commit} | now | times as fast | processor | memory | now |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for row in QUICK if arguments.quick else ROWS:
            if arguments.only in f"{row.part} N={row.stocks}, bfloat16={row.bfloat16}":
                print(compare(row, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
