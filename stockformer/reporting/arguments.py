"""The words after `python analyze.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VALID = {"run": "FOLDER", "output": "FILE.html"}


@dataclass(frozen=True)
class Arguments:
    """Which run to look at, and where its report goes; None where it was not said."""

    run: Path | None
    output: Path | None


def parse(words: Sequence[str]) -> Arguments:
    """Raises ValueError for a word that is not one of `VALID`, or comes twice."""
    given: dict[str, Path] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in VALID or not value or name in given:
            valid = ", ".join(f"{key}={kind}" for key, kind in VALID.items())
            raise ValueError(f"argument {word!r} not understood; valid are, each once: {valid}")
        given[name] = Path(value).expanduser()
    return Arguments(given.get("run"), given.get("output"))
