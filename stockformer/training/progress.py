"""A progress bar on the terminal; nothing where the output is not one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, total: int) -> Iterable[Item]:
    """Yield `items`; the bar vanishes once they are done."""
    console = Console()
    if not console.is_terminal:
        return items
    return track(items, description, total=total, console=console, transient=True)
