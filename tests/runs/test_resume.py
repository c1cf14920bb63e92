"""A run that is interrupted and resumed leaves what one does that is not, to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs.small_run import Clock, SmallRuns, Stopped, differences

from stockformer.training import checkpoint_manager
from stockformer.training.sampler import EpochSampler
from stockformer.training.trainer import Trainer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def moments(clock: Clock, small: SmallRuns, tmp_path: Path) -> int:
    """How many moments a whole run has."""
    clock.stop_at(0)
    small.run(tmp_path / "counted")
    return clock.seen


def interrupted(small: SmallRuns, clock: Clock, folder: Path, at: list[int], *words: str) -> None:
    """A run that is stopped at each of these moments, counted from the last start, and resumed."""
    for moment in at:
        clock.stop_at(moment)
        with pytest.raises(Stopped):
            small.run(folder, *words)
    clock.stop_at(0)
    small.run(folder, *words)


def test_interrupted_at_random_moments(
    small: SmallRuns, whole: Path, clock: Clock, moments: int, tmp_path: Path
) -> None:
    assert moments > 50
    chosen = np.random.default_rng(0).choice(np.arange(1, moments - 4), 4, replace=False)
    for moment in (1, *chosen.tolist(), *range(moments - 3, moments + 1)):  # the last: the test
        interrupted(small, clock, tmp_path / f"{moment}", [moment])
        assert not differences(whole, tmp_path / f"{moment}"), moment


def test_interrupted_twice_with_loader_processes(
    small: SmallRuns, whole: Path, clock: Clock, moments: int, tmp_path: Path
) -> None:
    interrupted(
        *(small, clock, tmp_path / "run", [moments // 2, moments // 4]), "trainer.num_workers=2"
    )
    assert not differences(whole, tmp_path / "run")


def test_a_recurrent_model_interrupted_twice(
    small: SmallRuns, clock: Clock, tmp_path: Path
) -> None:
    words = ("model=lstm", "model.layers=2")  # with dropout between the layers
    clock.stop_at(0)
    small.run(tmp_path / "whole", *words)
    interrupted(small, clock, tmp_path / "run", [clock.seen // 2, clock.seen // 4], *words)
    assert not differences(tmp_path / "whole", tmp_path / "run")


@pytest.mark.full
def test_interrupted_a_hundred_times(
    small: SmallRuns, whole: Path, clock: Clock, moments: int, tmp_path: Path
) -> None:
    """84 runs, every fourth with loader processes, every fifth interrupted twice: 101 times."""
    random, resumed, exact = np.random.default_rng(1), 0, 0
    for number in range(84):
        at = [int(random.integers(1, moments + 1))]
        if number % 5 == 0:
            at = [int(random.integers(1, moments // 2)), int(random.integers(1, moments // 2))]
        words = ["trainer.num_workers=2"] if number % 4 == 0 else []
        folder = tmp_path / f"{number}"
        interrupted(small, clock, folder, at, *words)
        resumed += len(at)
        exact += len(at) * (not differences(whole, folder))
        shutil.rmtree(folder)
    assert (exact, resumed) == (101, 101)


def test_without_the_generators_it_is_another_run(
    small: SmallRuns, whole: Path, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_manager, "set_random_state", lambda state: None)
    interrupted(small, clock, tmp_path / "run", [7])
    assert differences(whole, tmp_path / "run")


def test_without_the_position_in_the_order_it_is_another_run(
    small: SmallRuns, whole: Path, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_position = EpochSampler.set_position
    monkeypatch.setattr(
        EpochSampler,
        "set_position",
        lambda sampler, epoch, step: set_position(sampler, epoch=epoch, step=0),
    )
    interrupted(small, clock, tmp_path / "run", [7])
    assert differences(whole, tmp_path / "run")


def test_a_model_may_draw_while_it_is_validated(
    small: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate, close_epoch = Trainer.validate, Trainer.close_epoch

    def drawing(trainer: Trainer, batches: Any) -> Any:
        torch.rand(1)
        return validate(trainer, batches)

    def killed(trainer: Trainer, *epoch: Any) -> None:
        close_epoch(trainer, *epoch)
        raise Stopped

    monkeypatch.setattr(Trainer, "validate", drawing)
    small.run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "close_epoch", killed)
        with pytest.raises(Stopped):
            small.run(tmp_path / "run")
    small.run(tmp_path / "run")
    assert not differences(tmp_path / "whole", tmp_path / "run")
