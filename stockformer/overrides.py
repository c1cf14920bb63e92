"""Checks a command line before any data are read and before torch is imported.

Hydra accepts `+key` for keys nobody reads, and only finds a bad interpolation when it is touched.
Here the configuration is composed twice, with all overrides and with the group choices alone: the
second has every key and type that the first may have.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from stockformer.config import CONFIG_NAME, check_values, config_folder, flat, targets

# What of Hydra's own configuration may be set: its logging and callbacks could run anything.
HYDRA_KEYS = ("hydra.run.", "hydra.sweep.", "hydra.sweeper.", "hydra.launcher.", "hydra.verbose")
HYDRA_GROUPS = ("hydra/sweeper", "hydra/sweeper/sampler", "hydra/launcher")
HYDRA_TARGETS = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
    *(f"optuna.samplers.{name}Sampler" for name in ("TPE", "Random", "CmaEs", "Grid")),
}


def check_command_line(overrides: Sequence[str], multirun: bool) -> None:
    """Compose what the command line asks for and check it; of a sweep, every choice once.

    Raises ValueError with one message that names the key, the rule and the value received.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for override in parsed:
            _check_form(override, multirun)
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            for single in _single_runs(parsed):
                groups = [str(o.input_line) for o in single if _selects_a_group(o)]
                reference = compose(CONFIG_NAME, groups)
                _check_names(parsed, reference)
                lines = [str(o.input_line) for o in single]
                config = compose(CONFIG_NAME, lines, return_hydra_config=True)
                _check_hydra(config, reference, multirun)
                with open_dict(config):
                    del config["hydra"]
                _check_against(config, reference)
                check_values(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_plain(error)) from error


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The message for a key nobody knows, with the nearest that is known."""
    names = list(known)
    by_last = {name.rsplit(".", 1)[-1]: name for name in names}
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.7) or [
        by_last[last] for last in difflib.get_close_matches(key.rsplit(".", 1)[-1], by_last, n=1)
    ]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown key {key!r}.{hint}"


def _check_form(override: Override, multirun: bool) -> None:
    """What an override may look like, whatever it names."""
    line, key = str(override.input_line), override.key_or_group
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        raise ValueError(f"{line}: name the options, glob(...) is not supported")
    if override.package is not None:
        raise ValueError(f"{line}: a group cannot be placed elsewhere with @")
    if override.is_sweep_override() and not multirun:
        raise ValueError(f"{line}: several values are a sweep, which needs -m")
    if key.startswith("hydra/") and key not in HYDRA_GROUPS:
        raise ValueError(f"{line}: of Hydra's groups only {', '.join(HYDRA_GROUPS)} can be chosen")
    if key.startswith("hydra.") and not key.startswith(HYDRA_KEYS):
        raise ValueError(f"{line}: of Hydra's keys only {', '.join(HYDRA_KEYS)} can be set")


def _check_names(overrides: Sequence[Override], reference: DictConfig) -> None:
    known = flat(reference, nodes=True)
    for override in overrides:
        key = override.key_or_group
        if not (_selects_a_group(override) or key.startswith("hydra.") or key in known):
            groups = sorted(p.name for p in config_folder().iterdir() if p.is_dir())
            raise ValueError(unknown_key(key, [*known, *groups]))
        if override.is_delete() and key in known:
            raise ValueError(f"{override.input_line}: a key cannot be removed; give it a value")


def _check_hydra(config: DictConfig, reference: DictConfig, multirun: bool) -> None:
    """Hydra's own node: what it may build, and whether a search fits what it searches."""
    node = config.hydra
    chosen = OmegaConf.to_container(
        OmegaConf.masked_copy(node, ["launcher", "sweeper", "callbacks"]), resolve=False
    )
    for key, target in targets(chosen, "hydra."):
        if target not in HYDRA_TARGETS:
            raise ValueError(f"{key}={target!r}: not a class this project builds")
    if node.sweeper.get("custom_search_space"):
        raise ValueError(
            "hydra.sweeper.custom_search_space would run code: use hydra.sweeper.params"
        )
    if "direction" not in node.sweeper:  # only a search has one
        return
    if not multirun:
        raise ValueError("a search needs -m, e.g. python train.py -m search=optuna")
    for key in node.sweeper.params or {}:
        if key not in flat(reference):
            raise ValueError(f"hydra.sweeper.params: {unknown_key(str(key), flat(reference))}")
    monitor, direction = config.trainer.monitor, node.sweeper.direction
    wanted = "maximize" if monitor.higher_is_better else "minimize"
    name = getattr(direction, "name", direction)
    if name != wanted:
        raise ValueError(
            f"hydra.sweeper.direction={name}: trainer.monitor={monitor.name} needs "
            f"hydra.sweeper.direction={wanted}"
        )


def _check_against(config: DictConfig, reference: DictConfig) -> None:
    """Every key is one of the files', every value there and of the type the files give it."""
    known, given = flat(reference), flat(config)
    for key in given.keys() - known.keys():
        raise ValueError(unknown_key(key, known))
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for key, value in given.items():
        default = known[key]
        if not _same_type(value, default):
            raise ValueError(f"{key}={value!r}: must be {_type_name(default)}, as in {default!r}")


def _single_runs(overrides: Sequence[Override]) -> Iterator[list[Override]]:
    """Overrides without sweeps that between them try every choice of every sweep once."""
    choices = [_choices(override) for override in overrides]
    yield [options[0] for options in choices if options]
    for position, options in enumerate(choices):
        for option in options[1:]:
            others = (c[:1] if i != position else [option] for i, c in enumerate(choices))
            yield [override for chosen in others for override in chosen]


def _choices(override: Override) -> list[Override]:
    """The override as single runs would have it; none where only a sweeper can tell."""
    if not override.is_sweep_override():
        return [override]
    if not override.is_discrete_sweep():
        return []
    prefix = str(override.input_line).split("=", 1)[0]
    lines = [f"{prefix}={value}" for value in override.sweep_string_iterator()]
    return list(OverridesParser.create().parse_overrides(lines))


def _selects_a_group(override: Override) -> bool:
    key = override.key_or_group
    if key.startswith("hydra/"):
        return True
    value = override.value()
    chooses = value is None or isinstance(value, (str, list)) or override.is_sweep_override()
    return chooses and (config_folder() / key).is_dir()


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
    while error.__cause__ is not None:
        error = error.__cause__
    message = str(error).strip()
    first = message.splitlines()[0] if message else outer
    key = getattr(error, "full_key", None)
    if key and key not in first:
        first = f"{key}: {first}"
    if "Available options" in message:  # Hydra's search path, which follows, helps nobody
        first = " ".join(message.split("Config search path")[0].split())
    return first if outer in first or first in outer else f"{outer}: {first}"
