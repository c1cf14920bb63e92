"""What a run may be asked for: the schema, and every check that needs no data and no torch.

The composed configuration is checked whole, before anything is read. A config group's YAML file is
its schema: it lists every key, so a key that none of the chosen files has is a mistake, with `+`
too. Groups whose values alone vary are typed dataclasses on top of that.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

CONFIG_NAME = "config"

# What `_target_` may name: anything defined in these rooms, and exactly these of others.
OUR_TARGETS = re.compile(
    r"stockformer\.(data\.(sources\.\w+|splits|processors|graph)|models\.\w+|training\.losses)\.[A-Za-z]\w*"
)
OTHER_TARGETS = {
    "torch.optim.Adam",
    "torch.optim.AdamW",
    "torch.optim.SGD",
    "torch.optim.lr_scheduler.ReduceLROnPlateau",
    "torch.optim.lr_scheduler.CosineAnnealingLR",
    "torch.optim.lr_scheduler.ConstantLR",
}


class Monitor(Enum):
    """The validation metric that picks the best epoch."""

    mae = "mae"
    rank_ic = "rank_ic"
    loss = "loss"


class Calendar(Enum):
    """Which two integers a day the model is told."""

    real = "real"
    published = "published"


@dataclass(kw_only=True)
class EarlyStoppingConfig:
    patience: int
    min_delta: float


@dataclass(kw_only=True)
class TrainerConfig:
    max_epoch: int
    batch_size: int
    num_workers: int
    device: str
    gradient_clip_norm: float
    monitor: Monitor
    early_stopping: EarlyStoppingConfig
    overfit_one_batch: bool


class Scale(Enum):
    """How a day's values across stocks are brought to a common scale."""

    none = "none"
    zscore = "zscore"
    rank = "rank"


@dataclass(kw_only=True)
class TargetConfig:
    horizon: int
    offset: int
    excess: bool
    median_class: bool
    transform: Scale


@dataclass(kw_only=True)
class DatasetConfig:
    name: str
    lookback: int
    calendar: Calendar
    graph_file: str
    factors: list[str]
    warnings: list[str]
    source: dict[str, Any]


@dataclass(kw_only=True)
class PathsConfig:
    data_dir: str


@dataclass(kw_only=True)
class Config:
    """A whole experiment; the nodes typed `Any` name a class by `_target_` and its parameters."""

    seed: int
    tags: list[str]
    paths: PathsConfig
    dataset: DatasetConfig
    split: Any
    target: TargetConfig
    processors: Any
    graph: Any
    model: Any
    loss: Any
    optimizer: Any
    scheduler: Any
    trainer: TrainerConfig


ConfigStore.instance().store(name="schema", node=Config)


def config_folder() -> Path:
    """Where `conf/` lies: beside the package, in a checkout."""
    folder = Path(__file__).resolve().parents[1] / "conf"
    if not folder.is_dir():
        raise ValueError(f"configuration folder not found: {folder}")
    return folder


AT_LEAST_1: tuple[Callable[[Any], bool], str] = (lambda v: v >= 1, "must be at least 1")
AT_LEAST_0: tuple[Callable[[Any], bool], str] = (lambda v: v >= 0, "must not be negative")
ABOVE_0: tuple[Callable[[Any], bool], str] = (lambda v: v > 0, "must be above 0")
# A key that the chosen model or optimizer does not have is passed over.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": AT_LEAST_0,
    "dataset.lookback": (lambda v: v >= 2, "must be at least 2 days"),
    "target.horizon": AT_LEAST_1,
    "target.offset": AT_LEAST_0,
    "model.width": AT_LEAST_1,
    "model.layers": AT_LEAST_1,
    "model.heads": AT_LEAST_1,
    "model.dropout": (lambda v: 0 <= v < 1, "must be in [0, 1)"),
    "model.calendar_slots": (
        lambda v: len(v) == 2 and all(type(n) is int and n >= 1 for n in v),
        "must be two sizes",
    ),
    "optimizer.lr": ABOVE_0,
    "optimizer.weight_decay": AT_LEAST_0,
    "loss.error": (lambda v: v in ("absolute", "squared"), "must be absolute or squared"),
    "split.train": (lambda v: 0 < v < 1, "must be a share between 0 and 1"),
    "split.test": (lambda v: 0 < v < 1, "must be a share between 0 and 1"),
    "split.context": (lambda v: v in ("inside", "across"), "must be inside or across"),
    "graph.neighbours": AT_LEAST_1,
    "graph.components": AT_LEAST_1,
    "graph.scale": ABOVE_0,
    "trainer.max_epoch": AT_LEAST_1,
    "trainer.batch_size": AT_LEAST_1,
    "trainer.num_workers": AT_LEAST_0,
    "trainer.gradient_clip_norm": ABOVE_0,
    "trainer.early_stopping.patience": AT_LEAST_1,
    "trainer.early_stopping.min_delta": AT_LEAST_0,
    "trainer.device": (
        lambda v: re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", v) is not None,
        "must be auto, cpu, mps, cuda or cuda:N",
    ),
}


