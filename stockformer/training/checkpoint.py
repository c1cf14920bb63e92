"""Checkpoints: one safetensors file each, so that reading one can run no code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_checkpoint(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write the model's state and `facts` (JSON) to `path`: the old file or the new one, whole."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    save_file(state, temporary, metadata={"facts": json.dumps(facts)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state and the facts in `path`. Raises ValueError naming the file if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            state = {name: file.get_tensor(name) for name in names}
            facts = json.loads((file.metadata() or {})["facts"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a checkpoint of this project: {error}") from error
    return state, facts


def load_checkpoint(path: Path, model: nn.Module, factor_names: tuple[str, ...]) -> dict[str, Any]:
    """Load `path` into `model` and return its facts.

    Raises ValueError where the factors, their order, or a tensor's shape are not the checkpoint's.
    """
    state, facts = read_checkpoint(path)
    trained_on = tuple(facts["factor_names"])
    if trained_on != factor_names:
        pairs = zip((*trained_on, None), (*factor_names, None))
        place, (theirs, ours) = next(
            (i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1]
        )
        raise ValueError(
            f"{path}: trained on other factors or another order: factor {place + 1} was {theirs}, "
            f"now {ours}"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit the model: {error}") from error
    return facts
