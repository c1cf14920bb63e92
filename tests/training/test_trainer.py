"""Stopping, keeping the best epoch, and never stepping on a number that is not finite."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stockformer.training.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from stockformer.training.early_stopping import EarlyStopping


def test_stopping_counts_epochs_without_a_better_value() -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.1, higher_is_better=False)
    assert [stopping.better(v) for v in (1.0, 0.95, 0.8)] == [True, False, True]
    assert not stopping.exhausted
    assert [stopping.better(v) for v in (0.8, math.nan)] == [False, False]
    assert stopping.exhausted


def test_higher_can_be_better_and_nan_never_is() -> None:
    stopping = EarlyStopping(patience=3, min_delta=0.0, higher_is_better=True)
    assert [stopping.better(v) for v in (math.nan, -0.2, -0.1, -0.1)] == [False, True, True, False]


def test_a_checkpoint_comes_back_to_the_bit_with_its_facts(tmp_path: Path) -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    path = tmp_path / "checkpoints" / "best.safetensors"
    save_checkpoint(path, one, {"factor_names": ["a", "b"], "epoch": 4})
    facts = load_checkpoint(path, other, ("a", "b"))
    assert facts["epoch"] == 4
    assert torch.equal(one.weight, other.weight)
    assert [p.name for p in path.parent.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (("b", "a"), "factor 1 was a, now b"),
        (("a", "b", "c"), "factor 3 was None, now c"),
        (("a",), "factor 2 was b, now None"),
    ],
)
def test_other_factors_than_a_checkpoint_was_trained_on_are_refused(
    tmp_path: Path, factors: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, nn.Linear(3, 2), {"factor_names": ["a", "b"]})
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path, nn.Linear(3, 2), factors)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x80\x04junk")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    for path in (broken, foreign, tmp_path / "none.safetensors"):
        with pytest.raises(ValueError, match=f"{path.name}: not a checkpoint"):
            read_checkpoint(path)
    good = tmp_path / "good.safetensors"
    save_checkpoint(good, nn.Linear(3, 2), {"factor_names": []})
    with pytest.raises(ValueError, match=r"good.safetensors: does not fit the model"):
        load_checkpoint(good, nn.Linear(4, 2), ())
