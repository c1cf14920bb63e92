"""The state of a training as tensors and JSON: optimizer and random generators."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stockformer.training.checkpoint import TRAINING

OPTIMIZER, RANDOM = f"{TRAINING}optimizer/", f"{TRAINING}random/"


def seed(number: int) -> None:
    """Seed every generator a model may use: torch's on every device, NumPy's, Python's."""
    torch.manual_seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 (a model of a user may draw from it)
    random.seed(number)


def random_state() -> dict[str, Tensor]:
    """The state of all these generators, as tensors by their names in a checkpoint."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(numpy, dict)
    _, python, python_gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([*numpy["state"]["key"].tolist(), numpy["state"]["pos"]]),
        "numpy_gauss": _some(numpy["gauss"] if numpy["has_gauss"] else None),
        "python": torch.tensor(python),
        "python_gauss": _some(python_gauss),
    }
    if torch.cuda.is_initialized():
        for number, generator in enumerate(torch.cuda.get_rng_state_all()):
            state[f"cuda{number}"] = generator
    return {f"{RANDOM}{name}": tensor for name, tensor in state.items()}


def set_random_state(tensors: Mapping[str, Tensor]) -> None:
    """Restore the result of `random_state`, for the devices that this machine has."""
    state = _under(RANDOM, tensors)
    torch.set_rng_state(state["torch"])
    *key, position = state["numpy"].tolist()
    there, gauss = state["numpy_gauss"].tolist()
    np.random.set_state(("MT19937", key, position, int(there), gauss))  # noqa: NPY002
    there, gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss if there else None))
    for number in range(torch.cuda.device_count()):
        if f"cuda{number}" in state:
            torch.cuda.set_rng_state(state[f"cuda{number}"], number)


def _some(value: float | None) -> Tensor:
    """A number that may be missing."""
    return torch.tensor([value is not None, value or 0.0], dtype=torch.double)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's tensors by name, and the rest of its state as JSON."""
    state = optimizer.state_dict()
    tensors, plain = {}, {}
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                # A copy: the next step changes the original.
                tensors[f"{OPTIMIZER}{number}/{name}"] = value.detach().cpu().clone()
            else:
                plain[f"{number}/{name}"] = value
    return tensors, {"groups": state["param_groups"], "plain": plain}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Raises ValueError, KeyError or RuntimeError if it is not a state of this optimizer."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    require_alike(optimizer.state_dict()["param_groups"], facts["groups"], "optimizer")
    state: dict[int, dict[str, Any]] = {}
    for key, value in (_under(OPTIMIZER, tensors) | facts["plain"]).items():
        number, _, name = key.partition("/")
        if isinstance(value, Tensor) and value.shape not in ((), parameters[int(number)].shape):
            raise ValueError(f"optimizer: {key} is not of its parameter's shape")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})


def require_alike(own: Any, given: Any, what: str) -> None:
    """Raises ValueError if `given`, read from JSON, has another form than `own`."""
    if own is None or given is None:
        alike = not isinstance(given, (dict, list, str))
    elif isinstance(own, dict):
        alike = isinstance(given, dict) and own.keys() == given.keys()
        for key in own if alike else ():
            require_alike(own[key], given[key], f"{what}.{key}")
    elif isinstance(own, (list, tuple)):
        alike = isinstance(given, list) and len(own) == len(given)
        for one, other in zip(own, given if alike else ()):
            require_alike(one, other, what)
    elif type(own) in (int, float):
        alike = type(given) in (int, float)
    else:
        alike = type(own) is type(given)
    if not alike:
        raise ValueError(f"{what}: {str(given)[:60]!r}, expected a form like {str(own)[:60]!r}")


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
