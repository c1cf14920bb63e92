"""The rules for values of a composed configuration, and for what `_target_` may build."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pywt
from omegaconf import DictConfig, OmegaConf

from stockformer.config.schema import Fill
from stockformer.config.trust import is_trusted, trusted
from stockformer.data.factors import library
from stockformer.evaluation.metrics import METRICS, MONITORS

# `_target_` may name what these modules define, and torch's optimizers and schedulers; `build`
# checks that it is defined there, not only imported. Of the sources the downloader is none.
OUR_TARGETS = re.compile(
    r"stockformer\.(data\.(sources\.(?!download\b)\w+|splits|factors\.processors|graph)|models\.\w+|training\.losses)\.[A-Za-z]\w*"
)
OTHER_TARGETS = re.compile(r"torch\.optim\.(lr_scheduler\.)?[A-Z]\w+")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
MISSING = "???"  # OmegaConf's mark of a value that must be given

Rule = tuple[Callable[[Any], bool], str]
AT_LEAST_1: Rule = (lambda v: v >= 1, "must be at least 1")
AT_LEAST_0: Rule = (lambda v: v >= 0, "must not be negative")
ABOVE_0: Rule = (lambda v: v > 0, "must be above 0")
SHARE: Rule = (lambda v: 0 < v < 1, "must be a share between 0 and 1")
SHARE_OR_ALL: Rule = (lambda v: 0 < v <= 1, "must be a share above 0, at most 1")
SHARE_OR_END: Rule = (lambda v: 0 <= v <= 1, "must be a share from 0 to 1")
COST: Rule = (lambda v: 0 <= v < 0.5, "must be a share of the traded value, from 0 to below 0.5")
MAYBE_AT_LEAST_1: Rule = (
    lambda v: v is None or (type(v) is int and v >= 1),
    "must be null or a whole number of at least 1",
)


def one_of(*names: str) -> Rule:
    return (lambda v: v in names, f"must be one of {', '.join(names)}")


RENAMED_KEYS = {
    "backtest.k": "backtest.top_k",
    "backtest.cash_share": "backtest.risk_degree",
    "backtest.share_of_volume": "backtest.participation_rate",
    "backtest.offsets": "backtest.start_offsets",
    "backtest.locked_move": "dataset.limit_threshold",
    "loss.wavelet": "model.wavelet",
    "processors.scale.widest": "processors.scale.clip",
}
"""Keys of version 0.1: an error with the new name on a command line, read from a recorded run."""

# The same number in two groups.
DERIVED_KEYS = {
    "loss.horizon": "target.horizon",
    "model.horizon": "target.horizon",
    "model.lookback": "dataset.lookback",
}

# A key that the chosen files do not have is ignored.
RULES: dict[str, Rule] = {
    "seed": (lambda v: 0 <= v < 2**32, "must be from 0 to 2**32 - 1"),
    "dataset.lookback": (lambda v: v >= 2, "must be at least 2 days"),
    "dataset.limit_threshold": ABOVE_0,
    "dataset.source.quality.jump": ABOVE_0,
    "dataset.source.quality.stale_days": AT_LEAST_1,
    "dataset.source.quality.max_gap_days": AT_LEAST_1,
    "dataset.source.quality.max_weekend_share": SHARE_OR_END,
    "dataset.source.quality.min_coverage": SHARE_OR_END,
    "target.horizon": AT_LEAST_1,
    "target.offset": AT_LEAST_0,
    "model.width": (lambda v: 1 <= v <= 2**16, "must be from 1 to 65,536"),
    "model.layers": (lambda v: 1 <= v <= 1000, "must be from 1 to 1,000"),
    "model.heads": AT_LEAST_1,
    "model.dropout": (lambda v: 0 <= v < 1, "must be in [0, 1)"),
    "model.calendar_slots": (
        lambda v: len(v) == 2 and all(type(n) is int and n >= 1 for n in v),
        "must be two sizes",
    ),
    "model.days": AT_LEAST_1,
    "model.penalties": (
        lambda v: len(v) > 0 and all(n > 0 for n in v),
        "must be numbers above 0",
    ),
    "model.seeds": AT_LEAST_1,
    "model.choices": AT_LEAST_1,
    "model.n_estimators": AT_LEAST_1,
    "model.learning_rate": ABOVE_0,
    "model.num_leaves": (lambda v: v >= 2, "must be at least 2"),
    "model.min_child_samples": AT_LEAST_1,
    "model.colsample_bytree": SHARE_OR_ALL,
    "model.subsample": SHARE_OR_ALL,
    "model.reg_lambda": AT_LEAST_0,
    "model.kernel": (lambda v: v >= 2, "must be at least 2 days"),
    "model.temperature": ABOVE_0,
    "model.market": AT_LEAST_1,
    "model.scales": (
        lambda v: len(v) > 0 and all(type(n) is int and n >= 1 for n in v),
        "must be whole numbers of at least 1",
    ),
    "model.wavelet": (
        lambda v: v in pywt.wavelist(kind="discrete"),
        "must be a discrete wavelet of PyWavelets, e.g. sym2 or db4",
    ),
    "loss.error": one_of("absolute", "squared"),
    "loss.regression_weight": AT_LEAST_0,
    "loss.classification_weight": AT_LEAST_0,
    "loss.error_weight": AT_LEAST_0,
    "loss.slope": ABOVE_0,
    "optimizer.lr": ABOVE_0,
    "optimizer.weight_decay": AT_LEAST_0,
    "optimizer.betas": (
        lambda v: len(v) == 2 and all(0 <= b < 1 for b in v),
        "must be two numbers in [0, 1)",
    ),
    "optimizer.eps": ABOVE_0,
    "scheduler.patience": AT_LEAST_0,
    "scheduler.cooldown": AT_LEAST_0,
    "scheduler.min_lr": AT_LEAST_0,
    "scheduler.threshold": AT_LEAST_0,
    "scheduler.threshold_mode": one_of("rel", "abs"),
    "scheduler.T_max": AT_LEAST_1,
    "scheduler.eta_min": AT_LEAST_0,
    "scheduler.total_iters": AT_LEAST_0,
    "split.train": SHARE,
    "split.test": SHARE,
    "split.context": one_of("inside", "across"),
    "split.counted_by": one_of("signal", "target"),
    "split.fold": AT_LEAST_0,
    "split.first_train": AT_LEAST_0,
    "split.first_test": AT_LEAST_1,
    "split.test_days": AT_LEAST_1,
    "split.validation_days": AT_LEAST_1,
    "split.train_days": MAYBE_AT_LEAST_1,
    "graph.neighbours": AT_LEAST_1,
    "graph.components": AT_LEAST_1,
    "graph.scale": ABOVE_0,
    "graph.threshold": (lambda v: -1 <= v < 1, "must be a correlation below 1"),
    "trainer.max_epoch": AT_LEAST_1,
    "trainer.monitor": one_of(*MONITORS),
    "trainer.batch_size": AT_LEAST_1,
    "trainer.micro_batch_size": MAYBE_AT_LEAST_1,
    "trainer.skip_limit": AT_LEAST_0,
    "trainer.keep_every": AT_LEAST_0,
    "trainer.keep": AT_LEAST_1,
    "trainer.num_workers": AT_LEAST_0,
    "trainer.gradient_clip_norm": ABOVE_0,
    "trainer.early_stopping.patience": AT_LEAST_1,
    "trainer.early_stopping.min_delta": AT_LEAST_0,
    "neutralise.components": AT_LEAST_0,
    "neutralise.days": (lambda v: v >= 20, "must be at least 20"),
    "backtest.top_k": MAYBE_AT_LEAST_1,
    "backtest.n_drop": MAYBE_AT_LEAST_1,
    "backtest.rebalance_days": AT_LEAST_1,
    "backtest.delay": AT_LEAST_0,
    "backtest.capital": ABOVE_0,
    "backtest.risk_degree": SHARE,
    "backtest.buy_cost": COST,  # below 0.5: they are also doubled
    "backtest.sell_cost": COST,
    "backtest.slippage_basis_points": (lambda v: 0 <= v < 5000, "must be from 0 to below 5000"),
    "backtest.start_offsets": AT_LEAST_1,
    "backtest.participation_rate": SHARE,
    "trainer.device": (
        lambda v: re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", v) is not None,
        "must be auto, cpu, mps, cuda or cuda:N",
    ),
}


def check_values(config: DictConfig) -> None:
    """Check the rules of a composed configuration.

    Raises ValueError with one message that names the key, the value received and the rule.
    """
    values = flat(config)
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}={value!r}: must be a finite number")
    for key, (obeyed, rule) in RULES.items():
        if key in values and not _obeys(values[key], obeyed):
            raise ValueError(f"{key}={values[key]!r}: {rule}")
    if unknown := sorted({*config.trust} - trusted()):
        raise ValueError(
            f"trust=[{unknown[0]}]: in a file, but only the command line can trust a package; if "
            f"you know what it runs, add trust=[{','.join(config.trust)}]"
        )
    for key, target in targets(OmegaConf.to_container(config, resolve=True)):
        if not allowed_target(target):
            raise ValueError(f"{key}={refusal(target)}")
    _check_together(values)
    library.require_known(library.expand(config.dataset.factors))  # an unknown name is an error
    unknown = [name for name in config.dataset.project_targets if name not in METRICS]
    if unknown:
        raise ValueError(
            f"dataset.project_targets: {unknown[0]!r} is not one of {', '.join(METRICS)}"
        )


def _check_together(values: Mapping[str, Any]) -> None:
    """Check the rules for values that depend on each other."""
    for key, source in DERIVED_KEYS.items():
        if key in values and values[key] != values[source]:
            raise ValueError(
                f"{key}={values[key]}: follows {source}={values[source]}; set that one"
            )
    if "split.test" in values and values["split.train"] + values["split.test"] >= 1:
        raise ValueError("split.train + split.test must leave days for validation (below 1)")
    if "model.heads" in values and values["model.width"] % values["model.heads"]:
        raise ValueError(
            f"model.width={values['model.width']}: must be a multiple of "
            f"model.heads={values['model.heads']}"
        )
    lookback = values["dataset.lookback"]
    longest = {"model.days": values.get("model.days", 1)}
    longest["model.scales"] = max(values.get("model.scales", [1]))
    for key, days in longest.items():
        if days > lookback:
            raise ValueError(f"{key}={days}: more than dataset.lookback={lookback} days")
    weights = ("loss.regression_weight", "loss.classification_weight")
    if all(key in values and values[key] == 0 for key in weights):
        raise ValueError(f"{weights[0]}=0, {weights[1]}=0: one of them must be above 0")
    components, days = (values[f"neutralise.{name}"] for name in ("components", "days"))
    if components > days // 2:
        raise ValueError(f"neutralise.components={components}: at most half of {days} days")
    _check_learning_rates(values)
    _check_backtest(values)


def _check_learning_rates(values: Mapping[str, Any]) -> None:
    plateau = values["scheduler._target_"].endswith("Plateau")
    if plateau and not 0 < values["scheduler.factor"] < 1:
        raise ValueError(f"scheduler.factor={values['scheduler.factor']}: {SHARE[1]}")
    for key in ("scheduler.eta_min", "scheduler.min_lr"):
        if key in values and values[key] > values["optimizer.lr"]:
            raise ValueError(
                f"{key}={values[key]}: above optimizer.lr={values['optimizer.lr']}; lower it too"
            )


def _check_backtest(values: Mapping[str, Any]) -> None:
    k, n_drop = values["backtest.top_k"], values["backtest.n_drop"]
    if k is not None and n_drop is not None and n_drop > k:
        raise ValueError(f"backtest.n_drop={n_drop}: more than the backtest.top_k={k} stocks held")
    if values["backtest.fill"] is Fill.open and values["backtest.delay"] == 0:
        raise ValueError("backtest.delay=0: the open of the signal's own day was before the signal")
    if values["backtest.risk_degree"] * (1 + 2 * values["backtest.buy_cost"]) > 1:
        raise ValueError("backtest.risk_degree leaves no cash for backtest.buy_cost, once doubled")


def allowed_target(name: Any) -> bool:
    """Whether a `_target_` may be built; nothing else is imported or called."""
    return isinstance(name, str) and (
        OTHER_TARGETS.fullmatch(name) is not None
        or OUR_TARGETS.fullmatch(name) is not None
        or (DOTTED.fullmatch(name) is not None and is_trusted(name))
    )


def refusal(target: Any) -> str:
    """The target and why it is not built."""
    return (
        f"{target!r}: not a class this project builds; one of your own package needs "
        "trust=[PACKAGE] on the command line"
    )


def targets(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every `_target_` in nested dicts and lists, with its key."""
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in children:
        if name == "_target_":
            yield f"{key}{name}", value
        elif isinstance(value, (dict, list)):
            yield from targets(value, f"{key}{name}.")


def flat(node: DictConfig, prefix: str = "", nodes: bool = False) -> dict[str, Any]:
    """Every leaf by its dotted key, resolved, None if missing; with `nodes` the branches too."""
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return dict(_leaves(plain, prefix, nodes))


def _obeys(value: Any, rule: Callable[[Any], bool]) -> bool:
    try:
        return rule(value)
    except TypeError:  # text compared with a number
        return False


def _leaves(node: Mapping[Any, Any], prefix: str, nodes: bool) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            if nodes:
                yield key, value
            yield from _leaves(value, f"{key}.", nodes)
        else:
            yield key, None if value == MISSING else value
