"""Reading, preparing and cutting windows: python benchmarks/data.py [--data FOLDER]

Times, after torch is imported: files to the first batch, cold (nothing prepared) and cached, of the
data sets that are there; what windows cost over a panel of 5,000 days x 2,500 stocks x 158 factors
that is memory-mapped, a sparse file; and a fresh batch of 12 windows against one index_select of
the same bytes.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from stockformer.config.build import build
from stockformer.config.schema import CONFIG_NAME, config_folder
from stockformer.data.calendar import real_calendar
from stockformer.data.dataset import Data
from stockformer.data.factors import alpha158
from stockformer.data.panel import Panel
from stockformer.data.reading.cache import input_paths, prepare
from stockformer.data.targets import next_returns
from stockformer.data.windows import Windows
from stockformer.training.allocator import keep_freed_memory

REACH = {"nifty200": (6.0, 1.0), "features": (8.0, 1.0)}  # seconds, cold and cached
REACH_BATCH, REACH_WINDOWS = 1.5, 0.01
BATCH, LOOKBACK = 12, 20


def first_batch(config: DictConfig, cache: Path) -> int:
    """Bytes of the first training batch of a data set, prepared through `cache`."""
    source = OmegaConf.to_container(config.dataset.source, resolve=True)
    names = list(config.dataset.factors)

    def fill(panel: Panel, out: np.ndarray) -> None:
        alpha158.compute(panel.prices, names, out=out)

    panel = prepare(
        lambda: build(config.dataset.source),
        settings=source,
        inputs=input_paths(source),
        cache=cache,
        factor_names=names,
        fill_factors=fill if names else None,
    )
    config.dataset.factors = []  # they are in the panel
    data = Data.prepare(config, panel)
    batch = next(iter(data.loader("train", pin_memory=False)))
    return batch.factors.nbytes


def random_panel(days: int, stocks: int, factors: int, random: np.random.Generator) -> Panel:
    return Panel(
        dates=np.datetime64("2000-01-01") + np.arange(days),
        tickers=np.array([f"S{i}" for i in range(stocks)]),
        returns=random.normal(0, 0.02, (days, stocks)),
        factors=random.standard_normal((days, stocks, factors), dtype=np.float32),
        factor_names=tuple(f"F{i}" for i in range(factors)),
    )


def windows_of(panel: Panel) -> Windows:
    targets = next_returns(panel, horizon=2, offset=0, excess=False, median_class=False)
    return Windows(panel, targets, real_calendar(panel.dates), LOOKBACK)


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
    windows = windows_of(panel).part(np.arange(LOOKBACK, days - 2))
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
    """GiB of a mapped panel, and the memory that its windows take beside it, as a share of it."""
    with tempfile.TemporaryDirectory() as folder:
        path, shape = Path(folder) / "factors.npy", (days, stocks, factors)
        np.lib.format.open_memmap(path, "w+", np.float32, shape).flush()  # a sparse file
        small = random_panel(days, stocks, 0, np.random.default_rng(0))
        names = tuple(f"F{i}" for i in range(factors))
        panel = small.with_factors(np.load(path, mmap_mode="c"), names)
        targets = next_returns(panel, horizon=2, offset=0, excess=False, median_class=False)
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


def line(what: str, value: str, reached: bool, reach: str) -> None:
    print(f"{what:44}{value:>30}   reach {reach:12}{'yes' if reached else 'NO'}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Reading, preparing and cutting windows.")
    parser.add_argument("--data", default="data", help="where data sets lie (paths.data_dir)")
    data_dir = parser.parse_args().data
    keep_freed_memory()
    for name, (cold, cached) in REACH.items():
        with tempfile.TemporaryDirectory() as cache:
            for state, reach in (("cold", cold), ("cached", cached)):
                with initialize_config_dir(str(config_folder()), version_base="1.3"):
                    lines = [f"dataset={name}", f"paths.data_dir={data_dir}"]
                    config = compose(CONFIG_NAME, lines)
                started = time.perf_counter()
                size = first_batch(config, Path(cache))
                seconds = time.perf_counter() - started
                value = f"{seconds:.2f} s ({size / 2**20:.1f} MiB)"
                line(f"{name}: files to first batch, {state}", value, seconds < reach, f"{reach} s")
    for stocks, factors in ((185, 22), (1026, 158)):
        fresh, plain, ratio = batch_ratio(stocks, factors)
        value = f"{fresh:.2f} / {plain:.2f} ms = {ratio:.2f}"
        line(
            f"batch of 12, {stocks} x {factors} / index_select", value, ratio <= REACH_BATCH, "1.5"
        )
    gib, share = windows_share(5000, 2500, 158)
    value = f"{share:.2%} of {gib:.2f} GiB"
    line("windows over 5,000 x 2,500 x 158", value, share < REACH_WINDOWS, "1 %")


if __name__ == "__main__":
    main()
