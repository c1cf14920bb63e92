"""The process that others are forked from: it has imported PyTorch, so that they start at once."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from multiprocessing import forkserver

_environment = threading.Lock()  # of the process, which all its threads change


def start_fork_server(preload: Sequence[str]) -> None:
    """Start it without waiting for it; it imports the modules `preload` in the meantime.

    It finds modules where this process does. Python 3.11 itself would have it import them from the
    working directory or the environment: of two checkouts, perhaps the other one.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(preload))
    same = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    with _environment:
        before = {name: os.environ.get(name) for name in same}
        os.environ |= same
        try:
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value
