"""Signs of life: a bar on a terminal, and lines where there is none."""

from __future__ import annotations

import logging
import time

import pytest

from stockformer.runs.console import human_time
from stockformer.training import progress as module
from stockformer.training.progress import progress, working


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that pass only when a test lets them."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_the_first_process_draws_it(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(module, "is_interactive", lambda: True)
    items = [1, 2]
    shown = progress(items, "epoch 1/1", total=2)
    assert (shown is items) == (rank == "1")
    assert list(shown) == items


def test_a_line_every_half_minute_without_a_terminal(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Six minutes of 36 steps, 12 of them done before."""
    caplog.set_level(logging.INFO, logger="stockformer")
    shown = progress(range(24), "epoch 2/9", total=36, done=12, detail=lambda: " steps, loss 1.5")
    for _ in shown:
        clock[0] += 10
    assert caplog.messages == [
        f"epoch 2/9: {step} of 36 steps, loss 1.5, {human_time((36 - step) * 10)} left"
        for step in (15, 18, 21, 24, 27, 30, 33)
    ]


def test_what_is_short_is_not_told(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="stockformer")
    for _ in progress(range(29), "epoch 1/1", total=29):
        clock[0] += 1
    assert caplog.messages == []


def test_long_work_is_told_while_it_lasts_by_its_innermost_part(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="stockformer")
    monkeypatch.setattr(module, "EVERY", 0.05)
    with working("reading"):
        time.sleep(0.12)
        with working("computing"):
            time.sleep(0.12)
    told = len(caplog.messages)
    assert {message.partition(":")[0] for message in caplog.messages} == {"reading", "computing"}
    assert caplog.messages[-1] == "computing: 0 s so far"
    time.sleep(0.12)
    assert len(caplog.messages) == told


def test_work_that_fails_is_told_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="broken"), working("reading"):
        raise ValueError("broken")
    assert module._tasks == []


def test_only_the_first_process_tells(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="stockformer")
    monkeypatch.setattr(module, "EVERY", 0.01)
    monkeypatch.setenv("RANK", "1")
    with working("reading"):
        time.sleep(0.05)
    assert caplog.messages == []
