"""Jobs in a real Slurm queue whose time runs out, that are pre-empted, whose machine dies."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs.small_run import SmallRuns, differences
from sweeps import quick_runs, slow_train, slurm
from sweeps.quick_runs import states

from stockformer.config.overrides import check_command_line

pytest.importorskip("submitit", reason="the extra slurm is not installed")

LOCAL = "hydra/launcher=slurm_local"
SLURM = "hydra/launcher=slurm"
real_queue = pytest.mark.skipif(
    not slurm.programs_are_there(), reason="no Slurm (apt-get install slurmctld slurmd)"
)
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def cluster() -> Iterator[slurm.Cluster]:
    with slurm.cluster() as made:
        if not made.runs_jobs():
            pytest.skip("the Slurm that was started here cannot run a job on this machine")
        yield made


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start("seed=1,2", SLURM)`: a sweep in the folder `sweep`, of quick trainings."""
    started = []

    def call(*words: str, program: str = quick_runs.__file__, seconds: float = 2) -> object:
        place = ("report=false", "hydra.sweep.dir=sweep") if words[0] != "resume=sweep" else ()
        process = subprocess.Popen(
            [sys.executable, program, "-m", *words, *place],
            cwd=tmp_path,
            env={
                **os.environ,
                "QUICK_SECONDS": str(seconds),
                "QUICK_LOG": str(tmp_path / "log"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield call  # type: ignore[misc]
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], status: int = 0, seconds: float = 240) -> str:
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == status, output
    assert "Traceback" not in output, output
    return output


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def running(tmp_path: Path) -> int:
    return states(tmp_path / "sweep")["running"]


def lines(tmp_path: Path) -> Counter[str]:
    """How often which quick training was started and ended."""
    return Counter((tmp_path / "log").read_text().splitlines())


def test_the_batch_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    """What is handed to sbatch, where sbatch refuses it."""
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "srun"):
        file = tmp_path / "bin" / name
        file.write_text(
            f'#!/bin/sh\ncat "$1" > {tmp_path}/script\necho no such partition >&2\nexit 1\n'
        )
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    settings = ["partition=gpu", "account=team", "timeout_min=90", "signal_delay_s=30", "threads=4"]
    settings += ["mem_gb=12", "gpus_per_node=1", "qos=low", "constraint=a100"]
    output = ended(start("seed=1,2", SLURM, *(f"hydra.launcher.{s}" for s in settings)), status=1)
    assert "hydra/launcher=slurm: " in output
    assert "no such partition" in output
    script = (tmp_path / "script").read_text().splitlines()
    flags = {line.removeprefix("#SBATCH --") for line in script if line.startswith("#SBATCH")}
    assert flags >= {
        *("partition=gpu", "account=team", "time=90", "signal=USR2@30", "cpus-per-task=4"),
        *("mem=12GB", "gpus-per-node=1", "qos=low", "constraint=a100", "requeue"),
    }
    (command,) = (shlex.split(line) for line in script if line.startswith("srun"))
    assert sys.executable in command
    assert command[-1] == str(tmp_path / "sweep" / "slurm" / "0.1")


def test_a_name_is_a_word() -> None:
    for value in ("'a b'", r"'x\n#SBATCH --uid=0'", "''"):
        with pytest.raises(ValueError, match=r"hydra\.launcher\.partition=.*not a name"):
            check_command_line(["seed=1,2", SLURM, f"hydra.launcher.partition={value}"], True)


