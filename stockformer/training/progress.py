"""Signs of life: a bar on a terminal, a line now and then elsewhere; times as people say them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.progress import track

from stockformer.runs.console import animates, make_console
from stockformer.runs.logs import is_main_process

log = logging.getLogger(__name__)

EVERY = 30.0  # seconds from one line to the next
Item = TypeVar("Item")
_tasks: list[str] = []  # what is being worked on, the whole before its parts


def progress(
    items: Iterable[Item],
    description: str,
    total: int,
    done: int = 0,
    detail: Callable[[], str] = str,
) -> Iterable[Item]:
    """Yield `items`, with a bar and the time left on a terminal; it vanishes once they are done.

    Elsewhere a line of the log says so every EVERY seconds, with what `detail` adds.
    Of several processes only the first shows anything.
    """
    if not is_main_process():
        return items
    if animates():
        return track(
            *(items, description),
            total=total,
            completed=done,
            console=make_console(),
            transient=True,
        )
    return _told(items, description, total, done, detail)


def _told(
    items: Iterable[Item], description: str, total: int, done: int, detail: Callable[[], str]
) -> Iterator[Item]:
    started = told = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now, left = time.monotonic(), total - done - number
        if now - told >= EVERY and left:
            told = now
            rest = human_time((now - started) / number * left)
            log.info("%s: %d of %d%s, %s left", description, done + number, total, detail(), rest)


@contextmanager
def working(task: str) -> Iterator[None]:
    """Within this context a line every EVERY seconds says that `task` is still being done."""
    if not is_main_process():
        yield
        return
    done = threading.Event()
    started = time.monotonic()

    def tell() -> None:
        while not done.wait(EVERY):
            if _tasks[-1:] == [task]:  # else a part of it tells
                log.info("%s: %s so far", task, human_time(time.monotonic() - started))

    teller = threading.Thread(target=tell, daemon=True)
    _tasks.append(task)
    teller.start()
    try:
        yield
    finally:
        done.set()
        _tasks.remove(task)
        teller.join()


def human_time(seconds: float) -> str:
    """12 s, 3 min 20 s, 1 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"
