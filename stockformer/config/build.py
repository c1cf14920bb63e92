"""Builds objects from configuration nodes; the only place that does."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from stockformer.config.hydra_lines import only_building
from stockformer.config.rules import allowed_target, check_values, refusal, targets
from stockformer.config.trust import trusted_code


def input_paths(source: DictConfig, settings: Mapping[str, Any]) -> list[Path]:
    """The files and folders a source reads, from the function `input_paths` of its module."""
    name = source._target_
    if not allowed_target(name):
        raise ValueError(f"_target_={refusal(name)}")
    module = name.rpartition(".")[0]
    try:
        declare = get_object(f"{module}.input_paths")
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{module}: a source must declare the files it reads: a function input_paths(settings) "
            "in the module of its load function"
        ) from error
    paths: list[Path] = declare(settings)
    return [*paths, *trusted_code()]  # if that changes, the data are prepared again


def check_config(config: DictConfig) -> None:
    """Check everything about a composed configuration that needs no data.

    Raises ValueError with one message that names the key, the value received and the rule.
    """
    check_values(config)
    for name, node in config.processors.items():
        try:
            build(node)
        except ValueError as error:
            raise ValueError(f"processors.{name}: {error}") from error


def takes(node: DictConfig, fact: str) -> bool:
    """Whether the constructor that `_target_` names has a parameter of that name.

    Raises ValueError if the target is not allowed.
    """
    return fact in inspect.signature(constructor(node._target_)).parameters


def build(node: DictConfig, **facts: Any) -> Any:
    """The object `_target_` names, from the node's keys and those of `facts` that it takes.

    Raises ValueError if the target is not allowed, or its constructor raises one.
    """
    name = node._target_
    signature = inspect.signature(constructor(name))
    wanted = {key: fact for key, fact in facts.items() if key in signature.parameters}
    try:
        signature.bind(**{str(key): None for key in node if key != "_target_"} | wanted)
    except TypeError as error:
        offered = f"; a run offers {', '.join(facts)}" if facts else ""
        raise ValueError(f"_target_={name!r} and its keys disagree: {error}{offered}") from error
    named = [name for _, name in targets(OmegaConf.to_container(node)) if allowed_target(name)]
    try:
        # And what is made, where that can be called.
        with only_building([*named, f"{name.rpartition('.')[0]}.*"]):
            return instantiate(node, _convert_="all", **wanted)
    except InstantiationException as error:
        raise (error.__cause__ or error) from None


def constructor(name: Any) -> Any:
    """What a `_target_` names. Raises ValueError if it is not one that may be built."""
    refused = f"_target_={refusal(name)}"
    if not allowed_target(name):
        raise ValueError(refused)
    try:
        target = get_object(name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{refused}: {' '.join(str(error).split())}") from error
    # Refuses what the module only imports, e.g. pathlib.Path; torch.optim has submodules.
    home = getattr(target, "__module__", None) or ""
    of_torch = name.startswith("torch.optim.") and home.startswith("torch.optim.")
    if home != name.rpartition(".")[0] and not of_torch:
        raise ValueError(refused)
    return target
