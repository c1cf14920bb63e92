"""Labels do not cross splits, whatever the settings."""

from __future__ import annotations

import itertools

import pytest

from stockformer.data.splits import by_ratio


@pytest.mark.parametrize(
    ("lookback", "span", "context"),
    itertools.product((2, 5, 20), (1, 2, 5), ("across", "inside")),
)
def test_no_target_lies_in_two_splits(lookback: int, span: int, context: str) -> None:
    split = by_ratio(train=0.7, test=0.15, context=context, days=300, lookback=lookback, span=span)
    parts = list(split.parts().values())
    for earlier, later in itertools.pairwise(parts):
        assert earlier[-1] + span < later[0]
    assert parts[0][0] == lookback - 1
    assert parts[-1][-1] + span == 299
    if context == "inside":
        assert parts[1][0] - (lookback - 1) == 210
    else:
        assert parts[1][0] == 210


def test_a_split_without_samples_is_named() -> None:
    with pytest.raises(ValueError, match="no validation samples in rows 75 to 87 of 100"):
        by_ratio(train=0.75, test=0.125, context="inside", days=100, lookback=20, span=2)
