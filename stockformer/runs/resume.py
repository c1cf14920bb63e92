"""Resuming a stopped run: which run, and which settings may change."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stockformer.config.composition import composing, names_config_dir
from stockformer.config.overrides import check_sources
from stockformer.config.quoting import as_path, pasteable
from stockformer.config.recorded import current_overrides, read_config
from stockformer.config.rules import flat
from stockformer.config.schema import CONFIG_NAME
from stockformer.runs import atomic
from stockformer.runs.console import program
from stockformer.runs.folder import LONGER, MAY_CHANGE, TREES, RunDir, runs_under

log = logging.getLogger(__name__)

KILLED_TOO_EARLY = (
    "was stopped before it had saved its settings, so there is nothing to continue; start it again "
    "(its folder may be named again, or deleted)"
)


def requested_run(words: Sequence[str]) -> Path | None:
    """The folder that `resume=` names among the words of a command line, quoted or not.

    `latest` is the unfinished run below outputs/ and multirun/ whose status was written last; those
    that were killed before they saved their settings are skipped.
    Raises ValueError if there is none.
    """
    value = requested_value(words)
    if value is None:
        return None
    if value != "latest":
        return as_path(value)
    runs = [RunDir(path) for tree in TREES for path in runs_under(Path(tree))]
    runs.sort(key=lambda run: run.status_file.stat().st_mtime_ns)
    while runs:
        run = runs.pop()
        if _unfinished(run):
            return run.path
        if run.killed() and not run.begun():
            log.warning("skipped %s: %s", run.path, KILLED_TOO_EARLY)
    raise ValueError("resume=latest: no unfinished run in outputs or multirun; name a folder")


def requested_value(words: Sequence[str]) -> str | None:
    """The value of the last resume= among the words; None without one, or with null."""
    values = [word.partition("=")[2] for word in words if names_a_run(word)]
    if not values or values[-1] == "null":
        return None
    if not values[-1]:
        raise ValueError("resume: has no value; write resume=FOLDER, or resume=latest")
    return values[-1]


def names_a_run(word: str) -> bool:
    """Whether a word of the command line is resume=..."""
    return word.lstrip("+").partition("=")[0] == "resume"


def continued(folder: Path, words: Sequence[str]) -> tuple[DictConfig, list[str]] | None:
    """The configuration of the run in `folder` with the changes in `words`, and all its words.

    None if the run has finished and `words` do not extend it. Raises ValueError naming a key that
    would change completed epochs.
    """
    run = RunDir(folder)
    if folder.is_dir():
        atomic.require_plain_files(folder)
    finished = run.status()["state"] == "finished"
    if not run.begun():
        raise ValueError(f"{folder}: {KILLED_TOO_EARLY}")
    text, before = run.read_config()
    before = current_overrides(before)
    if not _is_training(run):
        raise ValueError(
            f"{folder}: an evaluation or an ensemble, not a training; it cannot be resumed"
        )
    config = read_config(text)
    if any(not isinstance(word, str) or "hydra" in word.partition("=")[0] for word in before):
        raise ValueError(f"{run.overrides_file}: damaged: not a list of overrides")
    words = [word for word in words if not (word.startswith("hydra.") or names_a_run(word))]
    try:
        check_sources([*before, *filter(names_config_dir, words)])
    except ValueError as error:
        raise ValueError(f"{run.overrides_file}: does not fit conf/ any more: {error}") from error
    try:
        with composing([*before, *words]):
            then = compose(CONFIG_NAME, before)
            now = compose(CONFIG_NAME, [*before, *words]) if words else then
        old, new = flat(then), flat(now)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{run.overrides_file}: does not fit conf/ any more: {error}") from error
    changed = {key for key in {**old, **new} if old.get(key) != new.get(key)}
    for key in sorted(changed - MAY_CHANGE):
        raw = unresolved(now, key)
        if "${paths." not in raw:
            follows = f" follows {raw}," if "${" in raw else ""
            raise ValueError(
                f"{key}:{follows} was {old.get(key)!r} when this run started, and cannot become "
                f"{new.get(key)!r}: that would change completed epochs. A resumed run may change "
                f"{', '.join(sorted(MAY_CHANGE - {'resume'}))}; for the rest start a new run"
            )
    if finished and not changed & LONGER:
        log.info("%s has finished: nothing to do. To train on, raise trainer.max_epoch", folder)
        if config.report and not run.report_file.exists():
            log.info("its report is written by %s %s", program("analyze"), pasteable("run", folder))
        return None
    done = run.epochs_done()
    if now.trainer.max_epoch < done:
        raise ValueError(
            f"trainer.max_epoch={now.trainer.max_epoch}: the run already has {done} epochs"
        )
    for key in changed & MAY_CHANGE:
        OmegaConf.update(config, key, OmegaConf.select(now, key))
    config.resume = str(folder).replace("${", "\\${")
    return config, merged(before, words)


def merged(before: Sequence[str], words: Sequence[str]) -> list[str]:
    """The command line that would start it as it now is: the last word for each key."""
    by_key = {word.lstrip("+").partition("=")[0]: word for word in [*before, *words]}
    return list(by_key.values())


def _is_training(run: RunDir) -> bool:
    """Whether it is a training, not an evaluation elsewhere or an ensemble, with similar folders.

    Those write their manifest first: a run without one was killed while it read its data.
    """
    if run.begun() and not (run.trained() or run.manifest_file.exists()):
        return True
    return bool(run.read_manifest("kind")["kind"] == "run")


def _unfinished(run: RunDir) -> bool:
    """Whether it is a training that can be resumed: not finished, not running, with settings."""
    try:
        if run.in_use():  # asked first: later its process may have finished it, and ended
            return False
        ended = run.status()["state"] in ("finished", "pruned")
        return not ended and run.begun() and _is_training(run)
    except ValueError:
        return False


def unresolved(config: DictConfig, key: str) -> str:
    """A value as it is written in the configuration, "" if it has none."""
    node, _, name = key.rpartition(".")
    raw = OmegaConf.to_container(OmegaConf.select(config, node), resolve=False)
    return str(raw.get(name, "")) if isinstance(raw, dict) else ""
