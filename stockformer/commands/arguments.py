"""The words after `python analyze.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stockformer.config.quoting import as_path, split_paths

VALID = {
    "run": "FOLDER",
    "output": "FILE.html",
    "evaluate": "true",
    "ensemble": "FOLDER,FOLDER",
    "into": "FOLDER",
}


@dataclass(frozen=True)
class Arguments:
    """What to look at, and where its report goes; None where it was not said.

    evaluate: judge the run's model again, with `overrides` elsewhere. ensemble: folders of runs to
    judge as one. into: where the new judgement goes.
    """

    run: Path | None
    output: Path | None
    evaluate: bool
    ensemble: tuple[Path, ...]
    into: Path | None
    overrides: tuple[str, ...]


def parse(words: Sequence[str]) -> Arguments:
    """Raises ValueError for a word that is not one of `VALID`, comes twice, or has no use."""
    evaluate = "evaluate=true" in words
    given: dict[str, str] = {}
    overrides = []
    for word in words:
        name, _, value = word.partition("=")
        if evaluate and name not in VALID and value:
            overrides.append(word)
        elif name not in VALID or not value or name in given or value == "false":
            valid = ", ".join(f"{key}={kind}" for key, kind in VALID.items())
            raise ValueError(f"argument {word!r} not understood; valid are, each once: {valid}")
        else:
            given[name] = value
    if "ensemble" in given and (evaluate or "run" in given):
        raise ValueError("ensemble=: names the runs itself; leave run= and evaluate= out")
    if "into" in given and not overrides and "ensemble" not in given:
        raise ValueError("into=: goes with ensemble=, or with evaluate=true and a change")
    path = {name: as_path(given[name]) for name in ("run", "output", "into") if name in given}
    return Arguments(
        run=path.get("run"),
        output=path.get("output"),
        evaluate=evaluate,
        ensemble=tuple(split_paths(given.get("ensemble", ""))),
        into=path.get("into"),
        overrides=tuple(overrides),
    )
