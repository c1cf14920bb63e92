"""A PostgreSQL server of a test's own, on a free port, removed afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, newest version first; Debian keeps it off the path."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return versions[0].parent if versions else None


@dataclass(frozen=True)
class Server:
    """url: of its database. stop, start: as a crash and a restart."""

    url: str
    stop: Callable[[], None]
    start: Callable[[], None]


@contextmanager
def server() -> Iterator[Server]:
    """A server that runs. It refuses to run as root, for whom the user postgres starts it."""
    run = programs()
    assert run is not None
    data = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(data, account.pw_uid, account.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = "postgres" if os.geteuid() == 0 else None

    def call(*command: Path | str) -> None:
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, cwd="/", user=user, group=user
        )

    call(run / "initdb", "-D", data / "db", "-U", "tester", "-A", "trust", "--no-sync")
    control = (run / "pg_ctl", "-D", data / "db", "-w")
    options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1"
    made = Server(
        url=f"postgresql://tester@127.0.0.1:{port}/postgres",
        stop=lambda: call(*control, "-m", "immediate", "stop"),
        start=lambda: call(*control, "-l", data / "log", "-o", options, "start"),
    )
    made.start()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(data)
