"""Jobs on a Ray cluster of two local nodes, one of which is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweeps import quick_runs
from sweeps.quick_runs import states

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.full  # a cluster takes ten seconds to start


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("QUICK_SECONDS", "3")  # the nodes' environment, not the sweep's
    monkeypatch.setenv("QUICK_LOG", str(tmp_path / "log"))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    made.shutdown()


def sweep(tmp_path: Path, address: str, jobs: int) -> subprocess.Popen[str]:
    words = ["-m", f"seed=range(0,{jobs})", "trainer.max_epoch=2", "report=false"]
    words += ["hydra/launcher=ray", f"hydra.launcher.address={address}", "hydra.sweep.dir=sweep"]
    return subprocess.Popen(
        [sys.executable, quick_runs.__file__, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(folder: Path, state: str, number: int) -> None:
    end = time.monotonic() + 90
    while states(folder)[state] < number:
        assert time.monotonic() < end, states(folder)
        time.sleep(0.05)


def test_a_node_that_dies_costs_no_job(cluster: Any, tmp_path: Path) -> None:
    """Its job goes on elsewhere; each training ends once."""
    node = cluster.add_node(num_cpus=1)
    process = sweep(tmp_path, cluster.address, jobs=6)
    wait_for(tmp_path / "sweep", "running", 2)
    cluster.remove_node(node, allow_graceful=False)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert states(tmp_path / "sweep") == {"finished": 6}
    lines = Counter((tmp_path / "log").read_text().splitlines())
    assert {n for line, n in lines.items() if line.startswith("end")} == {1}
    assert sum(n for line, n in lines.items() if line.startswith("start")) == 7


def test_a_stopped_sweep_keeps_the_state_of_its_tasks(cluster: Any, tmp_path: Path) -> None:
    process = sweep(tmp_path, cluster.address, jobs=2)
    wait_for(tmp_path / "sweep", "running", 1)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert states(tmp_path / "sweep") == {"interrupted": 1}, output


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    process = sweep(tmp_path, "127.0.0.1:9", jobs=2)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "hydra.launcher.address=127.0.0.1:9: no Ray cluster there" in output
    assert "Traceback" not in output
