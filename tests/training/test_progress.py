"""The bar on the terminal."""

from __future__ import annotations

import pytest
from rich.console import Console

from stockformer.training.progress import progress


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_the_first_process_draws_it(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(Console, "is_terminal", True)
    items = [1, 2]
    shown = progress(items, "epoch 1/1", total=2)
    assert (shown is items) == (rank == "1")
    assert list(shown) == items
