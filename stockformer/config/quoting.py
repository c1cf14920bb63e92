"""Paths as words of a command line that can be pasted, and read back from what was pasted."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

# Neither the shell nor Hydra sees more in it: with a slash it is no number and no keyword.
PLAIN = re.compile(r"[\w.+@%-]*/[\w./+@%-]*", re.ASCII)


def pasteable(key: str, *paths: Path) -> str:
    """`key=path,path` as one word of a shell; what is special to Hydra is in quotes of its own."""
    return shlex.quote(f"{key}={','.join(quoted(str(path)) for path in paths)}")


def quoted(value: str) -> str:
    """The value as Hydra's grammar reads it: as it is, or in single quotes."""
    if PLAIN.fullmatch(value):
        return value
    # Backslashes count only before a quote, the closing one too.
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + (r"\'" if m[2] else ""), value)
    return f"'{escaped}'"


def unquoted(value: str) -> str:
    """What `quoted` was given; a value without quotes around it is taken as it is."""
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
    except RuntimeError:  # nobody of that name
        return Path(value)


def split_paths(value: str) -> list[Path]:
    """The paths of `a,'b,c'` or `[a,'b,c']`, separated by commas outside quotes.

    Of a folder's own name, it.
    """
    if os.path.isdir(value):
        return [Path(value)]
    if value.startswith("[") and value.endswith("]"):
        value = value[1:-1]
    pieces = re.findall(r"((?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^,'\"]|['\"])+)", value)
    return [as_path(piece) for piece in pieces]
