"""The one place that makes an object of a configuration's node."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from stockformer.config.hydra_lines import only_building
from stockformer.config.rules import allowed_target, targets


def input_paths(source: DictConfig, settings: Mapping[str, Any]) -> list[Path]:
    """The files and folders a source reads, as the function `input_paths` of its module says."""
    name = source._target_
    if not allowed_target(name):
        raise ValueError(f"_target_={name!r}: not a class this project builds")
    module = name.rpartition(".")[0]
    try:
        paths: list[Path] = get_object(f"{module}.input_paths")(settings)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{module}: a source declares the files it reads: a function input_paths(settings) "
            "beside the one that loads them"
        ) from error
    return paths


def build(node: DictConfig, **facts: Any) -> Any:
    """The object `_target_` names, from the node's keys and those of `facts` it has a use for.

    Raises ValueError where the target is not allowed, or its constructor refuses.
    """
    name = node._target_
    refusal = f"_target_={name!r}: not a class this project builds"
    if not allowed_target(name):
        raise ValueError(refusal)
    try:
        target = get_object(name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{refusal}: {' '.join(str(error).split())}") from error
    module = name.rpartition(".")[0]
    # Not what is only imported there, e.g. pathlib.Path; torch.optim's lie in modules of it.
    home = getattr(target, "__module__", None) or ""
    if home != module and not (name.startswith("torch.optim.") and home.startswith("torch.optim.")):
        raise ValueError(refusal)
    signature = inspect.signature(target)
    wanted = {key: fact for key, fact in facts.items() if key in signature.parameters}
    try:
        signature.bind(**{str(key): None for key in node if key != "_target_"} | wanted)
    except TypeError as error:
        offered = f"; a run offers {', '.join(facts)}" if facts else ""
        raise ValueError(f"_target_={name!r} and its keys disagree: {error}{offered}") from error
    named = [name for _, name in targets(OmegaConf.to_container(node)) if allowed_target(name)]
    try:
        with only_building([*named, f"{module}.*"]):  # and what is made, where that can be called
            return instantiate(node, _convert_="all", **wanted)
    except InstantiationException as error:
        raise (error.__cause__ or error) from None