def test_without_slurm(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "try hydra/launcher=slurm_local" in ended(start("seed=1,2", SLURM), status=1)


@pytest.mark.full
def test_processes_of_slurm_local(tmp_path: Path, start: Start) -> None:
    """One is killed, one raises; the others end well."""
    os.environ["QUICK_FAULTS"] = "1=killed,2=exception"
    try:
        process = start("seed=1,2,3,4", LOCAL, "hydra.launcher.n_jobs=4", seconds=0.2)
    finally:
        del os.environ["QUICK_FAULTS"]
    output = ended(process, status=1)
    assert states(tmp_path / "sweep")["finished"] == 2
    assert "job 1 killed: ended with KILLED" in output
    assert "a bug in a model" in output


@pytest.mark.full
def test_ctrl_c_keeps_the_state_of_slurm_local(tmp_path: Path, start: Start) -> None:
    process = start("seed=1,2", LOCAL, seconds=30)
    wait_for(lambda: running(tmp_path) == 2)
    os.killpg(process.pid, signal.SIGINT)
    ended(process, status=130)
    assert states(tmp_path / "sweep") == {"interrupted": 2}


@real_queue
@pytest.mark.full
def test_a_grid_in_a_queue(tmp_path: Path, cluster: slurm.Cluster, start: Start) -> None:
    ended(start("seed=range(0,6)", SLURM, seconds=0.5))
    assert states(tmp_path / "sweep") == {"finished": 6}
    assert set(lines(tmp_path).values()) == {1}


@real_queue
@pytest.mark.full
def test_a_search_in_a_queue(tmp_path: Path, cluster: slurm.Cluster, start: Start) -> None:
    ended(start("search=optuna", "hydra.sweeper.n_trials=6", SLURM, seconds=0.5))
    assert states(tmp_path / "sweep") == {"finished": 6}


@real_queue
@pytest.mark.full
def test_a_job_whose_time_is_up_continues_to_the_bit(
    tmp_path: Path, cluster: slurm.Cluster, start: Start
) -> None:
    small = SmallRuns(tmp_path)
    # Slurm warns up to a minute early; 75 epochs of over a second do not fit on any machine.
    long = ("trainer.max_epoch=75", "trainer.early_stopping.patience=75")
    words = small.words(*long)
    words = [word for word in words if not word.startswith("report")]
    limits = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=55")
    output = ended(start(*words, SLURM, *limits, program=slow_train.__file__), seconds=600)
    assert "submitted again" in output
    small.run(tmp_path / "whole", *long)
    assert not differences(tmp_path / "sweep" / "0", tmp_path / "whole")


@real_queue
@pytest.mark.full
def test_a_pre_empted_job_continues(tmp_path: Path, cluster: slurm.Cluster, start: Start) -> None:
    process = start("seed=1", SLURM, "hydra.launcher.threads=2", seconds=20)
    wait_for(lambda: running(tmp_path) == 1)
    for node in ("n1", "n2"):
        cluster.call(
            *("sbatch", "--partition=high", "--cpus-per-task=2", f"--nodelist={node}"),
            *("--output=/dev/null", "--wrap=sleep 8"),
        )
    wait_for(lambda: states(tmp_path / "sweep") == {"interrupted": 1})
    output = ended(process)
    assert "submitted again" in output  # it ended in its grace time: for Slurm it has failed
    assert lines(tmp_path) == {"start 0": 2, "end 0": 1}, output


@real_queue
@pytest.mark.full
def test_a_node_that_dies_and_comes_back_costs_no_job(
    tmp_path: Path, cluster: slurm.Cluster, start: Start
) -> None:
    process = start("seed=1,2,3,4", SLURM, seconds=25)
    wait_for(lambda: running(tmp_path) == 4)
    cluster.kill("slurmd.n2")
    time.sleep(1)
    cluster.start("slurmd", "-b", "-N", "n2")  # rebooted; else Slurm notices after minutes
    ended(process)
    assert states(tmp_path / "sweep") == {"finished": 4}
    counted = lines(tmp_path)
    assert {n for line, n in counted.items() if line.startswith("end")} == {1}
    assert sum(n for line, n in counted.items() if line.startswith("start")) == 6


@real_queue
@pytest.mark.full
def test_slurms_own_controller_may_be_away(
    tmp_path: Path, cluster: slurm.Cluster, start: Start
) -> None:
    process = start("seed=range(0,6)", SLURM, "hydra.launcher.n_jobs=4", seconds=8)
    wait_for(lambda: running(tmp_path) >= 2)
    cluster.kill("slurmctld")
    output = ""
    while "Slurm does not answer" not in output and " waits: " not in output:
        assert process.poll() is None, output
        output += process.stdout.readline()  # Slurm's commands try again for a while by themselves
    cluster.start("slurmctld")
    assert "Traceback" not in output + ended(process)
    assert states(tmp_path / "sweep") == {"finished": 6}
    assert set(lines(tmp_path).values()) == {1}


@real_queue
@pytest.mark.full
def test_a_job_that_the_user_cancels_stays_cancelled(
    tmp_path: Path, cluster: slurm.Cluster, start: Start
) -> None:
    process = start("seed=1,2", SLURM, seconds=20)
    wait_for(lambda: running(tmp_path) == 2)
    first = cluster.call("squeue", "--noheader", "--format=%A").split()[-1]
    cluster.call("scancel", first)
    output = ended(process, status=1)
    assert "ended with CANCELLED" in output
    assert states(tmp_path / "sweep") == {"finished": 1, "interrupted": 1}


@real_queue
@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_sweep_is_resumed_at_once(
    tmp_path: Path, cluster: slurm.Cluster, start: Start, number: signal.Signals
) -> None:
    """Four run, two wait. Those that ran keep their state; what waits does not run beside its
    successor."""
    process = start("seed=range(0,6)", SLURM, seconds=30)
    wait_for(lambda: running(tmp_path) == 4)
    process.send_signal(number)
    process.communicate(timeout=60)
    if number is signal.SIGTERM:
        assert states(tmp_path / "sweep") == {"interrupted": 4}
    ended(start("resume=sweep", seconds=0.2))
    assert states(tmp_path / "sweep") == {"finished": 6}
    assert {n for line, n in lines(tmp_path).items() if line.startswith("end")} == {1}
    wait_for(lambda: not cluster.call("squeue", "--noheader").strip())


@pytest.mark.full
def test_a_stop_does_not_wait_for_what_has_ended(tmp_path: Path, start: Start) -> None:
    process = start("seed=1,2", LOCAL, "hydra.launcher.n_jobs=2", seconds=0.1)
    wait_for((tmp_path / "log").exists)
    process.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - stopped < 30


@pytest.mark.full
def test_a_refused_job_waits_until_another_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    """A queue that takes one job at a time and gives each the same id, as Slurm may after a crash
    of its controller: sbatch and squeue of the test's own."""
    scripts = {
        "srun": "exit 1",
        "scancel": "exit 0",
        "squeue": f"cat {tmp_path}/jobs 2>/dev/null",
        "sbatch": f"""
if grep -q RUNNING {tmp_path}/jobs 2>/dev/null; then
  echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1
fi
echo "7 RUNNING" > {tmp_path}/jobs
(
  sleep 0.5  # submitit names the files by the number that this prints
  SLURM_JOB_ID=7 SUBMITIT_EXECUTOR=slurm {sys.executable} -m submitit.core._submit \\
    "$(grep ^srun "$1" | sed 's/.* //')" >/dev/null 2>&1
  echo "7 COMPLETED" > {tmp_path}/jobs
) >/dev/null 2>&1 &
echo "Submitted batch job 7"
""",
    }
    (tmp_path / "bin").mkdir()
    for name, text in scripts.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    output = ended(start("seed=1,2,3", SLURM, seconds=0.2))
    assert "waits: " in output
    assert "QOSMaxSubmitJobPerUserLimit" in output
    assert states(tmp_path / "sweep") == {"finished": 3}
