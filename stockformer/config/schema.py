"""The schema of the configuration: every group, typed.

A config group's YAML file lists all its keys with their defaults. Groups of which only the values
vary are also typed dataclasses; the others name a class by `_target_`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

CONFIG_NAME = "config"


class Calendar(Enum):
    """The two calendar features of a day."""

    real = "real"
    published = "published"


@dataclass(kw_only=True)
class EarlyStoppingConfig:
    patience: int
    min_delta: float


class Precision(Enum):
    """The precision of matrix products; weights are always float32."""

    float32 = "float32"
    bf16 = "bf16"
    tf32 = "tf32"
    auto = "auto"


class OnNonfinite(Enum):
    """The reaction to a step whose loss or gradient is not finite."""

    stop = "stop"
    skip = "skip"


class OnOutOfMemory(Enum):
    """The reaction to running out of memory: stop with advice, or halve the micro-batch."""

    stop = "stop"
    split = "split"


@dataclass(kw_only=True)
class TrainerConfig:
    max_epoch: int
    batch_size: int
    micro_batch_size: int | None
    num_workers: int
    device: str
    precision: Precision
    compile: bool
    deterministic: bool
    gradient_clip_norm: float
    monitor: str
    early_stopping: EarlyStoppingConfig
    on_nonfinite: OnNonfinite
    skip_limit: int
    oom: OnOutOfMemory
    keep_every: int
    keep: int
    overfit_one_batch: bool


class Scale(Enum):
    """The scaling of a day's values across stocks."""

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


class Fill(Enum):
    """The price at which the backtest trades."""

    close = "close"
    open = "open"


@dataclass(kw_only=True)
class BacktestConfig:
    top_k: int | None
    n_drop: int | None
    rebalance_days: int
    delay: int
    fill: Fill
    capital: float
    risk_degree: float
    buy_cost: float
    sell_cost: float
    slippage_basis_points: float
    start_offsets: int
    participation_rate: float
    index_file: str


@dataclass(kw_only=True)
class NeutraliseConfig:
    components: int
    volatility: bool
    days: int


@dataclass(kw_only=True)
class DatasetConfig:
    name: str
    lookback: int
    calendar: Calendar
    graph_file: str
    limit_threshold: float
    factors: list[str]
    warnings: list[str]
    waived_factors: list[str]
    project_targets: dict[str, float]
    source: dict[str, Any]


@dataclass(kw_only=True)
class PathsConfig:
    data_dir: str
    cache_dir: str


@dataclass(kw_only=True)
class Config:
    """A whole experiment; the nodes typed `Any` name a class by `_target_` and its parameters."""

    resume: str | None
    init_from: str | None
    config_dir: str | None
    trust: list[str]
    seed: int
    report: bool
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
    neutralise: NeutraliseConfig
    backtest: BacktestConfig


ConfigStore.instance().store(name="schema", node=Config)


def config_folder() -> Path:
    """The folder `conf/`: in the package if that is installed, next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise ValueError(f"configuration folder not found: {package / 'conf'}")
