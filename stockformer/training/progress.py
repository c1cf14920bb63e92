"""Progress: a bar on a terminal, otherwise a log line from time to time; readable durations."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.progress import track

from stockformer.runs.console import human_time, is_interactive, make_console
from stockformer.runs.logs import is_main_process

log = logging.getLogger(__name__)

EVERY = 30.0  # seconds from one line to the next
Item = TypeVar("Item")
_tasks: list[str] = []  # the tasks in progress, a task before its parts


def progress(
    items: Iterable[Item],
    description: str,
    total: int,
    done: int = 0,
    detail: Callable[[], str] = str,
) -> Iterable[Item]:
    """Yield `items`, with a bar and the time left on a terminal; it disappears at the end.

    Without a terminal, a line is logged every EVERY seconds, with the text of `detail`.
    Only the main process shows progress.
    """
    if not is_main_process():
        return items
    if is_interactive():
        return track(
            items,
            description,
            total=total,
            completed=done,
            console=make_console(),
            transient=True,
        )
    return _logged(items, description, total, done, detail)


def _logged(
    items: Iterable[Item], description: str, total: int, done: int, detail: Callable[[], str]
) -> Iterator[Item]:
    started = last = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now, left = time.monotonic(), total - done - number
        if now - last >= EVERY and left:
            last = now
            rest = human_time((now - started) / number * left)
            log.info("%s: %d of %d%s, %s left", description, done + number, total, detail(), rest)


@contextmanager
def working(task: str) -> Iterator[None]:
    """Within this context a line every EVERY seconds logs that `task` is still in progress."""
    if not is_main_process():
        yield
        return
    done = threading.Event()
    started = time.monotonic()

    def log_progress() -> None:
        while not done.wait(EVERY):
            if _tasks[-1:] == [task]:  # otherwise a part of it logs
                log.info("%s: %s so far", task, human_time(time.monotonic() - started))

    reporter = threading.Thread(target=log_progress, daemon=True)
    _tasks.append(task)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        _tasks.remove(task)
        reporter.join()
