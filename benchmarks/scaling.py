"""What large plans cost on many machines: python -m benchmarks.scaling --data FOLDER [--quick]

Measures a run of the largest fold of NIFTY-WF, small and published model: the part that does not
depend on the number of epochs, an epoch, and the files left. From these a simulation of the
scheduler gives the time of a plan on M machines that fail. docs/scaling.md
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
MODELS = ("stockformer_small", "stockformer")
EPOCHS = 20
HOUR, DAY = 3600.0, 86400.0
CONTROLLER_SECONDS = 0.11  # a job, measured by benchmarks/sweeps.py
REPAIR_SECONDS = 600.0
RUNS = 14 * 10 * 200  # rolling windows x seeds x trials
MACHINES = (1, 8, 64, 512)
FAILURES = {"never": np.inf, "a month": 30 * DAY, "a day": DAY, "4 hours": 4 * HOUR}


@dataclass(frozen=True)
class Cost:
    """Of a run. fixed: seconds besides the epochs; epoch: seconds; size: bytes of its folder."""

    fixed: float
    epoch: float
    size: int


@dataclass(frozen=True)
class Plan:
    """What a simulated plan took. makespan: seconds; lost: share of the work that was done twice;
    busy: share of the time in which the controller was busy."""

    makespan: float
    lost: float
    busy: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of reference data")
    parser.add_argument("--quick", action="store_true", help="small model, few runs")
    arguments = parser.parse_args()
    models = MODELS[:1] if arguments.quick else MODELS
    runs = 100 if arguments.quick else RUNS
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            cost = measured(arguments.data, Path(folder), model)
            seconds = cost.fixed + EPOCHS * cost.epoch
            print(
                f"{model}: {cost.fixed:.1f} s + {cost.epoch:.1f} s an epoch, "
                f"{seconds / 60:.1f} min a run of {EPOCHS} epochs; "
                f"{cost.size * 1000 / 2**30:.1f} GiB for 1,000 runs"
            )
            print(
                f"  {runs} runs, days; lost work, controller busy   "
                + "  ".join(f"machines fail {name}" for name in FAILURES)
            )
            for machines in MACHINES:
                plans = [
                    simulated(runs, machines, seconds, keep_every=cost.epoch, mtbf=mtbf)
                    for mtbf in FAILURES.values()
                ]
                cells = [f"{p.makespan / DAY:.2f} ({p.lost:.1%}, {p.busy:.0%})" for p in plans]
                print(f"  {machines:4} machines: {'  '.join(cells)}")


def measured(data: Path, folder: Path, model: str) -> Cost:
    """Two epochs after a run that has prepared the data."""
    for epochs in (1, 2):
        run = folder / f"{model}-{epochs}"
        words = ["experiment=nifty_wf", "split.fold=5", f"model={model}", f"hydra.run.dir={run}"]
        words += [f"trainer.max_epoch={epochs}", "report=false", f"paths.data_dir={data}"]
        subprocess.run(
            [sys.executable, ROOT / "train.py", *words, f"paths.cache_dir={folder}/cache"],
            check=True,
            capture_output=True,
        )
    with (run / "metrics.csv").open() as file:
        epoch = float(np.mean([float(row["seconds"]) for row in csv.DictReader(file)]))
    seconds = float(json.loads((run / "status.json").read_text())["seconds"])
    size = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    return Cost(seconds - 2 * epoch, epoch, size)


def simulated(
    runs: int,
    machines: int,
    seconds: float,
    *,
    keep_every: float,
    mtbf: float = np.inf,
    repair: float = REPAIR_SECONDS,
    controller: float = CONTROLLER_SECONDS,
    seed: int = 0,
) -> Plan:
    """Runs of `seconds` on machines, one at a time each, that fail on average every `mtbf` seconds.

    A run goes on elsewhere from the last multiple of `keep_every`, the failed machine is back after
    `repair`. One controller starts the runs, each of which takes it `controller` seconds.
    """
    random = np.random.default_rng(seed)
    left = deque([seconds] * runs)
    free = [(0.0, machine) for machine in range(machines)]  # when each wants a run
    running: list[tuple[float, int, float]] = []  # when it ends or fails, machine, what is left
    controller_free = end = lost = used = 0.0
    while left or running:
        if free and left and (not running or free[0][0] <= running[0][0]):
            time, machine = heapq.heappop(free)
            controller_free = max(time, controller_free) + controller
            used += controller
            work = left.popleft()
            fails = random.exponential(mtbf) if mtbf < np.inf else np.inf
            if fails < work:
                done = seconds - work + fails
                kept = max(seconds - work, done // keep_every * keep_every)
                lost += done - kept
                work = seconds - kept
                heapq.heappush(running, (controller_free + fails, machine, work))
            else:
                heapq.heappush(running, (controller_free + work, machine, 0.0))
            continue
        time, machine, work = heapq.heappop(running)
        end = max(end, time)
        if work > 0:
            left.appendleft(work)
        heapq.heappush(free, (time + (repair if work > 0 else 0.0), machine))
    return Plan(end, lost / (runs * seconds + lost), used / end)


if __name__ == "__main__":
    main()
