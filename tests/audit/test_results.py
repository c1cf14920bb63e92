"""Results are compared by digests, and values cross to another process only where they differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockformer.audit import lookahead, observe, processes, variants
from stockformer.audit.lookahead import Leak
from stockformer.audit.observe import Observation, Request
from stockformer.audit.results import Results, positions
from stockformer.data import dataset
from stockformer.data.panel import Panel
from stockformer.data.reading.cache import scratch_arrays

DAYS, STOCKS, FACTORS = 30, 4, 3
NAMES = ("factor A", "factor B", "factor C")


def observation(factors: np.ndarray, rows: np.ndarray, asked: list[int]) -> Observation:
    found = Results()
    found.note("factors", rows, factors, NAMES)

    def values(name: str, rows: np.ndarray) -> np.ndarray:
        asked.extend(rows.tolist())
        return found.values(name, rows)

    return Observation(
        dates=np.datetime64("2024-01-01") + np.arange(DAYS),
        tickers=np.array(["AAA", "BBB", "CCC", "DDD"]),
        dated=found.dated,
        values=values,
    )


def leaks_of(change: Callable[[np.ndarray], None]) -> tuple[list[Leak], set[int]]:
    """What is found, and the rows whose values were looked at."""
    factors = np.random.default_rng(0).normal(size=(DAYS, STOCKS, FACTORS)).astype(np.float32)
    factors[3, 2, 0] = np.nan
    other, asked = factors.copy(), list[int]()
    change(other)
    rows = np.arange(DAYS)
    request = Request("", variants.REPLACED, cut=20, rows=(20,))
    one, two = observation(factors, rows, asked), observation(other[:28], rows[:28], asked)
    return list(lookahead._moved(one, two, request)), set(asked)


@pytest.mark.parametrize("cells", [STOCKS * FACTORS, 10**6])
def test_only_days_that_differ_are_looked_at(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "BLOCK_CELLS", cells)  # a day, or all days at once

    def change(factors: np.ndarray) -> None:
        factors[21:] = 0.0  # after the cut
        factors[[5, 7, 20], :2, 1] += 1.0
        factors[7, 3, 2] = np.nan

    found, asked = leaks_of(change)
    assert asked == {5, 7, 20}
    assert [(leak.what, leak.changed) for leak in found] == [("factor B", 6), ("factor C", 1)]
    days = [(date, ticker) for date, ticker, *_ in found[0].cells]
    assert days == [("2024-01-06", "AAA"), ("2024-01-06", "BBB"), ("2024-01-08", "AAA")]


def test_equal_numbers_of_other_bits_are_no_leak() -> None:
    def change(factors: np.ndarray) -> None:
        factors[3, 2, 0] = -np.float32(np.nan)

    assert leaks_of(change)[0] == []


def test_rows_may_be_in_any_order() -> None:
    rows = np.array([7, 2, 9])
    assert positions(rows, np.array([2, 9, 7])).tolist() == [1, 2, 0]
    found = Results()
    found.note("x", rows, np.array([70, 20, 90]))
    assert found.values("x", np.array([2, 7])).tolist() == [20, 70]


def answering(number: int) -> tuple[int, Callable[[int], int]]:
    """Called in a new process, which imports it by its name."""
    if number < 0:
        raise ValueError("below 0")

    def answer(question: int) -> int:
        if question == 0:
            raise ValueError("no such value")
        return number * question

    return number, answer


@pytest.mark.parametrize("start_method", ["", "spawn"])
def test_a_process_answers_until_the_context_ends(start_method: str) -> None:
    with processes.called(start_method, answering, 6) as (found, ask):
        assert (found, ask(7), ask(2)) == (6, 42, 12)
        with pytest.raises(ValueError, match="no such value"):
            ask(0)
    with (
        pytest.raises(ValueError, match="below 0"),
        processes.called(start_method, answering, -1),
    ):
        raise AssertionError


def test_arrays_in_scratch_leave_no_file(tmp_path: Path) -> None:
    new_array = scratch_arrays(tmp_path)
    arrays = [new_array((3, 2), np.float32) for _ in range(2)]
    for number, array in enumerate(arrays):
        assert isinstance(array, np.memmap)
        array[:] = number
    assert [array.sum() for array in arrays] == [0.0, 6.0]
    assert not list(tmp_path.iterdir())


def panel_of(**more: Any) -> Panel:
    random = np.random.default_rng(1)
    factors = random.normal(size=(DAYS, STOCKS, FACTORS)).astype(np.float32)
    factors[25, 1, 0] = np.nan
    return Panel(
        dates=np.datetime64("2024-01-01") + np.arange(DAYS),
        tickers=np.array(["AAA", "BBB", "CCC", "DDD"]),
        returns=random.normal(size=(DAYS, STOCKS)),
        factors=factors,
        factor_names=NAMES,
        **more,
    )


@pytest.mark.parametrize("variant", [variants.REPLACED, variants.REVALUED])
def test_another_future_is_made_by_blocks_of_days(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "BLOCK_CELLS", 2 * STOCKS * FACTORS)
    panel = panel_of()
    before = panel.factors.copy()
    other = variants.after(panel, 20, variant)
    np.testing.assert_array_equal(panel.factors, before)
    np.testing.assert_array_equal(other.factors[:21], before[:21])
    late, was = other.factors[21:], before[21:]
    assert not (late == was).any()
    if variant == variants.REVALUED:
        np.testing.assert_array_equal(np.isnan(late), np.isnan(was))
    else:
        assert 0.1 < np.isnan(late).mean() < 0.5


def test_a_factor_that_does_not_move_is_named() -> None:
    panel = panel_of()
    factors = np.nan_to_num(panel.factors)
    factors[10:, :, 1] = 2.0
    still = replace(panel, factors=factors)
    assert observe._constant(still, 9) == []
    assert observe._constant(still, 10) == ["factor B"]
