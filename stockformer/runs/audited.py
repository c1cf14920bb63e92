"""The outcome of the last look-ahead audit of the same data, settings and code.

Kept in the cache folder under a name that stands for all three, so that after any change of one
there is none.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stockformer.runs import atomic

log = logging.getLogger(__name__)

PASSED, FAILED = "passed", "FAILED"
NOT_RUN = "not run"
PACKAGE = Path(__file__).parents[1]
AFTER_THE_DATA = ("seed", "tags", "paths", "report", "resume", "optimizer", "scheduler", "trainer")
"""Settings that decide neither what a model sees of a day nor how it is traded."""


def record(config: DictConfig, manifest: Mapping[str, Any], leaks: int, cuts: int) -> None:
    """Keep the outcome of an audit that ended today. manifest: of a run with these settings."""
    if not config.trust:  # code outside the package, which `_file` knows nothing of
        outcome = PASSED if not leaks else FAILED
        dates = "1 cut date" if cuts == 1 else f"{cuts} cut dates"
        path = _file(config, manifest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(path, f"{outcome} on {date.today()} with {dates}".encode())
        except OSError as error:
            log.warning("the outcome of the audit is not recorded: %s", error)


def outcome(config: DictConfig, manifest: Mapping[str, Any]) -> str:
    """ "passed on DATE with N cut dates", "FAILED on ..." or "not run"."""
    path = _file(config, manifest)
    if config.trust or not path.is_file():
        return NOT_RUN
    text = atomic.read(path).decode(errors="replace")
    return text if text.startswith((PASSED, FAILED)) else NOT_RUN


def _file(config: DictConfig, manifest: Mapping[str, Any]) -> Path:
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    kept = {name: value for name, value in settings.items() if name not in AFTER_THE_DATA}
    facts = [kept, manifest["data_hash"], manifest["versions"]]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE)}\n".encode() + file.read_bytes())
    return Path(config.paths.cache_dir) / f"lookahead-{digest.hexdigest()[:32]}.txt"
