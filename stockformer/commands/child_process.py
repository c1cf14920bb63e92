"""A program of the project in a process of its own, which gets the signals that this one gets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import stockformer
from stockformer.runs.console import program
from stockformer.runs.interruption import SIGNALS


def run_program(name: str, words: Sequence[str]) -> int:
    """`python NAME.py WORDS`, wherever this process was started; its exit status."""
    started_as = program(name).split()[-1]
    code = f"import sys; sys.argv[0] = {started_as!r}; from stockformer.programs.{name} import main"
    return run_python("-c", f"{code}; main()", *words)


def run_python(*arguments: str) -> int:
    """`python ARGUMENTS` with the package of this process; its exit status, 128 + N for signal N.

    Signals to stop are passed on, each once, also Ctrl-C, which the child in its own process group
    does not get from the terminal: it saves its state, and then this process exits with 128 + N.
    """
    child: subprocess.Popen[bytes] | None = None
    received: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        if child is not None:
            child.send_signal(number)

    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, pass_on) for number in handled}
    try:
        places = [str(Path(stockformer.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        child = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
            process_group=0,
        )
        for number in received:  # came while the process was being started
            child.send_signal(number)
        status = child.wait()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if received:
        sys.exit(128 + received[-1])
    return status if status >= 0 else 128 - status
