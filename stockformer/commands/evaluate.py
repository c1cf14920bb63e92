"""`evaluate.py`: evaluate one model again or elsewhere, or several runs as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType

from stockformer.commands.plain_command import Words
from stockformer.config.quoting import as_path, split_paths
from stockformer.reporting import terminal
from stockformer.runs.ensemble import ensemble
from stockformer.runs.recorded_run import is_run, newest_run
from stockformer.runs.reevaluation import reevaluate


def evaluate(words: Words, overrides: list[str]) -> Iterator[RenderableType]:
    """Yields what to print. Raises ValueError if it cannot be evaluated."""
    runs = split_paths(words["run"]) if "run" in words else [newest_run(Path())]
    into = as_path(words["into"]) if "into" in words else None
    importance = words.get("importance", "false").lower()
    if importance not in ("true", "false"):
        raise ValueError(f"importance={words['importance']}: true or false")
    listed = words.get("run", "").startswith("[") and not Path(words["run"]).is_dir()
    if listed or len(runs) > 1 or (runs[0].is_dir() and not is_run(runs[0])):
        if overrides:
            raise ValueError(
                f"{overrides[0]}: several runs are evaluated as one on their own test days; name "
                "one run to evaluate it elsewhere"
            )
        if importance == "true":
            raise ValueError("importance=true: is computed for one run; name it with run=FOLDER")
        folder = ensemble(runs, into)
    elif into is not None and not overrides:
        raise ValueError("into=: goes with a change such as split.fold=1, or with several runs")
    else:
        folder = reevaluate(runs[0], overrides, into, importance=importance == "true")
    yield from terminal.analyse(folder, as_path(words["output"]) if "output" in words else None)
