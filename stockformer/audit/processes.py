"""Functions called in new processes, which then answer questions about what they have found."""

from __future__ import annotations

import logging
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

import torch

from stockformer.config.trust import trust, trusted
from stockformer.runs.fork_server import start_fork_server

Ask = Callable[..., Any]
Function = Callable[..., tuple[Any, Ask]]
"""Returns what it has found, and what answers questions about it."""


def start_server(start_method: str, module: str) -> None:
    """Start the server that processes are forked from: it imports for seconds, meanwhile go on."""
    if start_method == "forkserver":  # the server has imported the module, but read no data
        start_fork_server([module])


@contextmanager
def called(start_method: str, function: Function, *arguments: Any) -> Iterator[tuple[Any, Ask]]:
    """What the function returns in a new process, which ends with this context.

    Without a start method it is called in this process, which is faster but not isolated. Raises
    ValueError for the function's errors.
    """
    if not start_method:
        yield function(*arguments)
        return
    start_server(start_method, function.__module__)
    context = multiprocessing.get_context(start_method)
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, trusted(), function, arguments))  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    lock = Lock()  # questions may come from several threads

    def received() -> Any:
        try:
            found, error = ours.recv()
        except EOFError:
            process.join()
            raise ValueError(
                f"look-ahead audit: the process that prepared the data ended with status "
                f"{process.exitcode}: out of memory?"
            ) from None
        if error:
            raise ValueError(error)
        return found

    def ask(*question: Any) -> Any:
        with lock:
            ours.send(question)
            return received()

    try:
        yield received(), ask
    finally:
        ours.close()
        process.terminate()  # it has nothing left to do
        process.join()


def _answer(
    connection: Connection,
    packages: frozenset[str],
    function: Function,
    arguments: tuple[Any, ...],
) -> None:
    trust(packages)
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)  # the first preparation has already logged the messages
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    try:
        found, answer = function(*arguments)
        connection.send((found, ""))
        while True:
            connection.send((answer(*connection.recv()), ""))
    except (EOFError, BrokenPipeError):
        pass  # nobody asks any more
    except (ValueError, OSError, ArithmeticError) as error:
        connection.send((None, str(error) or type(error).__name__))
    except Exception:
        connection.send((None, traceback.format_exc()))
    finally:
        connection.close()
