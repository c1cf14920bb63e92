"""The look-ahead audit passes what is clean and catches leaks planted in every subpackage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from small_data import Phase5Files, composed

from stockformer import experiment
from stockformer.audit import lookahead, observe
from stockformer.audit.lookahead import Leak, run_audit
from stockformer.data.calendar import CALENDARS
from stockformer.data.factors import alpha158, processors
from stockformer.data.panel import Panel
from stockformer.data.targets import Targets
from stockformer.data.windows import Windows

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def here(monkeypatch: Patch) -> None:
    """Without new processes, which would not know what is patched."""
    monkeypatch.setattr(lookahead, "START_METHOD", "")
    monkeypatch.setattr(lookahead, "AT_ONCE", 1)


def config_of(files: Phase5Files, *lines: str) -> DictConfig:
    small = ("model.width=8", "model.layers=1", "dataset.lookback=5", "trainer.device=cpu")
    return composed("dataset=nifty200_phase5", *small, *lines, data_dir=files.data_dir)


def audit(files: Phase5Files, *lines: str, fast: bool = True) -> list[Leak]:
    config = config_of(files, "split=ratio", *lines)
    return run_audit(config, experiment.read_dataset(config), lines, cuts=3, fast=fast).leaks


CLEAN = [
    (),
    ("target.transform=zscore", "target.offset=1"),
    ("processors=rank",),
    ("processors=robust", "target.transform=rank"),
    ("processors=zscore", "target.excess=true", "target.median_class=true"),
    ("graph=file",),
    ("graph=learned", "dataset.calendar=published", "model.calendar_slots=[5,50]"),
]


@pytest.mark.parametrize("lines", CLEAN, ids=" ".join)
def test_no_false_alarm(phase5_files: Phase5Files, lines: tuple[str, ...]) -> None:
    assert audit(phase5_files, *lines) == []


def leak_in_factor(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., None]:
    """Plant `change(factors, returns)` where factors are prepared."""

    def plant(patch: Patch) -> None:
        clean = processors.Fill.apply

        def apply(self: Any, panel: Panel, state: Any) -> Panel:
            panel = clean(self, panel, state)
            changed = change(panel.factors.astype(np.float64), np.nan_to_num(panel.returns))
            return panel.with_factors(changed.astype(np.float32), panel.factor_names)

        patch.setattr(processors.Fill, "apply", apply)

    return plant


def centred_window(factors: np.ndarray, returns: np.ndarray) -> np.ndarray:
    padded = np.pad(factors, ((1, 1), (0, 0), (0, 0)), mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def future_fill(factors: np.ndarray, returns: np.ndarray) -> np.ndarray:
    filled = factors.copy()
    filled[::2] = np.roll(factors, -1, axis=0)[::2]
    return filled


def label_among_inputs(factors: np.ndarray, returns: np.ndarray) -> np.ndarray:
    changed = factors.copy()
    changed[:-1, :, 0] = returns[1:]
    return changed


def whole_sample_scaling(factors: np.ndarray, returns: np.ndarray) -> np.ndarray:
    return (factors - factors.mean(axis=(0, 1))) / factors.std(axis=(0, 1))


def rank_over_time(factors: np.ndarray, returns: np.ndarray) -> np.ndarray:
    return factors.argsort(axis=0).argsort(axis=0) / len(factors)


def whole_sample_cut(factors: np.ndarray, returns: np.ndarray) -> np.ndarray:
    return np.clip(factors, *np.quantile(factors, (0.2, 0.8)))


def scaled_by_the_last_value(factors: np.ndarray, returns: np.ndarray) -> np.ndarray:
    return factors / (np.abs(factors[-1]) + 1)


def backward_smoothing(factors: np.ndarray, returns: np.ndarray) -> np.ndarray:
    smooth = factors.copy()
    for row in range(len(smooth) - 2, -1, -1):
        smooth[row] = 0.5 * smooth[row] + 0.5 * smooth[row + 1]
    return smooth


def tomorrows_cross_section(factors: np.ndarray, returns: np.ndarray) -> np.ndarray:
    return factors - np.roll(factors, -1, axis=0).mean(axis=1, keepdims=True)


def whole_sample_graph(patch: Patch) -> None:
    patch.setattr(experiment, "training_days", lambda split, targets: slice(0, None))


def whole_sample_selection(patch: Patch) -> None:
    clean = processors.Fill.fit

    def fit(self: Any, panel: Panel, targets: Targets, seen: slice) -> Any:
        clean(self, panel, targets, seen)
        return {"kept": np.argsort(-np.abs(panel.factors.sum(axis=(0, 1))))}

    patch.setattr(processors.Fill, "fit", fit)


def target_one_day_early(patch: Patch) -> None:
    clean = experiment.next_returns

    def early(panel: Panel, **settings: Any) -> Targets:
        targets = clean(panel, **settings)
        rolled = {name: np.roll(getattr(targets, name), 1, axis=0) for name in ("returns", "valid")}
        return replace(targets, **rolled)

    patch.setattr(experiment, "next_returns", early)


def scale_of_all_days(patch: Patch) -> None:
    clean = experiment.standardise

    def standardise(targets: Targets, transform: str, days: np.ndarray) -> Targets:
        return clean(targets, transform, np.arange(len(targets.values)))

    patch.setattr(experiment, "standardise", standardise)


def calendar_from_the_future(patch: Patch) -> None:
    clean = CALENDARS["real"]
    patch.setitem(CALENDARS, "real", lambda dates: np.roll(clean(dates), -5, axis=0))


def days_left_in_the_sample(patch: Patch) -> None:
    def countdown(dates: np.ndarray) -> np.ndarray:
        return np.stack([np.arange(len(dates))[::-1], np.zeros(len(dates), dtype=int)], axis=1)

    patch.setitem(CALENDARS, "real", countdown)


def window_one_day_late(patch: Patch) -> None:
    clean = Windows.__init__

    def late(self: Windows, *arguments: Any) -> None:
        clean(self, *arguments)
        self.returns = torch.cat([self.returns[1:], self.returns[-1:]])

    patch.setattr(Windows, "__init__", late)


PLANTED: dict[str, tuple[Callable[[Patch], None], str, tuple[str, ...]]] = {
    "centred window": (leak_in_factor(centred_window), "factor STD5", ()),
    "future fill": (leak_in_factor(future_fill), "factor STD5", ()),
    "label among the inputs": (leak_in_factor(label_among_inputs), "factor STD5", ()),
    "whole-sample scaling": (leak_in_factor(whole_sample_scaling), "factor STD5", ()),
    "rank over time": (leak_in_factor(rank_over_time), "factor STD5", ()),
    "whole-sample cut": (leak_in_factor(whole_sample_cut), "factor STD5", ()),
    "scaled by the last value": (leak_in_factor(scaled_by_the_last_value), "factor STD5", ()),
    "backward smoothing": (leak_in_factor(backward_smoothing), "factor STD5", ()),
    "tomorrow's cross-section": (leak_in_factor(tomorrows_cross_section), "factor STD5", ()),
    "whole-sample graph": (whole_sample_graph, "graph embedding", ()),
    "whole-sample fit": (whole_sample_graph, "state of processor", ("processors=robust",)),
    "whole-sample selection": (whole_sample_selection, "state of processor fill", ()),
    "target one day early": (target_one_day_early, "target known already", ()),
    "scale of all days": (scale_of_all_days, "scale of the target", ("target.transform=zscore",)),
    "calendar from the future": (calendar_from_the_future, "calendar", ()),
    "days left in the sample": (days_left_in_the_sample, "calendar", ()),
    "window one day late": (window_one_day_late, "window's returns", ()),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_leak_is_caught_and_named(
    phase5_files: Phase5Files, monkeypatch: Patch, name: str
) -> None:
    plant, what, lines = PLANTED[name]
    plant(monkeypatch)
    leaks = audit(phase5_files, *lines)
    assert any(leak.what.startswith(what) for leak in leaks), leaks


def test_a_leak_is_named_by_factor_date_and_ticker(
    phase5_files: Phase5Files, monkeypatch: Patch
) -> None:
    leak_in_factor(label_among_inputs)(monkeypatch)
    leak = next(leak for leak in audit(phase5_files) if leak.what == "factor STD5")
    date, ticker, before, after = leak.cells[0]
    assert date == leak.cut
    assert ticker in Phase5Files.tickers
    assert before != after
    assert f"factor STD5: 7 values up to {leak.cut} changed" in str(leak)


def test_a_constant_factor_does_not_pass_for_clean(
    phase5_files: Phase5Files, monkeypatch: Patch
) -> None:
    leak_in_factor(lambda factors, returns: np.ones_like(factors))(monkeypatch)
    with pytest.raises(ValueError, match="STD5, KLEN, MA60 constant or empty"):
        audit(phase5_files)


def test_alpha158_from_prices_is_clean_and_a_leak_in_it_is_caught(
    phase5_files: Phase5Files, monkeypatch: Patch
) -> None:
    random = np.random.default_rng(0)
    clean_build = experiment.build

    def with_prices(node: Any, **facts: Any) -> Any:
        built = clean_build(node, **facts)
        if not isinstance(built, Panel):
            return built
        close = 100 * np.exp(np.nan_to_num(built.returns).cumsum(axis=0))
        spread = 1 + 0.01 * random.random((4, *close.shape))
        names = ("open", "high", "low", "close")
        prices = dict(zip(names, (close * spread[0], close * 1.02, close * 0.98, close)))
        return replace(built, prices={**prices, "volume": 1e6 * spread[3]})

    panel = with_prices(config_of(phase5_files).dataset.source)

    def build_panel(node: Any, **facts: Any) -> Any:
        built = clean_build(node, **facts)
        return panel if isinstance(built, Panel) else built

    for module in (experiment, observe):
        monkeypatch.setattr(module, "build", build_panel)
    lines = ("dataset.factors=[KMID,ROC5,STD20,RSV20,CORR20,VMA5]", "processors=rank")
    assert audit(phase5_files, *lines) == []
    clean = alpha158.compute

    def leaking(prices: Any, names: Any, out: Any) -> Any:
        values, names = clean(prices, names, out)
        values[..., 2] = np.roll(values[..., 2], -1, axis=0)
        return values, names

    monkeypatch.setattr(alpha158, "compute", leaking)
    assert any(leak.what == "factor STD20" for leak in audit(phase5_files, *lines))


def test_audits_add_one_hook_to_the_process(monkeypatch: Patch, tmp_path: Path) -> None:
    """Python cannot remove a hook: one more for each audit made the process slower and slower."""
    added: list[Any] = []
    monkeypatch.setattr(sys, "addaudithook", added.append)
    observe._opened_files.cache_clear()
    file = tmp_path / "file"
    for _ in range(3):
        opened: set[str] = set()
        with observe._noting_files(opened):
            added[0]("open", (str(file), "r", 0))
        added[0]("open", (str(tmp_path / "later"), "r", 0))
        assert opened == {str(file)}
    assert len(added) == 1
    observe._opened_files.cache_clear()


def test_only_what_may_be_data_is_an_undeclared_input(
    phase5_files: Phase5Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Packages of the user lie outside the environment, and read files of their own."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site-packages")])
    metadata = tmp_path / "site-packages/pandas-3.1.1.dist-info/entry_points.txt"
    metadata.parent.mkdir(parents=True)
    for path in (metadata, tmp_path / "peek.txt"):
        path.touch()
    nothing: Any = SimpleNamespace(
        panel=SimpleNamespace(sources=()), embedding=SimpleNamespace(sources=())
    )
    opened = {str(metadata), str(tmp_path / "peek.txt")}
    found = observe._undeclared(opened, config_of(phase5_files), nothing, nothing)
    assert [line.partition(":")[0] for line in found] == [str(tmp_path / "peek.txt")]
