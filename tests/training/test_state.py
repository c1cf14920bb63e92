"""What a training stands at, wherever it is computed."""

from __future__ import annotations

import pytest
import torch

from stockformer.training.checkpoint_manager import TrainState
from stockformer.training.state import RANDOM, random_state, set_random_state


def test_sums_are_added_on_the_device_that_takes_the_steps() -> None:
    position = TrainState(4, requested_micro_batch_size=4)
    for _ in range(2):
        position.add_step(torch.ones(4, device="meta"), torch.ones(4, device="meta"))
    assert (position.sums.device.type, position.sums.shape) == ("meta", (4,))
    assert position.counts.device.type == "meta"
    position.next_epoch()
    position.add_step(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    assert position.sums.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("here", [1, 3])
def test_a_machine_may_have_more_or_fewer_gpus_than_when_the_state_was_kept(
    here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = random_state() | {f"{RANDOM}cuda{number}": torch.tensor([number]) for number in (0, 1)}
    brought_back = {}

    def note(generator: torch.Tensor, number: int) -> None:
        brought_back[number] = int(generator)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    monkeypatch.setattr(torch.cuda, "set_rng_state", note)
    set_random_state(state)
    assert brought_back == {number: number for number in range(min(here, 2))}
