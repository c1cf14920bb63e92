"""Two processes of torchrun learn what one learns, and leave one run folder."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runs.small_run import SmallRuns

from stockformer.runs.folder import RunDir
from stockformer.training.processes import Processes
from stockformer.training.sampler import EpochSampler

ROOT = Path(__file__).parents[2]


def start(folder: Path, words: list[str], processes: int) -> subprocess.CompletedProcess[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *(torchrun if processes > 1 else []), ROOT / "train.py", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def require_same(one: Path, two: Path, metrics: float = 1e-4) -> None:
    """`metrics`: how far those of the validation may be apart, relatively or in absolute terms."""
    first, second = (pd.read_csv(folder / "metrics.csv") for folder in (one, two))
    for name, close in (
        ("train_loss", 1e-5),
        ("train_regression_loss", 1e-4),  # one task's rounding is made up for by the other's
        ("train_classification_loss", 1e-4),
    ):
        assert second[name].iloc[0] == pytest.approx(first[name].iloc[0], rel=close)
    for name in (f"validation_{metric}" for metric in ("loss", "mae", "rmse", "accuracy")):
        assert second[name].to_numpy() == pytest.approx(
            first[name].to_numpy(), rel=metrics, abs=metrics
        )


def test_two_processes_are_one_run(small: SmallRuns, tmp_path: Path) -> None:
    one = tmp_path / "one"
    small.run(one, "model.dropout=0")
    two = tmp_path / "two"
    two.mkdir()
    result = start(two, small.words("model.dropout=0"), 2)
    assert result.returncode == 0, result.stderr
    (folder,) = (path.parent for path in two.rglob("status.json"))
    assert folder.parents[1] == two / "outputs"
    assert {path.name for path in two.iterdir()} == {"outputs"}
    assert result.stdout.count("epoch 1/3") == 1
    require_same(one, folder)
    assert RunDir(folder).status()["state"] == "finished"


@pytest.mark.full
def test_two_processes_are_one_run_on_the_demo(tmp_path: Path) -> None:
    words = ["model.dropout=0", "trainer.max_epoch=2", "trainer.device=cpu"]
    folders = []
    for processes in (1, 2):
        result = start(tmp_path, [*words, f"hydra.run.dir=run{processes}"], processes)
        assert result.returncode == 0, result.stderr
        folders.append(tmp_path / f"run{processes}")
    require_same(*folders, metrics=5e-3)  # the market is noise, and Adam makes much of rounding
    assert {path.name for path in tmp_path.iterdir()} == {"run1", "run2"}


@pytest.mark.full
def test_a_run_of_two_processes_is_stopped_and_goes_on(small: SmallRuns, tmp_path: Path) -> None:
    words = small.words("model.dropout=0", f"hydra.run.dir={tmp_path}/run")
    assert start(tmp_path, [*words, "trainer.max_epoch=1"], 2).returncode == 0
    result = start(tmp_path, [f"resume={tmp_path}/run", "trainer.max_epoch=3"], 2)
    assert result.returncode == 0, result.stderr
    small.run(tmp_path / "one", "model.dropout=0")
    require_same(tmp_path / "one", tmp_path / "run")


class Nodes:
    """torchrun on machines that are ports of this one: two processes, on one machine or on two."""

    def __init__(self, folder: Path, words: list[str], nodes: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            endpoint = f"127.0.0.1:{free.getsockname()[1]}"
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}"),
                    *(
                        f"--nproc-per-node={2 // nodes}",
                        "--rdzv-backend=c10d",
                        f"--rdzv-endpoint={endpoint}",
                    ),
                    *(f"--rdzv-conf=is_host={host}", "--local-addr=127.0.0.1"),
                    *(str(ROOT / "train.py"), *words),
                ],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for host in ("true", "false")[:nodes]
        ]

    def ended(self) -> tuple[list[int], str]:
        outputs = [process.communicate(timeout=200)[0] for process in self.processes]
        return [process.returncode for process in self.processes], "".join(outputs)

    def workers(self) -> dict[int, int]:
        """The processes of the training, by rank."""
        found = {}
        agents = {process.pid for process in self.processes}
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) in agents:
                    environment = (folder / "environ").read_bytes().split(b"\0")
                    (rank,) = (e[5:] for e in environment if e.startswith(b"RANK="))
                    found[int(rank)] = int(folder.name)
        return found


@pytest.mark.full
@pytest.mark.parametrize(("nodes", "rank"), [(2, 0), (2, 1), (1, 1)])
def test_a_run_stops_when_a_process_dies_and_goes_on(
    small: SmallRuns, tmp_path: Path, nodes: int, rank: int
) -> None:
    """On one machine torchrun kills the others soon after."""
    run = tmp_path / "run"
    longer = ("model.dropout=0", "trainer.max_epoch=60", "trainer.early_stopping.patience=60")
    started = Nodes(tmp_path, small.words(*longer, f"hydra.run.dir={run}"), nodes)
    end = time.monotonic() + 60
    while not (run / "metrics.csv").exists() or len(started.workers()) < 2:
        assert time.monotonic() < end, started.ended()
        time.sleep(0.02)
    os.kill(started.workers()[rank], signal.SIGKILL)
    killed = time.monotonic()
    statuses, output = started.ended()
    assert time.monotonic() - killed < 30
    assert 0 not in statuses
    if rank == 1:  # the first process, which keeps the state, is alive
        lost = "another process of this run has ended" in output
        assert lost or "SIGTERM: stopped" in output  # torchrun's, which may come first
        assert "all of it kept: continue with resume=" in output
        assert RunDir(run).status()["state"] == "interrupted"
    statuses, output = Nodes(tmp_path, [f"resume={run}"], nodes).ended()
    assert set(statuses) == {0}, output
    assert RunDir(run).status()["state"] == "finished"
    small.run(tmp_path / "one", *longer)
    require_same(tmp_path / "one", run, metrics=5e-3)


def test_more_processes_than_samples_are_refused(
    small: SmallRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small.experiment()
    experiment.processes = Processes(0, 63)
    with pytest.raises(ValueError, match="63 processes for 62 train samples: start fewer"):
        experiment.loader("train")
    experiment.processes = Processes(0, 6)
    with pytest.raises(ValueError, match="6 processes for 5 validation samples: start fewer"):
        experiment.loader("validation")


def test_the_processes_shares_are_the_batch() -> None:
    """Each sample is one process's, in every epoch another's, and no process has two more."""
    for size in (1, 2, 3, 7):
        orders = [EpochSampler(31, 12, 5, Processes(rank, size)) for rank in range(size)]
        for order in orders:
            order.set_position(epoch=2, step=1)
        batches = list(zip(*orders))
        whole = list(EpochSampler(31, 12, 5, Processes()))
        assert len(batches) == 2
        for number, shares in enumerate(batches):
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
            assert np.sort(np.concatenate(shares)).tolist() == sorted(next_batch(number))
        assert len(whole) == 3


def next_batch(number: int) -> list[int]:
    order = EpochSampler(31, 12, 5, Processes())
    order.set_position(epoch=2, step=1 + number)
    return next(iter(order))