def check_command_line(overrides: Sequence[str]) -> None:
    """Compose what the command line asks for and check it; of a sweep, every choice once.

    Raises ValueError with one message that names the key, the rule and the value received.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            for single in _single_runs(parsed):
                groups = [str(o.input_line) for o in single if _selects_a_group(o)]
                reference = compose(CONFIG_NAME, groups)
                _check_names(parsed, reference)
                lines = [str(o.input_line) for o in single]
                config = compose(CONFIG_NAME, lines, return_hydra_config=True)
                check_direction(config)
                with open_dict(config):
                    del config["hydra"]
                check(config, reference)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_plain(error)) from error


def check(config: DictConfig, reference: DictConfig) -> None:
    """Every check of a composed configuration; `reference` is the same files without overrides."""
    known, given = _flat(reference), _flat(config)
    for key in given.keys() - known.keys():
        raise ValueError(unknown_key(key, known))
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for key, value in given.items():
        default = known[key]
        if not _same_type(value, default):
            raise ValueError(f"{key}={value!r}: must be {_type_name(default)}, as in {default!r}")
    check_values(config)


def check_direction(config: DictConfig) -> None:
    """A search must go the way its metric gets better. `config` includes Hydra's own node."""
    wanted = "maximize" if config.trainer.monitor is Monitor.rank_ic else "minimize"
    direction = config.hydra.sweeper.get("direction")  # only a search has one
    name = getattr(direction, "name", direction)
    if name not in (None, wanted):
        raise ValueError(
            f"hydra.sweeper.direction={name}: trainer.monitor={config.trainer.monitor.name} needs "
            f"hydra.sweeper.direction={wanted}"
        )


def check_values(config: DictConfig) -> None:
    """The rules a single configuration obeys, whatever it was composed from."""
    values = _flat(config)
    for key, (obeyed, rule) in RULES.items():
        if key in values and not obeyed(values[key]):
            raise ValueError(f"{key}={values[key]!r}: {rule}")
    for key, value in values.items():
        if key.endswith("_target_") and not allowed_target(value):
            raise ValueError(f"{key}={value!r}: not a class this project builds")
    if "split.test" in values and values["split.train"] + values["split.test"] >= 1:
        raise ValueError("split.train + split.test must leave days for validation (below 1)")
    if "model.heads" in values and values["model.width"] % values["model.heads"]:
        raise ValueError(
            f"model.width={values['model.width']}: must be a multiple of "
            f"model.heads={values['model.heads']}"
        )


def allowed_target(name: Any) -> bool:
    """Whether a `_target_` may be built: nothing else is ever imported or called."""
    return isinstance(name, str) and (
        name in OTHER_TARGETS or OUR_TARGETS.fullmatch(name) is not None
    )


def unknown_key(key: str, known: Sequence[str] | dict[str, Any]) -> str:
    """The message for a key nobody knows, with the nearest that is known."""
    by_name = {name.rsplit(".", 1)[-1]: name for name in known}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.7) or [
        by_name[last] for last in difflib.get_close_matches(key.rsplit(".", 1)[-1], by_name, n=1)
    ]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown key {key!r}.{hint}"


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
    return key.startswith("hydra/") or (config_folder() / key).is_dir()


def _check_names(overrides: Sequence[Override], reference: DictConfig) -> None:
    known = _flat(reference, nodes=True)
    for override in overrides:
        key = override.key_or_group
        if not (_selects_a_group(override) or override.is_hydra_override() or key in known):
            groups = sorted(p.name for p in config_folder().iterdir() if p.is_dir())
            raise ValueError(unknown_key(key, [*known, *groups]))
        if override.is_delete() and key in known:
            raise ValueError(f"{override.input_line}: a key cannot be removed; give it a value")


def _flat(node: DictConfig, prefix: str = "", nodes: bool = False) -> dict[str, Any]:
    """Every leaf by its dotted key, resolved; with `nodes` the branches too."""
    return dict(_leaves(node, prefix, nodes))


def _leaves(node: DictConfig, prefix: str, nodes: bool) -> Iterator[tuple[str, Any]]:
    for name in map(str, node):
        key = f"{prefix}{name}"
        value = None if OmegaConf.is_missing(node, name) else node[name]
        if isinstance(value, DictConfig):
            if nodes:
                yield key, value
            yield from _leaves(value, f"{key}.", nodes)
        else:
            plain = (
                OmegaConf.to_container(value, resolve=True) if OmegaConf.is_list(value) else value
            )
            yield key, plain


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
