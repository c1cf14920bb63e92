"""What sweeps on several machines cost: python -m benchmarks.cluster [--quick]

PostgreSQL: several controllers on one study, with trials that sleep. Ray: two local nodes. Slurm: a
queue of this machine's own, where Debian's programs are there. Each figure is in docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import optuna

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from sweeps import postgresql, quick_runs, slurm  # noqa: E402 (helpers of the tests)

from stockformer.sweeps.search import with_driver  # noqa: E402

WORKERS = 4
TRIAL_SECONDS = 0.1
JOB_SECONDS = 2.0
SLOTS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few jobs, to see that it runs")
    quick = parser.parse_args().quick
    if postgresql.programs() is not None:
        shared_study(20 if quick else 200)
    ray_jobs(4 if quick else 20)
    if slurm.programs_are_there():
        slurm_jobs(4 if quick else 20)


def shared_study(trials: int) -> None:
    """Overhead: what the workers spent on a trial besides its training."""
    with tempfile.TemporaryDirectory() as folder, postgresql.server() as server:
        url = server.url
        words = ["-m", "search=optuna", "report=false", f"hydra.sweeper.n_trials={trials}"]
        words.append(f"hydra.sweeper.storage={url}")
        before = database(url)
        started = time.perf_counter()
        programs = [
            started_program([*words, f"hydra.sweep.dir={folder}/{worker}"], TRIAL_SECONDS, folder)
            for worker in range(WORKERS)
        ]
        require_success(programs)
        seconds = time.perf_counter() - started
        commits, size = (after - first for first, after in zip(before, database(url)))
        study = optuna.load_study(study_name="stockformer", storage=with_driver(url))
        counted = [trial for trial in study.trials if "replaced" not in trial.user_attrs]
        completed = sum(t.state is optuna.trial.TrialState.COMPLETE for t in counted)
        ends = (Path(folder) / "log").read_text().splitlines().count
        doubled = sum(max(0, ends(f"end {number}") - 1) for number in range(trials))
        first, last = span(folder)
        print(
            f"PostgreSQL, {WORKERS} workers: {completed} of {trials} trials of {TRIAL_SECONDS} s "
            f"completed, {len(counted) - completed} lost, {doubled} run twice"
        )
        print(
            f"  overhead {(last - first) * WORKERS / trials - TRIAL_SECONDS:.2f} s of a worker's "
            f"time a trial, {(last - first) / trials:.2f} s from one trial to the next; whole "
            f"program {seconds:.1f} s"
        )
        print(
            f"  database: {commits / trials:.0f} commits a trial, {commits / (last - first):.0f} a "
            f"second; {size / trials * 1000 / 2**20:.1f} MiB for 1,000 trials"
        )


def database(url: str) -> tuple[int, int]:
    """Commits so far, and bytes."""
    import psycopg2  # noqa: PLC0415 (an extra)

    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT xact_commit, pg_database_size(datname) FROM pg_stat_database "
            "WHERE datname = current_database()"
        )
        row: tuple[int, int] = cursor.fetchone()
        return row


def ray_jobs(jobs: int) -> None:
    from ray.cluster_utils import Cluster  # noqa: PLC0415 (an extra)

    with tempfile.TemporaryDirectory() as folder:
        before = dict(os.environ)
        os.environ |= environment(JOB_SECONDS, folder)  # the nodes', not the sweep's
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(SLOTS - 1):
            cluster.add_node(num_cpus=1)
        words = ["hydra/launcher=ray", f"hydra.launcher.address={cluster.address}"]
        grid("Ray", jobs, words, folder)
        cluster.shutdown()
        os.environ.clear()
        os.environ |= before


def slurm_jobs(jobs: int) -> None:
    with tempfile.TemporaryDirectory() as folder, slurm.cluster() as queue:
        if not queue.runs_jobs():
            print(f"Slurm, {SLOTS} nodes: {jobs} jobs not measured: none runs on this machine")
            return
        # Each takes a whole node of two CPUs.
        grid("Slurm", jobs, ["hydra/launcher=slurm", "hydra.launcher.threads=2"], folder)


def grid(name: str, jobs: int, words: Sequence[str], folder: str) -> None:
    settings = ["-m", f"seed=range(0,{jobs})", "trainer.max_epoch=2", "report=false"]
    started = time.perf_counter()
    program = started_program(
        [*settings, *words, f"hydra.sweep.dir={folder}/sweep"], JOB_SECONDS, folder
    )
    require_success([program])
    seconds = time.perf_counter() - started
    first, last = span(folder)
    ideal = jobs * JOB_SECONDS / SLOTS
    print(
        f"{name}, {SLOTS} nodes: {jobs} jobs of {JOB_SECONDS:.0f} s in {last - first:.1f} s, "
        f"{(last - first) / ideal:.2f} x the ideal; whole program {seconds:.1f} s"
    )


def environment(seconds: float, folder: str) -> dict[str, str]:
    return {"QUICK_SECONDS": str(seconds), "QUICK_LOG": f"{folder}/log"}


def started_program(words: Sequence[str], seconds: float, folder: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, quick_runs.__file__, *words],
        env={**os.environ, **environment(seconds, folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def span(folder: str) -> tuple[float, float]:
    """When the first run of the folder's sweeps started and the last one ended."""
    files = list(Path(folder).glob("*/*/status.json"))
    ends = [file.stat().st_mtime for file in files]
    starts = [
        end - float(json.loads(file.read_text())["seconds"]) for end, file in zip(ends, files)
    ]
    return min(starts), max(ends)


def require_success(programs: Sequence[subprocess.Popen[str]]) -> None:
    for program in programs:
        output, _ = program.communicate()
        if program.returncode:
            sys.exit(output)


if __name__ == "__main__":
    main()
