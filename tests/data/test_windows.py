"""Windows, targets, calendar and fills on a panel small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from stockformer.data.calendar import published_calendar, real_calendar
from stockformer.data.factors.processors import fill_forward_then_zero
from stockformer.data.panel import Panel
from stockformer.data.targets import Targets, next_returns, standardise
from stockformer.data.windows import Windows


def small_panel() -> Panel:
    returns = np.array([[np.nan, np.nan], [0.1, -0.1], [0.0, np.nan], [0.3, -0.3], [0.4, 0.5]])
    return Panel(
        dates=np.arange("2024-03-01", "2024-03-06", dtype="datetime64[D]"),
        tickers=np.array(["A", "B"]),
        returns=returns,
        factors=np.arange(10, dtype=np.float32).reshape(5, 2, 1),
        factor_names=("F",),
    )


def returns_of(panel: Panel, **changes: int | bool) -> Targets:
    settings = {"horizon": 1, "offset": 0, "excess": False, "median_class": False} | {
        "limit_threshold": 0.04
    }
    return next_returns(panel, **(settings | changes))  # type: ignore[arg-type]


def test_a_target_is_the_return_after_the_signal_day_and_missing_is_not_down() -> None:
    targets = returns_of(small_panel(), horizon=2)
    assert targets.values[0].tolist() == [[0.1, -0.1], [0.0, 0.0]]
    assert targets.valid[0].tolist() == [[True, True], [True, False]]
    assert targets.up[0].tolist() == [[True, False], [False, False]]
    assert targets.valid[3].tolist() == [[True, True], [False, False]]
    assert not targets.valid[4].any()


def test_a_window_ends_on_its_signal_day() -> None:
    panel = small_panel()
    windows = Windows(panel, returns_of(panel, horizon=1), real_calendar(panel.dates), lookback=2)
    batch = windows.part(np.array([2, 3]))[[1, 0]]
    assert batch.signal.tolist() == [3, 2]
    assert batch.factors[0, :, :, 0].tolist() == [[4, 5], [6, 7]]
    torch.testing.assert_close(batch.returns[1], torch.tensor([[0.1, -0.1], [0.0, 0.0]]))
    assert batch.trend[1].tolist() == [[1, 0], [0, 0]]
    assert batch.known[1].tolist() == [[True, True], [True, False]]  # a return of 0 is known
    torch.testing.assert_close(batch.target[0], torch.tensor([[0.4, 0.5]]))
    assert batch.calendar[0].tolist() == [[6, 2], [0, 3], [1, 4]]


def test_parts_share_the_panel() -> None:
    panel = small_panel()
    windows = Windows(panel, returns_of(panel, horizon=1), real_calendar(panel.dates), lookback=2)
    part = windows.part(np.array([2]))
    assert part.factors.data_ptr() == windows.factors.data_ptr()
    assert np.shares_memory(windows.factors.numpy(), panel.factors)


def test_the_real_calendar_knows_weekend_sessions() -> None:
    dates = np.array(["2023-11-10", "2023-11-12", "2024-01-20"], dtype="datetime64[D]")
    assert real_calendar(dates).tolist() == [[4, 9], [6, 11], [5, 19]]


def test_the_published_calendar_counts_rows() -> None:
    calendar = published_calendar(np.zeros(300))
    assert calendar[0].tolist() == [2, 0]
    assert calendar[22].tolist() == [3, 1]
    assert calendar[21 * 10].tolist() == [0, 0]


def test_fill_is_forward_then_zero_as_pandas_does_it() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(30, 4, 2)).astype(np.float32)
    values[random.random(values.shape) < 0.4] = np.nan
    expected = pd.DataFrame(values.reshape(30, 8)).ffill().fillna(0).to_numpy()
    np.testing.assert_array_equal(fill_forward_then_zero(values).reshape(30, 8), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"returns": np.zeros((4, 2))}, r"returns has shape \(4, 2\), expected \(5, 2\)"),
        ({"tickers": np.array(["A", "A"])}, "tickers are not unique"),
        ({"dates": np.zeros(5, dtype="datetime64[D]")}, "dates are not strictly increasing"),
        ({"oracle": np.zeros((5, 3, 1))}, "oracle has shape"),
    ],
)
def test_a_panel_that_does_not_fit_together_is_refused(
    change: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(small_panel(), **change)


def test_a_target_may_begin_later_and_its_span_says_so() -> None:
    targets = returns_of(small_panel(), horizon=2, offset=1)
    assert targets.span == 3
    assert targets.values[0].tolist() == [[0.0, 0.0], [0.3, -0.3]]
    assert targets.valid[0].tolist() == [[True, False], [True, True]]
    assert (targets.start.tolist(), targets.end.tolist()) == ([1, 2], [2, 3])


def test_excess_and_median_classes_are_of_the_day() -> None:
    targets = returns_of(small_panel(), excess=True)
    np.testing.assert_allclose(targets.returns[3, 0], [-0.05, 0.05])
    assert targets.up[3, 0].tolist() == [False, True]
    targets = returns_of(small_panel(), median_class=True)
    assert targets.up[3, 0].tolist() == [False, True]
    assert not targets.up[1, 0, 1]


def test_a_stock_locked_where_its_target_starts_is_not_valid() -> None:
    panel = small_panel()
    close = np.cumprod(1 + np.nan_to_num(panel.returns), axis=0)
    low = 0.9 * close
    low[3, 0] = close[3, 0]  # one price only on a day of +30 %
    low[2, 0] = close[2, 0]  # likewise on a day without a move
    prices = {"close": close, "high": close, "low": low}
    targets = returns_of(replace(panel, prices=prices))
    assert targets.valid[3, 0].tolist() == [False, True]
    assert targets.valid[2, 0, 0]


def test_a_stock_counts_only_while_it_is_a_member() -> None:
    member = np.ones((5, 2), dtype=bool)
    member[3, 1] = False
    targets = returns_of(replace(small_panel(), member=member))
    assert targets.valid[3, 0].tolist() == [True, False]


@pytest.mark.parametrize("transform", ["zscore", "rank"])
def test_a_transformed_target_keeps_the_order_and_knows_its_unit(transform: str) -> None:
    random = np.random.default_rng(0)
    panel = replace(
        small_panel(),
        dates=np.arange(50).astype("datetime64[D]"),
        tickers=np.arange(40).astype(str),
        returns=random.normal(0.001, 0.02, (50, 40)),
        factors=np.zeros((50, 40, 1), dtype=np.float32),
    )
    plain = returns_of(panel)
    scaled = standardise(plain, transform, np.arange(30))
    order = plain.returns[:49, 0].argsort(axis=1)
    assert np.array_equal(scaled.values[:49, 0].argsort(axis=1), order)
    assert scaled.values[:49].std() == pytest.approx(1, abs=0.05)
    assert scaled.scale == pytest.approx(0.02, rel=0.1)
    future = replace(panel, returns=np.where(np.arange(50)[:, None] > 31, 9.0, panel.returns))
    assert standardise(returns_of(future), transform, np.arange(30)).scale == scaled.scale


def test_a_part_of_windows_on_another_device_is_there_too() -> None:
    panel = small_panel()
    targets = returns_of(panel)
    calendar = real_calendar(panel.dates)
    windows = Windows(panel, targets, calendar, lookback=2)
    for name, value in vars(windows).items():
        setattr(windows, name, value.to("meta"))
    batch = windows.part(np.array([2, 3]))[range(2)]
    assert {value.device.type for value in vars(batch).values()} == {"meta"}
    assert batch.factors.shape == (2, 2, 2, 1)
