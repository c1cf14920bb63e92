"""Reads the configuration of a recorded run, and converts it to the current version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stockformer.config.build import check_config
from stockformer.config.plain_yaml import require_plain_yaml, require_references
from stockformer.config.rules import RENAMED_KEYS
from stockformer.config.schema import Config

# For runs recorded by version 0.1: keys it did not have, and its names of optional columns.
ADDED_KEYS: dict[str, Any] = {"waived_factors": [], "project_targets": {}}
ADDED_LATER: dict[str, Any] = {
    **{"init_from": None, "config_dir": None, "trust": []},
    "neutralise": {"components": 0, "volatility": False, "days": 250},
}
"""Keys and groups that older runs do not have."""
OPTIONAL_BEFORE = {"vwap": "vwap", "adjusted": "adj close", "amount": "amount"}
MOVED = {"stockformer.data.processors.": "stockformer.data.factors.processors."}
"""Old and new names of modules in `_target_`."""


def read_config(text: str) -> DictConfig:
    """A recorded configuration, typed and checked like a newly composed one."""
    recorded = recorded_nodes(text)
    try:
        config = OmegaConf.merge(OmegaConf.structured(Config), recorded)
        assert isinstance(config, DictConfig)
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"recorded configuration: {' '.join(str(error).split())}") from error
    check_config(config)
    return config


def recorded(config: DictConfig) -> str:
    """YAML for `read_config`, unresolved; without `resume`, which belongs to the command line."""
    config = config.copy()
    config.resume = None
    return OmegaConf.to_yaml(config)


def recorded_nodes(text: str) -> DictConfig:
    """A recorded configuration, unresolved. Raises ValueError for anything but plain values."""
    where = "recorded configuration"
    for before, now in MOVED.items():
        text = text.replace(f"_target_: {before}", f"_target_: {now}")
    require_plain_yaml(text, where)
    try:
        nodes = OmegaConf.create(text)
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error
    if not isinstance(nodes, DictConfig):
        raise ValueError(f"{where}: not groups of keys")
    require_references(OmegaConf.to_container(nodes, resolve=False))
    _bring_up_to_date(nodes)
    return nodes


def current_overrides(lines: Sequence[str]) -> list[str]:
    """A recorded command line with the current names of its keys."""
    return [line for line in map(_current_override, lines) if line]


def _current_override(line: str) -> str:
    key, equals, value = line.partition("=")
    name = RENAMED_KEYS.get(key.lstrip("+"), key)
    if name == key:
        return line
    # The loss now takes the model's wavelet; its old setting is in config.yaml.
    return "" if key.lstrip("+") == "loss.wavelet" else f"{name}{equals}{value}"


def _bring_up_to_date(nodes: DictConfig) -> None:
    """Give a run recorded by version 0.1 the current keys; a new key gets version 0.1's value."""
    for before, now in RENAMED_KEYS.items():
        group, _, key = before.rpartition(".")
        node = OmegaConf.select(nodes, group)
        if isinstance(node, DictConfig) and key in node:
            value = node.pop(key)
            if OmegaConf.select(nodes, now) is None:
                OmegaConf.update(nodes, now, value)
    for key, value in ADDED_LATER.items():
        if key not in nodes:
            nodes[key] = value
    dataset = nodes.get("dataset")
    if not isinstance(dataset, DictConfig):
        return  # the schema check reports the error
    older = any(key not in dataset for key in ADDED_KEYS)
    for key, value in ADDED_KEYS.items():
        if key not in dataset:
            dataset[key] = value
    columns = OmegaConf.select(dataset, "source.columns")
    if older and isinstance(columns, DictConfig):
        for what, name in OPTIONAL_BEFORE.items():
            if columns.get(what) == name:
                columns[what] = [name]
