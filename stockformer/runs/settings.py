"""The recorded settings of runs, and which of them make two runs one configuration.

A configuration is what was trained. Runs that differ in seed or fold only are of one configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stockformer.runs.folder import LONGER, MAY_CHANGE, REPEATED

Settings = tuple[tuple[str, str], ...]
"""Keys and values, sorted; equal for runs of one configuration."""

NOT_TRAINING = ("paths.", "report", "resume", "hydra", *(MAY_CHANGE - LONGER - {"tags"}))
"""Keys, or how they begin, of what does not change what is trained."""
NOT_COMPARED = (*NOT_TRAINING, "tags")
FULL_HASH = re.compile(r"^([0-9a-f]{7})[0-9a-f]{33}")


def settings_of(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value by its dotted key, as text; a reference to another key as it is written, so that
    runs of one configuration on two machines are alike."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from settings_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "null" if value is None else str(value)


def training_settings(recorded: Mapping[str, str]) -> Settings:
    """The settings that make a configuration, of all that were recorded."""
    return tuple(
        sorted(
            (setting, value)
            for setting, value in recorded.items()
            if setting not in REPEATED and not setting.startswith(NOT_COMPARED)
        )
    )


def different_code(commits: Iterable[str]) -> list[str]:
    """A note if runs that are taken for repetitions were trained by different code.

    commits: the `git_commit` of each.
    """
    found = sorted({FULL_HASH.sub(r"\1", commit) for commit in commits})
    return [f"runs of different code: commits {', '.join(found)}"] if len(found) > 1 else []
