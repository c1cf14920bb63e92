"""Checkpoints: one safetensors file each, so that reading one can run no code.

It holds the model's weights under their own names, facts as JSON and, if training can resume from
it, the rest of the training state under names that begin with `training/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from stockformer.runs import atomic
from stockformer.runs.typed_json import Form, parse_json, require

TRAINING = "training/"
MAX_FACTS = 64 << 20  # bytes
RENAMED = {"target_unit": "target_scale", "position": "train_state"}
RENAMED_IN_STATE = {"asked": "requested_micro_batch_size"}
"""Facts that version 0.1 named differently."""

FITTED: Form = {
    "factor_names": [str],
    "tickers": [str],
    "graph_last_date": (str, None),
    "target_scale": float,
    "processors": {str: {str: object}},  # arrays, whose shapes depend on the data set
    "epoch": int,
}
"""The facts needed to use the weights again."""


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write `tensors` and `facts` (JSON) to `path`, and a file with its SHA-256, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"facts": json.dumps({"name": path.stem, **facts})}
    atomic.write_checked(path, save(plain, metadata))


def keep_copy(path: Path, copy: Path) -> None:
    """Copy `path` to `copy`; if `path` is damaged or missing, `copy` is unchanged."""
    try:
        tensors, facts = read_checkpoint(path)
    except ValueError:
        return
    save_checkpoint(copy, tensors, facts | {"name": copy.stem})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the facts in `path`.

    Raises ValueError naming the file if it is damaged, renamed, or no checkpoint.
    """
    data = atomic.read_checked(path)
    try:
        tensors = load(data)  # checks the header's length and form
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        text = header["__metadata__"]["facts"].encode()
    except (SafetensorError, KeyError, ValueError, MemoryError) as error:
        raise ValueError(f"{path}: not a checkpoint of this project: {error}") from error
    if len(text) > MAX_FACTS:
        raise ValueError(f"{path}: not a checkpoint of this project: too many facts")
    facts: dict[str, Any] = parse_json(text, {"name": str}, str(path))
    if facts["name"] != path.stem:
        raise ValueError(f"{path}: is the checkpoint {facts['name']!r} under another name")
    facts = {RENAMED.get(name, name): value for name, value in facts.items()}
    state = facts.get("train_state")
    if isinstance(state, dict):
        facts["train_state"] = {RENAMED_IN_STATE.get(k, k): value for k, value in state.items()}
    return tensors, facts


def load_checkpoint(path: Path, model: nn.Module, factor_names: tuple[str, ...]) -> dict[str, Any]:
    """Load the weights in `path` into `model` and return the facts.

    Raises ValueError if the factors, their order, or a tensor's shape differ from the checkpoint's.
    """
    tensors, facts = read_checkpoint(path)
    require(facts, {"factor_names": [str]}, str(path))
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
        model.load_state_dict(weights(tensors))
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit the model: {error}") from error
    return facts


def require_same_stocks(trained_on: Sequence[str], here: Sequence[str]) -> None:
    """Raises ValueError for other stocks or another order: the model's graph has a row for each."""
    if list(trained_on) == list(here):
        return
    missing, unknown = (
        sorted(set(a) - set(b)) for a, b in ((trained_on, here), (here, trained_on))
    )
    difference = f"{len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}"
    if not missing and not unknown:
        difference = "the same in another order"
    raise ValueError(
        f"the model's graph has {len(trained_on)} rows, one for each stock it was trained on; here "
        f"are {len(here)} stocks: {difference}. Use the same stocks, or train another"
    )


def weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in tensors.items() if not name.startswith(TRAINING)}
