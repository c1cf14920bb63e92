"""How long the factors take: python benchmarks/factors.py [--large | --quick]

Alpha158 on a simulated panel of 660 days x 191 stocks, in one process; with --large on 5,000 days x
2,500 stocks into a memory map (8 GB on the disk of the temporary folder), with the memory it takes.
--quick: 80 days x 5 stocks.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from stockformer.data.factors.alpha158 import ALPHA158, compute


def prices(days: int, stocks: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.02, (days, stocks)), axis=0))
    opened = close * (1 + random.normal(0, 0.005, close.shape))
    return {
        "open": opened,
        "high": np.maximum(opened, close) * 1.01,
        "low": np.minimum(opened, close) * 0.99,
        "close": close,
        "volume": np.exp(random.normal(12, 0.5, close.shape)),
    }


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="How long Alpha158 takes.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--large", action="store_true", help="also 5,000 days x 2,500 stocks")
    size.add_argument("--quick", action="store_true", help="80 days x 5 stocks only")
    arguments = parser.parse_args()
    days, stocks = (80, 5) if arguments.quick else (660, 191)
    small = prices(days, stocks)
    compute(small)  # warm
    started = time.perf_counter()
    compute(small)
    seconds = time.perf_counter() - started
    print(f"{days} x {stocks} x {len(ALPHA158)}: {seconds:.2f} s (target 1.0)")
    if not arguments.large:
        return
    large = prices(5000, 2500)
    before = peak_gib()
    with tempfile.TemporaryDirectory() as folder:
        shape = (5000, 2500, len(ALPHA158))
        out = np.memmap(Path(folder) / "factors", dtype=np.float32, mode="w+", shape=shape)
        started = time.perf_counter()
        compute(large, out=out)
        seconds = time.perf_counter() - started
    # Written pages of the map count as ours until they are on the disk.
    print(f"5000 x 2500 x 158: {seconds:.0f} s (target 90)")
    print(
        f"peak memory beyond the inputs, pages of the map included: {peak_gib() - before:.1f} GiB"
    )


if __name__ == "__main__":
    main()
