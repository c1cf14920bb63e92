"""The configuration of a recorded run, read back as if it had been composed now."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stockformer.config.plain_yaml import require_plain_yaml, require_references
from stockformer.config.rules import check_values
from stockformer.config.schema import Config

# For runs recorded by version 0.1: keys it did not have, columns that were optional by these names.
ADDED_KEYS: dict[str, Any] = {"waived_factors": [], "project_targets": {}}
OPTIONAL_BEFORE = {"vwap": "vwap", "adjusted": "adj close", "amount": "amount"}
MOVED = {"stockformer.data.processors.": "stockformer.data.factors.processors."}
"""Modules that `_target_` named there, and where they are now."""


def read_config(text: str) -> DictConfig:
    """A recorded configuration, typed and checked as if it had been composed now."""
    recorded = recorded_nodes(text)
    try:
        config = OmegaConf.merge(OmegaConf.structured(Config), recorded)
        assert isinstance(config, DictConfig)
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"recorded configuration: {' '.join(str(error).split())}") from error
    check_values(config)
    return config


def recorded(config: DictConfig) -> str:
    """What `read_config` reads back, unresolved; `resume` is the command line's, not the run's."""
    config = config.copy()
    config.resume = None
    return OmegaConf.to_yaml(config)


def recorded_nodes(text: str) -> DictConfig:
    """A recorded configuration as it stands. Raises ValueError for anything but plain values."""
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


def _bring_up_to_date(nodes: DictConfig) -> None:
    """Give a run recorded before a key existed what it had then."""
    dataset = nodes.get("dataset")
    if not isinstance(dataset, DictConfig):
        return  # the schema says what is wrong
    older = any(key not in dataset for key in ADDED_KEYS)
    for key, value in ADDED_KEYS.items():
        if key not in dataset:
            dataset[key] = value
    columns = OmegaConf.select(dataset, "source.columns")
    if older and isinstance(columns, DictConfig):
        for what, name in OPTIONAL_BEFORE.items():
            if columns.get(what) == name:
                columns[what] = [name]
