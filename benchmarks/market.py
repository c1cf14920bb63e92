"""A whole market: python -m benchmarks.market [--quick] [--stocks N] [--days T] [--only STEP ...]

Writes simulated daily prices of 3,000 stocks on 2,000 days to a Parquet file, then takes the steps
of a user with all 158 factors of Alpha158, each step as a process of its own: train.py up to its
first step, with nothing prepared (cold) and again (cached), by z-scores (the default of
dataset=ohlcv) and, cold, by ranks; validate.py; an evaluation of forecasts for 1,250 days, with its
backtest; and the page of that run. Prints the seconds of each, the seconds of a core that it used,
which other work on the machine hardly changes, and its peak memory: anonymous, which a process must
have, and mapped, which the system may take back (a map that two processes share counts twice).
Processes that run together are added up. A step above --limit GiB of anonymous memory is ended.
--quick: 24 stocks, 240 days.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hydra import compose, initialize_config_dir

from benchmarks.speed import PROBE
from stockformer.config.hydra_lines import VERSION_BASE
from stockformer.config.schema import CONFIG_NAME, config_folder
from stockformer.experiment import Experiment, evaluate, read_dataset, record_evaluation
from stockformer.runs.description import manifest
from stockformer.runs.folder import RunDir

ROOT = Path(__file__).parents[1]
STOCKS, DAYS = 3000, 2000
QUICK_STOCKS, QUICK_DAYS = 24, 240
AT_ONCE = 100  # stocks of a row group
EVERY = 0.05  # seconds from one look at the memory to the next
MODEL = ("model=stockformer_small", "trainer.device=cpu", "trainer.batch_size=1")
LONG_TEST = ("split.train=0.3", "split.test=0.625")  # 1,250 of 2,000 days
# Seconds and GiB of anonymous memory, of the whole size.
TARGETS = {
    "train cold": (120.0, 6.0),
    "train cached": (20.0, 6.0),
    "validate": (180.0, 6.0),
}
STEPS = ("train", "rank", "validate", "evaluate", "report")


@dataclass
class Use:
    """Bytes of memory, and seconds of a core, of a process and all that it started."""

    anonymous: int = 0
    mapped: int = 0
    seconds: float = 0.0

    def most(self, other: Use) -> Use:
        return Use(
            max(self.anonymous, other.anonymous),
            max(self.mapped, other.mapped),
            max(self.seconds, other.seconds),
        )


def write_market(path: Path, stocks: int, days: int) -> None:
    """Random walks with a range and a volume each day, a few days missing."""
    random = np.random.default_rng(0)
    dates = np.busday_offset("2015-01-01", np.arange(days), roll="forward").astype("datetime64[D]")
    schema = pa.schema(
        [("ticker", pa.string()), ("date", pa.date32())]
        + [(name, pa.float64()) for name in ("open", "high", "low", "close", "volume")]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, stocks, AT_ONCE):
            shape = min(AT_ONCE, stocks - first), days
            close = 50 * np.exp(random.normal(0.0002, 0.02, shape).cumsum(axis=1))
            opened = close * np.exp(random.normal(0, 0.005, shape))
            apart = 1 + np.abs(random.normal(0, 0.005, (2, *shape)))
            prices = {
                "open": opened,
                "high": np.maximum(opened, close) * apart[0],
                "low": np.minimum(opened, close) / apart[1],
                "close": close,
                "volume": np.exp(random.normal(13, 1, shape)).round(),
            }
            traded = (random.random(shape) > 0.01).ravel()
            tickers = np.repeat([f"S{first + i:04d}" for i in range(shape[0])], days)[traded]
            columns = [pa.array(tickers), pa.array(np.tile(dates, shape[0])[traded])]
            # Prices are of single precision, as most vendors store them.
            columns += [
                pa.array(x.ravel()[traded].astype("f4").astype(float)) for x in prices.values()
            ]
            writer.write_table(pa.table(columns, schema=schema))


def watched(command: list[str], folder: Path, limit: float) -> tuple[float, Use]:
    """Seconds of a command, and the most that it used; train.py's first step, which ends it, counts
    only for the latter.

    Raises RuntimeError if it fails or passes the limit.
    """
    started, peak = time.perf_counter(), Use()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while process.poll() is None:
            peak = peak.most(use_of(process.pid))
            if peak.anonymous > limit * 2**30:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(EVERY)
        output.seek(0)
        text = output.read()
    if process.returncode:
        gib = peak.anonymous / 2**30
        raise RuntimeError(f"status {process.returncode}, {gib:.1f} GiB:\n{text[-3000:]}")
    seconds = time.perf_counter() - started
    if PROBE in command:
        begun, ended = json.loads(text.splitlines()[-1])["spans"][0]
        seconds -= ended - begun
    return seconds, peak


def use_of(process: int) -> Use:
    """What a process and all that it started use now; Linux only."""
    total, folder = Use(), Path(f"/proc/{process}")
    try:
        status = (folder / "status").read_text()
        times = (folder / "stat").read_text().rpartition(")")[2].split()[11:15]
        children = " ".join(path.read_text() for path in folder.glob("task/*/children"))
    except OSError:  # it has ended
        return total
    total.seconds = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")  # also of ended children
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "RssAnon":
            total.anonymous += int(value.split()[0]) << 10
        elif name in ("RssFile", "RssShmem"):
            total.mapped += int(value.split()[0]) << 10
    for child in map(use_of, map(int, children.split())):
        total.anonymous += child.anonymous
        total.mapped += child.mapped
        total.seconds += child.seconds
    return total


def evaluate_forecasts(overrides: list[str], folder: Path) -> None:
    """Evaluate forecasts of a little skill, as train.py does at its end, and keep them as a run."""
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
        config = compose(CONFIG_NAME, overrides)
    data = read_dataset(config)
    rows, targets = data.split.test, data.targets
    experiment = Experiment(config, data)
    noise = np.random.default_rng(0).normal(0, 0.02, targets.valid[rows].shape)
    forecast = 0.05 * targets.returns[rows] + noise
    predictions = experiment.evaluator.predictions(rows, forecast, 1 / (1 + np.exp(-50 * forecast)))
    started = time.perf_counter()
    record = evaluate(config, data, predictions, epoch=1)
    print(f"evaluated in {time.perf_counter() - started:.1f} s", flush=True)
    with RunDir.claim(folder) as run:
        run.write_config("seed: 0\n", overrides)
        run.write_manifest(manifest(experiment))
        parts = [f"{part}_{name}" for part in ("train", "validation") for name in ("loss", "mae")]
        row = {"epoch": 1, "seconds": 60.0, "learning_rate": 1e-3} | dict.fromkeys(parts, 0.1)
        run.write_metrics([row])
        record_evaluation(run, predictions, record)


def commands(folder: Path, file: Path, wanted: list[str]) -> dict[str, list[str]]:
    """The command of each step by its name."""
    data = ["dataset=ohlcv", f"dataset.source.path={file}", "dataset.factors=[alpha158]", *MODEL]
    data.append(f"paths.cache_dir={folder / 'cache'}")
    train = [sys.executable, "-c", PROBE, "first", str(ROOT / "train.py"), *data]
    steps = {
        "train": {"train cold": train, "train cached": train},
        "rank": {
            "train cold, ranks": [*train, "processors=rank", f"paths.cache_dir={folder / 'ranks'}"],
        },
        "validate": {"validate": [sys.executable, str(ROOT / "validate.py"), *data]},
        "evaluate": {
            "evaluate": [
                *(sys.executable, "-m", "benchmarks.market", "--evaluate", str(folder / "run")),
                *(*data, *LONG_TEST),
            ]
        },
        "report": {"report": [sys.executable, str(ROOT / "analyze.py"), f"run={folder / 'run'}"]},
    }
    return {name: line for step in wanted for name, line in steps[step].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and seconds of a whole market.")
    parser.add_argument("--quick", action="store_true", help="24 stocks, 240 days")
    parser.add_argument("--stocks", type=int, default=STOCKS)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--folder", type=Path, help="kept, and used again; default: temporary")
    parser.add_argument("--limit", type=float, default=14.0, help="GiB at which a step is ended")
    parser.add_argument("--evaluate", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.evaluate:
        evaluate_forecasts(arguments.overrides, arguments.evaluate)
        return
    stocks, days = arguments.stocks, arguments.days
    if arguments.quick:
        stocks, days = QUICK_STOCKS, QUICK_DAYS
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"market-{stocks}-{days}.parquet"
        if not file.exists():
            write_market(file, stocks, days)
        size = file.stat().st_size / 1e6
        gib = stocks * days * 158 * 4 / 2**30
        print(f"{stocks:,} stocks x {days:,} days: {size:.0f} MB; factors of {gib:.2f} GiB")
        titles = f"{'step':20}{'seconds':>9}{'target':>8}{'of a core':>10}"
        print(f"{titles}{'GiB':>8}{'target':>8}{'mapped':>8}")
        for name, command in commands(folder, file, arguments.only).items():
            seconds, peak = watched(command, folder, arguments.limit)
            limits = TARGETS.get(name)
            most = [f"{limit:8.0f}" if limits else f"{'':8}" for limit in limits or (0, 0)]
            memory = f"{peak.anonymous / 2**30:8.2f}{most[1]}{peak.mapped / 2**30:8.2f}"
            print(f"{name:20}{seconds:9.1f}{most[0]}{peak.seconds:10.1f}{memory}", flush=True)


if __name__ == "__main__":
    main()
