"""Checks a command line before any data are read and before torch is imported.

Hydra accepts `+key` for unused keys, and finds a bad interpolation only when it is resolved.
Here the configuration is composed twice, with all overrides and with only the group choices: the
second has every key and type that the first may have.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from stockformer.config.build import check_config
from stockformer.config.composition import (
    composing,
    config_files,
    groups,
    is_group,
    require_option,
    require_own_defaults,
)
from stockformer.config.plain_yaml import require_references
from stockformer.config.rules import DERIVED_KEYS, RENAMED_KEYS, flat, targets
from stockformer.config.schema import CONFIG_NAME
from stockformer.evaluation.metrics import OBJECTIVES

# The part of Hydra's own configuration that may be set: logging and callbacks could run any code.
BUILT = ("sweeper", "launcher")  # by files of conf/ too; the others only by the command line
ONLY_BY_COMMAND_LINE = ("hydra.run.", "hydra.sweep.dir", "hydra.verbose")
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
HYDRA_KEYS = (*ONLY_BY_COMMAND_LINE, "hydra.sweeper.", "hydra.launcher.")
HYDRA_GROUPS = ("hydra/sweeper", "hydra/sweeper/sampler", "hydra/launcher")
LAUNCHERS = ("basic", "processes", "ray", "slurm", "slurm_local")
LEAST_SECONDS = 5
REQUIRED = {"slurm", "slurm_local"}  # launchers whose counts, but the hardware's, have no default
COUNTS = ("n_jobs", "threads", "timeout_min", "signal_delay_s", "max_num_timeout", "gpus_per_node")
NAMES = ("partition", "account", "qos", "constraint")
NAME = re.compile(r"[\w.,:@&|*+()\[\]-]+", re.ASCII)  # a word of a batch script, never a line
LAUNCHING = {*COUNTS, *NAMES, "mem_gb", "address"}
SAMPLERS = ("tpe", "random", "cmaes", "nsgaii")
HYDRA_OBJECTS = (*BUILT, "callbacks")
# Hydra sets these itself, from the command line and the choices.
HYDRA_FACTS = ("runtime", "overrides", "job.override_dirname")
OF_HYDRA = re.compile(r"\$\{(now|hydra):[^${}]*\}")  # resolvers for names of folders
STORAGE = re.compile(r"(sqlite:///|postgresql(\+\w+)?://)[^?#]+")
PRUNERS = ("none", "median", "hyperband")
NOT_IN_PARAMS = {"experiment", "search", "hydra"}  # groups whose files may themselves set params
KEY = re.compile(r"\w+([./]\w+|\[\d+\])*", re.ASCII)
MISSING = object()
HYDRA_TARGETS = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    *(f"optuna.samplers.{name}Sampler" for name in ("TPE", "Random", "CmaEs", "NSGAII")),
    "hydra_plugins.hydra_optuna_sweeper._impl.create_nsgaii_sampler",  # of the plugin for Hydra 1.4
}


def check_command_line(overrides: Sequence[str], multirun: bool) -> DictConfig:
    """Compose the command line's configuration and check it; for a sweep, every choice once.

    Returns the configuration with Hydra's node, of a sweep that of its first job. Raises ValueError
    with one message that names the key, the rule and the value received.
    """
    first: DictConfig | None = None
    named: list[DictConfig] = []
    with _composing(overrides):
        parsed = _parsed(overrides, multirun)
        for single in _single_runs(parsed):
            reference = _reference(single)
            if not any(reference is known for known in named):
                _check_names(parsed, reference)
                named.append(reference)
            config = _whole(single)
            if first is None:
                first = config
                _check_sweep(config, reference, single)
                if multirun:
                    _check_sweep_folder(config)
            config = without_hydra(config)
            _check_against(config, reference)
            check_config(config)
    assert first is not None
    return first


def grid(overrides: Sequence[str]) -> list[list[str]]:
    """The command line of each job of a sweep, all combinations; the last word varies fastest.

    Raises ValueError for a sweep without end, such as interval(0, 1).
    """
    by_key: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise ValueError(
                f"{override.input_line}: only a search, search=optuna, tries values between two "
                "ends"
            )
        choices = _choices(override)
        by_key[override.key_or_group] = [str(choice.input_line) for choice in choices]
    return [list(words) for words in itertools.product(*by_key.values())]


def search_space(
    overrides: Sequence[str], parameters: Mapping[str, str]
) -> tuple[list[str], dict[str, Override]]:
    """The words that are the same in each trial, and by key what a trial chooses.

    parameters: `hydra.sweeper.params`; a word of the command line goes before its entry.
    """
    parser = OverridesParser.create()
    fixed: dict[str, str] = {}
    varied: dict[str, Override] = {}
    words = [*(f"{key}={value}" for key, value in parameters.items()), *overrides]
    for override in parser.parse_overrides(words):
        key = override.key_or_group
        fixed.pop(key, None)
        varied.pop(key, None)
        if override.is_sweep_override():
            varied[key] = override
        else:
            fixed[key] = str(override.input_line)
    return list(fixed.values()), varied


def check_sources(overrides: Sequence[str]) -> None:
    """Raises ValueError if composing `overrides` would read or run anything outside this project.

    Names and values are not checked: for words that are only shown, or were checked before.
    """
    with _composing(overrides):
        for single in _single_runs(_parsed(overrides, multirun=True)):
            _reference(single)
            _whole(single)


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy without Hydra's own node."""
    config = config.copy()
    with open_dict(config):
        del config["hydra"]
    return config


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The message for an unknown key, with the nearest known one."""
    if now := RENAMED_KEYS.get(key):
        return f"unknown key {key!r}: its name is now {now!r}"
    names = [name for name in known if name not in DERIVED_KEYS]
    by_last = {name.rsplit(".", 1)[-1]: name for name in names}
    last = key.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.7)
    if key in by_last or not near:
        near = [by_last[name] for name in difflib.get_close_matches(last, by_last, n=1)]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown key {key!r}.{hint}"


def _check_form(override: Override, multirun: bool) -> None:
    """Check the form of an override, independent of its key."""
    line, key = str(override.input_line), override.key_or_group
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        raise ValueError(f"{line}: name the options, glob(...) is not supported")
    if not KEY.fullmatch(key):
        raise ValueError(f"{line}: {key!r} is not the name of a key or a group")
    if override.package is not None:
        raise ValueError(f"{line}: a group cannot be placed elsewhere with @")
    if override.is_sweep_override() and not multirun:
        raise ValueError(f"{line}: several values are a sweep, which needs -m")
    if override.is_sweep_override() and key.startswith("hydra"):
        raise ValueError(f"{line}: a setting of the sweep itself has one value at a time")
    if key == "hydra/launcher" and override.value() not in LAUNCHERS:
        raise ValueError(
            f"{line}: not a launcher of this project; hydra/launcher=processes runs several jobs "
            "at once, ray and slurm on several machines (slurm_local to try it on this one), basic "
            "one after another"
        )
    if key == "hydra/sweeper" and override.value() == "optuna":
        raise ValueError(f"{line}: write search=optuna, a search that can be resumed")
    if key == "hydra/sweeper/sampler" and override.value() not in SAMPLERS:
        raise ValueError(f"{line}: the samplers are {', '.join(SAMPLERS)}")
    if key.startswith("hydra/") and key not in HYDRA_GROUPS:
        raise ValueError(f"{line}: of Hydra's groups only {', '.join(HYDRA_GROUPS)} can be chosen")
    if key.startswith("hydra.") and not key.startswith(HYDRA_KEYS):
        raise ValueError(f"{line}: of Hydra's keys only {', '.join(HYDRA_KEYS)} can be set")


@contextmanager
def _composing(words: Sequence[str]) -> Iterator[None]:
    """Hydra ready to compose; its errors become a ValueError of one line."""
    try:
        with composing(words):
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_plain(error)) from error


def _state_of_files() -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of each file: what a composition is cached by."""
    files = [(str(path), path.stat()) for path in config_files()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in files)


