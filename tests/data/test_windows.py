"""Windows, targets, calendar and fills on a panel small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from stockformer.data.calendar import published_calendar, real_calendar
from stockformer.data.panel import Panel
from stockformer.data.processors import fill_forward_then_zero
from stockformer.data.targets import next_returns
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


def test_a_target_is_the_return_after_the_signal_day_and_missing_is_not_down() -> None:
    targets = next_returns(small_panel(), horizon=2)
    assert targets.values[0].tolist() == [[0.1, -0.1], [0.0, 0.0]]
    assert targets.valid[0].tolist() == [[True, True], [True, False]]
    assert targets.up[0].tolist() == [[True, False], [False, False]]
    assert targets.valid[3].tolist() == [[True, True], [False, False]]
    assert not targets.valid[4].any()


def test_a_window_ends_on_its_signal_day() -> None:
    panel = small_panel()
    windows = Windows(panel, next_returns(panel, 1), real_calendar(panel.dates), lookback=2)
    batch = windows.part(np.array([2, 3]))[[1, 0]]
    assert batch.signal.tolist() == [3, 2]
    assert batch.factors[0, :, :, 0].tolist() == [[4, 5], [6, 7]]
    torch.testing.assert_close(batch.returns[1], torch.tensor([[0.1, -0.1], [0.0, 0.0]]))
    assert batch.trend[1].tolist() == [[1, 0], [0, 0]]
    torch.testing.assert_close(batch.target[0], torch.tensor([[0.4, 0.5]]))
    assert batch.calendar[0].tolist() == [[6, 2], [0, 3], [1, 4]]


def test_parts_share_the_panel() -> None:
    panel = small_panel()
    windows = Windows(panel, next_returns(panel, 1), real_calendar(panel.dates), lookback=2)
    part = windows.part(np.array([2]))
    assert part.factors.data_ptr() == windows.factors.data_ptr()
    assert windows.factors.numpy().base is panel.factors.base or np.shares_memory(
        windows.factors.numpy(), panel.factors
    )


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
        ({"oracle": np.zeros((5, 3))}, "oracle has shape"),
    ],
)
def test_a_panel_that_does_not_fit_together_is_refused(
    change: dict[str, np.ndarray], message: str
) -> None:
    fields = {name: getattr(small_panel(), name) for name in Panel.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        Panel(**(fields | change))
