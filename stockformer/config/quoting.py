"""Paths quoted as words of a command line that can be pasted, and parsed back."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

# Without special meaning for shell and Hydra: with a slash it is no number and no keyword.
PLAIN = re.compile(r"[\w.+@%-]*/[\w./+@%-]*", re.ASCII)


def pasteable(key: str, *paths: Path) -> str:
    """`key=path,path` as one shell word; text that is special to Hydra has its own quotes."""
    return shlex.quote(f"{key}={','.join(quoted(str(path)) for path in paths)}")


def quoted(value: str) -> str:
    """The value for Hydra's grammar: unchanged, or in single quotes."""
    if PLAIN.fullmatch(value):
        return value
    # Backslashes are special only before a quote, including the closing one.
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + (r"\'" if m[2] else ""), value)
    return f"'{escaped}'"


def unquoted(value: str) -> str:
    """The inverse of `quoted`; a value without quotes is unchanged."""
    match = re.fullmatch(r"(['\"])(.*)\1", value, re.DOTALL)
    if match is None:
        return value
    quote, inner = match.groups()
    return re.sub(rf"(\\*)(\\{quote}|\Z)", lambda m: m[1][::2] + m[2][1:], inner)


def as_path(value: str) -> Path:
    """The path that a value names; ~ is a home folder, unless it is in quotes."""
    if unquoted(value) != value:
        return Path(unquoted(value))
    try:
        return Path(value).expanduser()
    except RuntimeError:  # no user of that name
        return Path(value)


def split_paths(value: str) -> list[Path]:
    """The paths of `a,'b,c'` or `[a,'b,c']`, separated by commas outside quotes.

    If the whole value is the name of a folder, only that folder.
    """
    if os.path.isdir(value):
        return [Path(value)]
    if value.startswith("[") and value.endswith("]"):
        value = value[1:-1]
    pieces = re.findall(r"((?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^,'\"]|['\"])+)", value)
    return [as_path(piece) for piece in pieces]
