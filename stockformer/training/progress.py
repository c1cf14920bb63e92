"""Progress on the terminal, and times as people say them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from stockformer.run import leads

Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, total: int, done: int = 0) -> Iterable[Item]:
    """Yield `items`, with a bar and the time left on a terminal; it vanishes once they are done.

    Of several processes only the first draws it.
    """
    console = Console()
    if not (console.is_terminal and leads()):
        return items
    return track(items, description, total=total, completed=done, console=console, transient=True)


def human_time(seconds: float) -> str:
    """12 s, 3 min 20 s, 1 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"
