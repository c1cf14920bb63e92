"""A Slurm cluster of a test's own on this machine: a queue, two nodes, two partitions."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=2 State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=30
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


def programs_are_there() -> bool:
    return all(shutil.which(program) for program in PROGRAMS)


class Cluster:
    """folder: of its configuration, state and logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        ports = dict(zip(("controller", "n1", "n2"), _free_ports(3)))
        user = pwd.getpwuid(os.geteuid()).pw_name
        self.configuration.write_text(
            CONFIGURATION.format(host=socket.gethostname(), folder=folder, user=user, **ports)
        )
        (folder / "state").mkdir()

    def start(self, program: str, *words: str) -> None:
        """slurmctld, or slurmd -N NODE: each goes into the background."""
        subprocess.run([program, "-f", str(self.configuration), *words], check=True)

    def call(self, *command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def kill(self, name: str) -> None:
        """slurmctld or slurmd.NODE; of a node also its jobs, as if its power had failed."""
        file = self.folder / f"{name}.pid"
        if not file.exists():
            return
        of_jobs = _processes_of_jobs(self.configuration, name.removeprefix("slurmd."))
        processes = {int(file.read_text()), *of_jobs}
        for number in (signal.SIGSTOP, signal.SIGKILL):  # none can report another one's end
            for process_id in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process_id, number)
        file.unlink()

    def runs_jobs(self) -> bool:
        """Whether a job's step gets to a node: not where the host's name leads elsewhere."""
        command = ["sbatch", "--wait", "--output=/dev/null", "--time=1", "--wrap=srun true"]
        try:
            return (
                subprocess.run(command, capture_output=True, timeout=90, check=False).returncode
                == 0
            )
        except subprocess.TimeoutExpired:
            return False

    def wait_until_idle(self) -> None:
        end = time.monotonic() + 60
        while self.call("sinfo", "--noheader", "--format=%T", "--partition=low").split() != [
            "idle"
        ]:
            assert time.monotonic() < end, self.call("sinfo")
            time.sleep(0.2)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """SLURM_CONF names its configuration within this context."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    made = Cluster(folder)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(made.configuration)
    try:
        made.start("slurmctld", "-c")
        for node in ("n1", "n2"):
            made.start("slurmd", "-N", node)
        made.wait_until_idle()
        yield made
    finally:
        for name in ("slurmd.n1", "slurmd.n2", "slurmctld"):
            made.kill(name)
        del os.environ["SLURM_CONF"]
        if before is not None:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _processes_of_jobs(configuration: Path, node: str) -> set[int]:
    """Those of the jobs on the node, and Slurm's own that watch them."""
    found = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            watched_by = Path(f"/proc/{parent}/cmdline").read_bytes()
        except OSError:
            continue
        ours = {f"SLURM_CONF={configuration}".encode(), f"SLURMD_NODENAME={node}".encode()}
        if ours.issubset(environment):
            found.add(int(process.name))
            if watched_by.startswith(b"slurmstepd"):
                found.add(parent)
    return found


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
