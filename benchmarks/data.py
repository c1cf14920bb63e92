"""Reading, preparing and cutting windows: python benchmarks/data.py [--data FOLDER] [--quick]

Times, after torch is imported: files to the first batch, cold (nothing prepared) and cached, of the
data sets that are there; what windows cost over a panel of 5,000 days x 2,500 stocks x 158 factors
that is memory-mapped, a sparse file; and a fresh batch of 12 windows against one index_select of
the same bytes. --quick: small panels and one data set.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from stockformer.config.hydra_lines import VERSION_BASE
from stockformer.config.schema import CONFIG_NAME, config_folder
from stockformer.data.calendar import real_calendar
from stockformer.data.panel import Panel
from stockformer.data.targets import next_returns
from stockformer.data.windows import Windows
from stockformer.experiment import read_dataset
from stockformer.training.allocator import keep_freed_memory
from stockformer.training.loader import make_loader
from stockformer.training.processes import Processes

TARGETS = {"nifty200": (6.0, 1.0), "features": (8.0, 1.0)}  # seconds, cold and cached
FOLDERS = {"nifty200": "nifty200", "features": "nasdaq1026"}
TARGET_BATCH, TARGET_WINDOWS = 1.5, 0.01
BATCH, LOOKBACK = 12, 20
TARGET: Any = {"horizon": 2, "offset": 0, "excess": False, "median_class": False} | {
    "limit_threshold": 0.04
}


def first_batch(name: str, data_dir: str, cache: str) -> tuple[float, int]:
    """Seconds to the first training batch, prepared through `cache`, and the batch's bytes."""
    overrides = [f"dataset={name}", f"paths.data_dir={data_dir}", f"paths.cache_dir={cache}"]
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
        config = compose(CONFIG_NAME, overrides)
    started = time.perf_counter()
    data, settings = read_dataset(config), config.trainer
    loader = make_loader(
        data.windows,
        data.split.train,
        part="train",
        batch_size=settings.batch_size,
        micro_batch_size=settings.batch_size,
        num_workers=0,
        seed=0,
        device=torch.device("cpu"),
        processes=Processes(),
    )
    size = next(iter(loader)).factors.nbytes
    return time.perf_counter() - started, size


def random_panel(days: int, stocks: int, factors: int, random: np.random.Generator) -> Panel:
    return Panel(
        dates=np.datetime64("2000-01-01") + np.arange(days),
        tickers=np.array([f"S{i}" for i in range(stocks)]),
        returns=random.normal(0, 0.02, (days, stocks)),
        factors=random.standard_normal((days, stocks, factors), dtype=np.float32),
        factor_names=tuple(f"F{i}" for i in range(factors)),
    )


def windows_of(panel: Panel) -> Windows:
    """Every window that has a past and a target."""
    targets = next_returns(
        panel, horizon=2, offset=0, excess=False, median_class=False, limit_threshold=0.04
    )
    windows = Windows(panel, targets, real_calendar(panel.dates), LOOKBACK)
    return windows.part(np.arange(LOOKBACK, len(panel.dates) - 2))


def median_seconds(action: Callable[[], object], repeats: int = 200) -> float:
    seconds = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[3:])


def batch_ratio(stocks: int, factors: int) -> tuple[float, float, float]:
    """Milliseconds of a fresh batch and of one index_select of its bytes, and their ratio."""
    random = np.random.default_rng(0)
    days = 400
    panel = random_panel(days, stocks, factors, random)
    windows = windows_of(panel)
    positions = random.integers(0, len(windows), (40, BATCH)).tolist()
    turn = iter(range(10**9))
    total = sum(
        getattr(windows[positions[0]], name).nbytes
        for name in ("factors", "returns", "trend", "target", "valid", "up", "calendar")
    )
    row = stocks * factors
    count = round(total / 4 / row)
    table = torch.from_numpy(panel.factors.reshape(days, row))
    rows = torch.from_numpy(random.integers(0, days, (40, count)))
    fresh = median_seconds(lambda: windows[positions[next(turn) % 40]])
    plain = median_seconds(lambda: table.index_select(0, rows[next(turn) % 40]))
    return 1e3 * fresh, 1e3 * plain, fresh / plain


def windows_share(days: int, stocks: int, factors: int) -> tuple[float, float]:
    """GiB of a mapped panel, and the memory that its windows take in addition, as a share of it."""
    with tempfile.TemporaryDirectory() as folder:
        path, shape = Path(folder) / "factors.npy", (days, stocks, factors)
        np.lib.format.open_memmap(path, "w+", np.float32, shape).flush()  # a sparse file
        small = random_panel(days, stocks, 0, np.random.default_rng(0))
        names = tuple(f"F{i}" for i in range(factors))
        panel = small.with_factors(np.load(path, mmap_mode="c"), names)
        targets = next_returns(
            panel, horizon=2, offset=0, excess=False, median_class=False, limit_threshold=0.04
        )
        size = panel.factors.nbytes + panel.returns.nbytes
        before = resident_bytes()
        windows = Windows(panel, targets, real_calendar(panel.dates), LOOKBACK)
        part = windows.part(np.arange(LOOKBACK, days - 2))
        taken = resident_bytes() - before
        assert len(part) == days - 2 - LOOKBACK
        return size / 2**30, taken / size


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def report(what: str, value: str, reached: bool, target: str) -> None:
    print(f"{what:44}{value:>30}   target {target:8}{'yes' if reached else 'NO'}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Reading, preparing and cutting windows.")
    parser.add_argument("--data", default="data", help="where data sets lie (paths.data_dir)")
    parser.add_argument("--quick", action="store_true", help="small panels, one data set")
    arguments = parser.parse_args()
    quick, names = arguments.quick, list(TARGETS)
    keep_freed_memory()
    for name in names[:1] if quick else names:
        if not (Path(arguments.data) / FOLDERS[name]).is_dir():
            print(f"{name}: no folder {FOLDERS[name]} in {arguments.data}, left out")
            continue
        with tempfile.TemporaryDirectory() as cache:
            for state, target in zip(("cold", "cached"), TARGETS[name]):
                seconds, size = first_batch(name, arguments.data, cache)
                value = f"{seconds:.2f} s ({size / 2**20:.1f} MiB)"
                what = f"{name}: files to first batch, {state}"
                report(what, value, seconds < target, f"{target} s")
    for stocks, factors in ((20, 5),) if quick else ((185, 22), (1026, 158)):
        fresh, plain, ratio = batch_ratio(stocks, factors)
        value = f"{fresh:.2f} / {plain:.2f} ms = {ratio:.2f}"
        what = f"batch of 12, {stocks} x {factors} / index_select"
        report(what, value, ratio <= TARGET_BATCH, f"{TARGET_BATCH}")
    shape = (300, 50, 10) if quick else (5000, 2500, 158)
    gib, share = windows_share(*shape)
    what = "windows over {:,} x {:,} x {}".format(*shape)
    report(what, f"{share:.2%} of {gib:.2f} GiB", share < TARGET_WINDOWS, f"{TARGET_WINDOWS:.0%}")


if __name__ == "__main__":
    main()
