"""What a sweep costs in addition to its jobs: python -m benchmarks.sweeps [--data FOLDER] [--quick]

Overhead: the time of a whole sweep, its start and results included, less what its runs took, for
each job. Memory: of a process that runs one job after another, after each. Shared: what processes
that have each read NIFTY-200 with 158 ranked factors take together, where FOLDER has it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

from stockformer.runs.fork_server import start_fork_server

ROOT = Path(__file__).parents[1]
QUICK_RUNS = ROOT / "tests" / "sweeps" / "quick_runs.py"
TINY = ("experiment=demo", "trainer.max_epoch=1", "trainer.device=cpu", "report=false")
TINY_MODEL = ("model.width=8", "model.layers=1", "dataset.source.stocks=20")
NIFTY = ("experiment=nifty_wf",)
PREPARED = ("dataset=nifty200_phase5", "processors=rank")
PROCESSES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of reference data")
    parser.add_argument("--quick", action="store_true", help="few jobs, to see that it runs")
    arguments = parser.parse_args()
    jobs, trials = (2, 2) if arguments.quick else (100, 100)
    with tempfile.TemporaryDirectory() as folder:
        grid(Path(folder), jobs)
        search(Path(folder), trials)
        if arguments.data is not None:
            words = PREPARED if arguments.quick else NIFTY
            shared(arguments.data, Path(folder), words, 2 if arguments.quick else PROCESSES)


def grid(folder: Path, jobs: int) -> None:
    """Real, tiny runs in one process."""
    settings = [*TINY, *TINY_MODEL, f"seed=range(0,{jobs})", f"hydra.sweep.dir={folder}/grid"]
    seconds, memory = timed([str(ROOT / "train.py"), "-m", *settings], {})
    took = [run_seconds(folder / "grid" / str(job)) for job in range(jobs)]
    print(
        f"grid of {jobs} jobs of {sum(took) / jobs:.2f} s, in process: overhead "
        f"{(seconds - sum(took)) / jobs:.2f} s a job"
    )
    early, late = memory[min(10, jobs - 1)], memory[-1]
    print(
        f"memory of the process: {early:.0f} MiB after job {min(10, jobs - 1)}, {late:.0f} MiB "
        f"after job {jobs - 1} ({late / early - 1:+.1%}), at most {max(memory):.0f} MiB"
    )


def search(folder: Path, trials: int) -> None:
    """Trials that sleep for 0.1 s and write their run folder, with SQLite."""
    words = ["-m", "search=optuna", "report=false", f"hydra.sweeper.n_trials={trials}"]
    words.append(f"hydra.sweep.dir={folder}/search")
    seconds, _ = timed([str(QUICK_RUNS), *words], {"QUICK_SECONDS": "0.1"})
    print(f"search of {trials} trials of 0.1 s: overhead {seconds / trials - 0.1:.2f} s a trial")


def timed(command: Sequence[str], environment: dict[str, str]) -> tuple[float, list[float]]:
    """Seconds of a whole program, and its resident memory in MiB at the end of each job."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    memory, lines = [], []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if re.match(r"job \d+ finished", line):
            memory.append(resident(process.pid))
    if process.wait():
        sys.exit("".join(lines))
    return time.perf_counter() - started, memory


def resident(process: int) -> float:
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def run_seconds(run: Path) -> float:
    return float(json.loads((run / "status.json").read_text())["seconds"])


def shared(data: Path, folder: Path, words: tuple[str, ...], processes: int) -> None:
    """Processes that have read the same data set: each one's own memory, by what it shares."""
    own = {}
    for count in (1, 1, processes):  # the first prepares the data
        context = multiprocessing.get_context("forkserver")
        start_fork_server(["stockformer.experiment"])
        barrier, results = context.Barrier(count), context.SimpleQueue()
        children = [
            context.Process(target=read, args=(words, data, folder, barrier, results))
            for _ in range(count)
        ]
        for child in children:
            child.start()
        found = [results.get() for _ in children]
        for child in children:
            child.join()
        own[count] = sum(pss for pss, _ in found)
        size = found[0][1]
    more = (own[processes] - own[1]) / (processes - 1)
    print(
        f"shared: {processes} processes with {words[0]} take {own[processes]:.0f} MiB together, "
        f"one takes {own[1]:.0f}: {more:.0f} MiB for one more, whose factors are {size:.0f} MiB"
    )


def read(
    words: tuple[str, ...],
    data: Path,
    folder: Path,
    barrier: Barrier,
    results: multiprocessing.SimpleQueue,
) -> None:
    """Read, look at every cell, and report this process's share of memory when all have."""
    from stockformer.config.overrides import check_command_line, without_hydra  # noqa: PLC0415
    from stockformer.experiment import read_dataset  # noqa: PLC0415

    given = [*words, f"paths.data_dir={data}", f"paths.cache_dir={folder}/cache"]
    config = without_hydra(check_command_line(given, multirun=False))
    dataset = read_dataset(config)
    dataset.panel.factors.sum()
    barrier.wait()
    text = Path("/proc/self/smaps_rollup").read_text()
    pss = int(text.partition("\nPss:")[2].split()[0]) / 1024
    barrier.wait()
    results.put((pss, dataset.panel.factors.nbytes / 2**20))


if __name__ == "__main__":
    main()