def _parsed(overrides: Sequence[str], multirun: bool) -> list[Override]:
    """The parameters of a search, then the overrides; each has an allowed form."""
    parser = OverridesParser.create()
    parsed = [_parsed_word(parser, word) for word in overrides]
    for override in parsed:
        _check_form(override, multirun)
    launchers = [o.value() for o in parsed if o.key_or_group == "hydra/launcher"]
    settings = [o for o in parsed if o.key_or_group.removeprefix("hydra.launcher.") in LAUNCHING]
    if settings and launchers[-1:] in ([], ["basic"]):
        raise ValueError(
            f"{settings[0].input_line}: jobs that run one after another have no such setting; add "
            "hydra/launcher=processes"
        )
    searches = {o.key_or_group for o in parsed} & {"search", "hydra/sweeper"}
    settings = [o for o in parsed if o.key_or_group.startswith("hydra.sweeper.")]
    if settings and not searches:
        raise ValueError(
            f"{settings[0].input_line}: a grid has no such setting; a search has, search=optuna"
        )
    if not multirun:
        return parsed
    first = next(_single_runs(parsed))
    _check_names(parsed, _reference(first))
    tried = _raw(_whole(first))["hydra"]["sweeper"].get("params") or {}
    search = list(parser.parse_overrides([f"{key}={value}" for key, value in tried.items()]))
    for override in search:
        _check_form(override, multirun)
    return [*search, *parsed]


