"""How long the factors take: python benchmarks/factors.py [--large]

Alpha158 on a simulated panel of 660 days x 191 stocks, in one process; with --large on 5,000 days x
2,500 stocks into a memory map (8 GB on the disk of the temporary folder), with the memory it takes.
"""

from __future__ import annotations

import resource
import sys
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
    small = prices(660, 191)
    compute(small)  # warm
    started = time.perf_counter()
    compute(small)
    print(f"660 x 191 x 158: {time.perf_counter() - started:.2f} s (reach 1.0)")
    if "--large" not in sys.argv:
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
    print(f"5000 x 2500 x 158: {seconds:.0f} s (reach 90)")
    print(
        f"peak memory beyond the inputs, pages of the map included: {peak_gib() - before:.1f} GiB"
    )


if __name__ == "__main__":
    main()
