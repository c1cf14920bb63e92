"""Checkpoints come back to the bit; what is damaged, swapped or foreign is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stockformer.runs import atomic
from stockformer.training.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint


def save(path: Path, model: nn.Module, **facts: object) -> None:
    save_checkpoint(path, model.state_dict(), {"factor_names": ["a", "b"], **facts})


def test_a_checkpoint_comes_back_to_the_bit_with_its_facts(tmp_path: Path) -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    path = tmp_path / "checkpoints" / "best.safetensors"
    save(path, one, epoch=4)
    facts = load_checkpoint(path, other, ("a", "b"))
    assert facts["epoch"] == 4
    assert torch.equal(one.weight, other.weight)
    assert {p.name for p in path.parent.iterdir()} == {path.name, f"{path.name}.sha256"}


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
    save(path, nn.Linear(3, 2))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path, nn.Linear(3, 2), factors)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    atomic.write_checked(broken, b"\x80\x04junk")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    atomic.write_checked(foreign, foreign.read_bytes())
    for path in (broken, foreign):
        with pytest.raises(ValueError, match=f"{path.name}: not a checkpoint"):
            read_checkpoint(path)
    with pytest.raises(ValueError, match=r"none\.safetensors: cannot be read"):
        read_checkpoint(tmp_path / "none.safetensors")
    good = tmp_path / "good.safetensors"
    save(good, nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"good.safetensors: does not fit the model"):
        load_checkpoint(good, nn.Linear(4, 2), ("a", "b"))


def test_every_flipped_byte_and_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save(path, nn.Linear(3, 2))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"best\.safetensors: damaged"):
            read_checkpoint(path)
        path.write_bytes(whole[:place])
        with pytest.raises(ValueError, match=r"best\.safetensors: damaged"):
            read_checkpoint(path)
    path.write_bytes(whole)
    read_checkpoint(path)


def test_swapped_files_are_noticed_with_their_digests_too(tmp_path: Path) -> None:
    best, last = (tmp_path / f"{name}.safetensors" for name in ("best", "last"))
    save(best, nn.Linear(3, 2))
    save(last, nn.Linear(3, 2))
    shutil.copy(last, best)
    with pytest.raises(ValueError, match=r"best\.safetensors: damaged or replaced"):
        read_checkpoint(best)
    shutil.copy(atomic.digest_file(last), atomic.digest_file(best))
    with pytest.raises(ValueError, match="is the checkpoint 'last' under another name"):
        read_checkpoint(best)
    atomic.digest_file(last).unlink()
    with pytest.raises(ValueError, match=r"last\.safetensors\.sha256 is missing"):
        read_checkpoint(last)
