"""Differences between Hydra 1.3 and Hydra 1.4."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import hydra.utils

WHITELIST = getattr(hydra.utils, "execution_whitelist", None)  # new in 1.4
VERSION_BASE = {} if WHITELIST else {"version_base": "1.3"}
"""Keywords for Hydra's entry points: 1.4 warns if `version_base` is given, 1.3 if it is not."""


def only_building(targets: Iterable[str]) -> AbstractContextManager[object]:
    """Within it Hydra builds only `targets`; 1.4 warns without it, 1.3 has no such setting."""
    return WHITELIST(tuple(targets), reset=True) if WHITELIST else nullcontext()
