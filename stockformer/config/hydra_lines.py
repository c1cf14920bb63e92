"""What Hydra 1.3 and Hydra 1.4 must be told differently."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import hydra.utils

WHITELIST = getattr(hydra.utils, "execution_whitelist", None)  # new in 1.4
VERSION_BASE = {} if WHITELIST else {"version_base": "1.3"}
"""Keywords for Hydra's entries: 1.4 warns where a version is asked for, 1.3 where none is."""


def only_building(targets: Iterable[str]) -> AbstractContextManager[object]:
    """Within it Hydra builds nothing but `targets`; 1.4 warns without it, 1.3 cannot be told."""
    return WHITELIST(tuple(targets), reset=True) if WHITELIST else nullcontext()
