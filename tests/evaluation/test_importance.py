"""Groups of factors, and the record of what moved the forecasts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stockformer.data.factors.alpha158 import expand
from stockformer.evaluation.importance import (
    IMPORTANCE,
    MOST_GROUPS,
    Importance,
    groups,
    importance,
    rank_ic_by_date,
)
from stockformer.evaluation.record import plain
from stockformer.runs.typed_json import require


def test_few_factors_are_shuffled_one_by_one() -> None:
    assert groups(["ROC5", "ROC10", "KMID"]) == {"ROC5": [0], "ROC10": [1], "KMID": [2]}


def test_the_windows_of_an_indicator_are_one_group() -> None:
    names = ["KMID", "ROC5", "MA5", "ROC10", "7"]
    assert groups(names, most=4) == {
        **{"KMID": [0], "ROC (2 factors)": [1, 3], "MA5"[:2]: [2], "7": [4]},
    }


@pytest.mark.parametrize("most", [1, 3, 10, MOST_GROUPS])
def test_every_factor_is_in_exactly_one_group(most: int) -> None:
    names = expand(["alpha158"])
    assert len(names) == 158
    found = groups(names, most)
    assert len(found) <= most
    assert sorted(place for places in found.values() for place in places) == list(range(158))


def test_the_drop_is_paired_by_date() -> None:
    random = np.random.default_rng(0)
    before = random.normal(0.05, 0.2, 100)
    after = before - 0.01  # far less than the noise of a date
    found = importance(before, {"a": after, "b": before}, {"a": ("x",), "b": ()}, 1)
    assert found.table.loc["a", "mean"] == pytest.approx(0.01)
    assert 0.0099 < found.table.loc["a", "lower"] <= found.table.loc["a", "upper"] < 0.0101
    assert found.rank_ic == pytest.approx(before.mean())
    nothing = importance(before, {"a": np.full(100, np.nan)}, {"a": ("x",)}, 1)
    assert nothing.table.loc["a", "mean"] == pytest.approx(before.mean())


def test_what_is_written_is_read_back() -> None:
    before = np.array([0.1, np.nan, 0.3])
    found = importance(before, {"a": before * 0.5}, {"a": ("x", "y")}, 1)
    data = json.loads(json.dumps(plain(found.to_json()), allow_nan=False))
    require(data, IMPORTANCE, "importance")
    again = Importance.from_json(data)
    assert again.table.equals(found.table)
    assert (again.rank_ic, again.dates, again.factors) == (0.2, 2, {"a": ("x", "y")})


def test_the_rank_ic_of_a_date_is_over_valid_cells_and_the_mean_of_its_steps() -> None:
    forecast = np.array([[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]])
    label = np.array([[[1.0, 2.0, -9.0], [3.0, 2.0, 1.0]]])
    valid = np.array([[[True, True, False], [True, True, True]]])
    assert rank_ic_by_date(forecast, label, valid).tolist() == [0.0]
    assert rank_ic_by_date(forecast, label, valid & False).tolist() != [0.0]
