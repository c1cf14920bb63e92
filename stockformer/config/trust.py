"""The packages of the user that a configuration may name classes of: `trust=[mypackage]`.

Building what a configuration names runs its code, so only a command line can trust a package, never
a file: one that was sent by somebody else would then run what it likes.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

PACKAGE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
NOT_YOURS = {"torch", "numpy", "pandas", "hydra", "omegaconf", "scipy", "sklearn", "stockformer"}

_trusted: set[str] = set()


def trust_named(words: Sequence[str]) -> None:
    """Trust the packages in the last trust= among the words of a command line of this start.

    A package is installed, or a folder of the current one. Raises ValueError for another name.
    """
    values = [word.partition("=")[2] for word in words if names_packages(word)]
    if values:
        names = [name.strip(" '\"") for name in values[-1].strip("[]").split(",")]
        trust(name for name in names if name)


def names_packages(word: str) -> bool:
    """Whether a word of the command line is trust=..."""
    return word.lstrip("+").partition("=")[0] == "trust"


def trust(packages: Iterable[str]) -> None:
    """Let `_target_` name what the packages define, in this process."""
    for name in packages:
        if not PACKAGE.fullmatch(name) or name in NOT_YOURS | sys.stdlib_module_names:
            raise ValueError(
                f"trust=[{name}]: must be a package of your own, by its name without a dot"
            )
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise ValueError(
                f"trust=[{name}]: no such package is installed, nor is there one in {Path.cwd()}"
            )
        _trusted.add(name)


def trusted() -> frozenset[str]:
    return frozenset(_trusted)


def trusted_code() -> list[Path]:
    """The files or folders of the trusted packages."""
    found = {name: importlib.util.find_spec(name) for name in sorted(_trusted)}
    return [
        Path(place)
        for spec in found.values()
        if spec is not None
        for place in (spec.submodule_search_locations or filter(None, [spec.origin]))
    ]


def is_trusted(name: str) -> bool:
    """Whether a dotted name is of a trusted package."""
    return name.partition(".")[0] in _trusted