def _parsed_word(parser: OverridesParser, word: str) -> Override:
    try:
        return parser.parse_override(word)
    except HydraException as error:
        raise ValueError(
            f"{word}: not KEY=VALUE as Hydra reads it: no blanks around =, and a value with "
            f"; , : = or brackets in its own quotes, e.g. 'KEY=\"a;b\"'"
        ) from error


def _reference(single: Sequence[Override]) -> DictConfig:
    """The configuration of only the group choices. Raises ValueError for a foreign file."""
    chosen = [override for override in single if _selects_a_group(override)]
    for override in chosen:
        require_option(override.key_or_group, override.value())
    lines = tuple(str(override.input_line) for override in chosen)
    return _of_groups(lines, _state_of_files())


@lru_cache
def _of_groups(groups: tuple[str, ...], files: object) -> DictConfig:
    require_own_defaults(groups)
    reference = _compose(groups)
    require_references(_raw(reference))
    return reference


def _whole(single: Sequence[Override]) -> DictConfig:
    """The configuration of all overrides, with Hydra's node; it and all references are checked."""
    config = _with_values(single)
    plain = _raw(config)
    _check_hydra(plain.pop("hydra"), single)
    require_references(plain)
    return config


def _with_values(single: Sequence[Override]) -> DictConfig:
    """Composed; only the choices of groups by Hydra, which takes ten times as long as a value."""
    plain = [override for override in single if _sets_a_value(override)]
    others = tuple(str(override.input_line) for override in single if not _sets_a_value(override))
    config = copy.deepcopy(_composed(others, _state_of_files()))
    for override in plain:
        try:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except (AttributeError, TypeError, AssertionError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{override.input_line}: cannot be composed: {reason}") from error
    config.hydra.overrides.task = [
        str(override.input_line)
        for override in single
        if not override.key_or_group.startswith("hydra")
    ]
    return config


def _sets_a_value(override: Override) -> bool:
    """Whether it replaces the value of a key, and could be applied after composing."""
    single = not isinstance(override.value(), (dict, list)) and not override.is_sweep_override()
    key = override.key_or_group
    ours = key in FOLDERS or not (key.startswith("hydra") or _selects_a_group(override))
    return ours and single and str(override.input_line)[0] not in "+~"


@lru_cache(maxsize=16)
def _composed(lines: tuple[str, ...], files: object) -> DictConfig:
    return _compose(lines, with_hydra=True)


def _check_names(overrides: Sequence[Override], reference: DictConfig) -> None:
    known = flat(reference, nodes=True)
    for override in overrides:
        key = override.key_or_group
        if not (_selects_a_group(override) or key.startswith("hydra.") or key in known):
            raise ValueError(unknown_key(key, [*known, *groups()]))
        value = override.value()
        ends = (value.start, value.end) if isinstance(value, IntervalSweep) else ()
        if type(known.get(key)) is int and not all(type(end) is int for end in ends):
            whole = ", ".join(f"{end:.0f}" for end in ends)
            raise ValueError(f"{override.input_line}: whole numbers are int(interval({whole}))")
        if override.is_delete() and (key in known or key.startswith("hydra.")):
            raise ValueError(f"{override.input_line}: a key cannot be removed; give it a value")


def _check_hydra(node: dict[str, Any], single: Sequence[Override]) -> None:
    """Check what Hydra's own node builds, and that files set nothing else in it.

    Its logging and callbacks can run any code, its environment can name other programs, and its log
    files can be any file.
    """
    for part in ("launcher", "sweeper"):
        if not isinstance(node[part], dict):
            raise ValueError(f"hydra.{part}={node[part]!r}: choose it with hydra/{part}=")
        require_references(node[part], f"hydra.{part}")
    for key, target in targets({"hydra": {name: node[name] for name in HYDRA_OBJECTS}}):
        if target not in HYDRA_TARGETS:
            raise ValueError(f"{key}={target!r}: not a class this project builds")
    storage = node["sweeper"].get("storage")
    if storage is not None and not (isinstance(storage, str) and STORAGE.fullmatch(storage)):
        raise ValueError(
            f"hydra.sweeper.storage={storage!r}: a search is kept in a file, sqlite:///FILE.db, or "
            "by postgresql://USER@HOST/DATABASE"
        )
    ours = [o for o in single if o.key_or_group.startswith(ONLY_BY_COMMAND_LINE)]
    composed = tuple(str(override.input_line) for override in ours if not _sets_a_value(override))
    base = _hydra_alone(composed, _state_of_files()) | {
        override.key_or_group.removeprefix("hydra."): override.value()
        for override in ours
        if _sets_a_value(override)
    }
    for name in ("run", "sweep"):
        require_references(node[name], f"hydra.{name}", also=OF_HYDRA)
    for key in sorted({*base, *(leaves := _leaves(node))}):
        free = any(key == fact or key.startswith(f"{fact}.") for fact in (*HYDRA_FACTS, *BUILT))
        if not free and base.get(key, MISSING) != leaves.get(key, MISSING):
            raise ValueError(
                f"hydra.{key}={leaves.get(key)!r}: set by a file of conf/; of Hydra's own keys a "
                f"file may set only {', '.join(f'hydra.{name}' for name in BUILT)}"
            )


def _check_launcher(node: DictConfig, name: str) -> None:
    for key in node:
        if key in COUNTS:
            if node[key] is None and name in REQUIRED and key != "gpus_per_node":
                raise ValueError(f"hydra.launcher.{key}=null: needs a number with {name}")
            _check_count(f"hydra.launcher.{key}", node[key])
        if key in NAMES and node[key] is not None and not NAME.fullmatch(str(node[key])):
            raise ValueError(
                f"hydra.launcher.{key}={node[key]!r}: not a name; it may have letters, digits and "
                ".,:@&|*+()[]-"
            )
    memory = node.get("mem_gb")
    if memory is not None and (type(memory) not in (int, float) or not 0 < memory < math.inf):
        raise ValueError(f"hydra.launcher.mem_gb={memory!r}: must be a number above 0")
    warned = node.get("signal_delay_s", 0)
    if warned and 60 * node.timeout_min - warned < LEAST_SECONDS:
        raise ValueError(
            f"hydra.launcher.timeout_min={node.timeout_min}: a job is warned {warned} s before "
            "that (hydra.launcher.signal_delay_s), too soon after it starts"
        )


def is_search(config: DictConfig) -> bool:
    """Whether a configuration with Hydra's node chooses a search, not a grid."""
    return "objectives" in config.hydra.sweeper


def _check_sweep(config: DictConfig, reference: DictConfig, single: Sequence[Override]) -> None:
    """Check the keys of the launcher and of the search."""
    node = config.hydra
    lines = tuple(str(override.input_line) for override in single if _selects_a_group(override))
    known_of_hydra = _composed(lines, _state_of_files()).hydra
    for name in ("launcher", "sweeper", "sweeper.sampler"):
        known = OmegaConf.select(known_of_hydra, name) or {}
        for key in OmegaConf.select(node, name) or {}:
            if key not in known:
                names = [f"hydra.{name}.{each}" for each in known]
                raise ValueError(unknown_key(f"hydra.{name}.{key}", names))
    launcher = node.runtime.choices["hydra/launcher"]
    _check_launcher(node.launcher, launcher)
    in_file = str(node.sweeper.get("storage") or "sqlite").startswith("sqlite")
    if launcher == "slurm" and in_file and node.sweeper.get("pruner", "none") != "none":
        raise ValueError(
            f"hydra.sweeper.pruner={node.sweeper.pruner}: with Slurm its jobs write to the study "
            "from several machines, which needs hydra.sweeper.storage=postgresql://..."
        )
    known = [*flat(reference), *(each for each in groups() if each not in NOT_IN_PARAMS)]
    for key in node.sweeper.get("params") or {}:
        if key not in known:
            raise ValueError(f"hydra.sweeper.params: {unknown_key(str(key), known)}")
    if is_search(config):
        _check_search(config)


def _check_search(config: DictConfig) -> None:
    search = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    assert isinstance(search, dict)
    _check_count("hydra.sweeper.n_trials", search["n_trials"] or 0)
    objectives = search["objectives"]
    if not isinstance(objectives, list) or not objectives:
        raise ValueError(f"hydra.sweeper.objectives={objectives!r}: name one or more")
    if len(set(objectives)) < len(objectives):
        raise ValueError(f"hydra.sweeper.objectives={objectives!r}: one of them twice")
    if not isinstance(search["study_name"], str) or not search["study_name"]:
        raise ValueError(f"hydra.sweeper.study_name={search['study_name']!r}: must be a name")
    for name in objectives:
        if name not in OBJECTIVES:
            raise ValueError(
                f"hydra.sweeper.objectives: {name!r} is not one of {', '.join(OBJECTIVES)}"
            )
    if search["pruner"] not in PRUNERS:
        raise ValueError(
            f"hydra.sweeper.pruner={search['pruner']!r}: must be one of {', '.join(PRUNERS)}"
        )
    if search["pruner"] != "none" and objectives != [config.trainer.monitor]:
        raise ValueError(
            f"hydra.sweeper.pruner={search['pruner']}: stops a trial by trainer.monitor, which "
            "must be the only one of hydra.sweeper.objectives"
        )


def _check_count(key: str, value: Any) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{key}={value!r}: must be a whole number of at least 1")


def _check_sweep_folder(config: DictConfig) -> None:
    """Refuse links in the sweep folder: Hydra would overwrite the file that a link points to."""
    try:
        folder = Path(str(config.hydra.sweep.dir))
    except OmegaConfBaseException:  # its name needs values of a job: a new folder
        return
    for path in [folder, *folder.glob("*.yaml")]:
        if path.is_symlink():
            raise ValueError(f"{path}: a link, which no sweep creates; remove it")


def _check_against(config: DictConfig, reference: DictConfig) -> None:
    """Check that every key is in the files, with a value of the type in the files."""
    known, given = flat(reference), flat(config)
    for key in given.keys() - known.keys():
        raise ValueError(unknown_key(key, known))
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for key, value in given.items():
        default = known[key]
        if not _same_type(value, default):
            raise ValueError(f"{key}={value!r}: must be {_type_name(default)}, as in {default!r}")


@lru_cache
def _hydra_alone(lines: tuple[str, ...], files: object) -> dict[str, Any]:
    """The leaves of Hydra's node from conf/config.yaml with the command line's settings."""
    return _leaves(_raw(_compose(lines, with_hydra=True))["hydra"])


def _compose(lines: Sequence[str], with_hydra: bool = False) -> DictConfig:
    try:
        return compose(CONFIG_NAME, list(lines), return_hydra_config=with_hydra)
    except (AttributeError, TypeError, AssertionError, KeyError) as error:
        # Hydra's error for an unexpected value, e.g. a node for a key that is null.
        reason = " ".join(str(error).split())
        raise ValueError(f"{' '.join(lines)}: cannot be composed: {reason}") from error


def _raw(config: DictConfig) -> dict[str, Any]:
    """The configuration unresolved, with its references."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _leaves(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, dict) and value:
            leaves |= _leaves(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def _single_runs(overrides: Sequence[Override]) -> Iterator[list[Override]]:
    """Lists of overrides without sweeps that together try every choice of every sweep once."""
    choices = [_choices(override) for override in overrides]
    yield [options[0] for options in choices if options]
    for position, options in enumerate(choices):
        for option in options[1:]:
            others = (c[:1] if i != position else [option] for i, c in enumerate(choices))
            yield [override for chosen in others for override in chosen]


def _choices(override: Override) -> list[Override]:
    """The override's single choices; empty if only a sweeper can expand them."""
    if not override.is_sweep_override():
        return [override]
    prefix = str(override.input_line).split("=", 1)[0]
    if override.is_discrete_sweep():
        values = list(override.sweep_string_iterator())
    elif isinstance(interval := override.value(), IntervalSweep):
        values = [str(interval.start), str(interval.end)]
    else:
        return []
    lines = [f"{prefix}={value}" for value in values]
    return list(OverridesParser.create().parse_overrides(lines))


def _selects_a_group(override: Override) -> bool:
    key = override.key_or_group
    if key.startswith("hydra/"):
        return True
    value = override.value()
    chooses = value is None or isinstance(value, (str, list)) or override.is_sweep_override()
    return chooses and is_group(key)


def _same_type(value: Any, default: Any) -> bool:
    if default is None or type(value) is type(default):
        return True
    return type(default) is float and type(value) is int


def _type_name(default: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(type(default), f"a {type(default).__name__}")


def _plain(error: BaseException) -> str:
    """The innermost cause of a Hydra or OmegaConf error as one line that names the key."""
    outer = str(error).strip().splitlines()[0]
    unknown = re.match(r"Could not override '(hydra\.launcher\.\w+)'", outer)
    if unknown:
        return f"{unknown[1]}: the chosen hydra/launcher has no such setting (docs/scaling.md)"
    while error.__cause__ is not None:
        error = error.__cause__
    message = str(error).strip()
    first = message.splitlines()[0] if message else outer
    key = getattr(error, "full_key", None)
    if key and key not in first:
        first = f"{key}: {first}"
    if "Available options" in message:  # leave out Hydra's search path, which follows
        first = " ".join(message.split("Config search path")[0].split())
    return first if outer in first or first in outer else f"{outer}: {first}"
