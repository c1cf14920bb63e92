"""Labels do not cross splits, whatever the settings; the protocols' day counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stockformer.data.splits import Split, by_dates, by_ratio, walk_forward


def days(count: int) -> np.ndarray:
    return np.arange(count).astype("datetime64[D]")


def fold(number: int, span: int = 1, **changes: int | None) -> Split:
    settings: dict[str, int | None] = {"first_train": 60, "first_test": 300, "test_days": 60}
    settings |= {"validation_days": 40, "train_days": None} | changes
    return walk_forward(fold=number, dates=days(660), lookback=20, target_span=span, **settings)  # type: ignore[arg-type]


def assert_no_target_in_two_parts(split: Split, span: int) -> None:
    for earlier, later in itertools.pairwise(split.parts().values()):
        # The later part's first target begins at the close of its signal day.
        assert earlier[-1] + span <= later[0]


@pytest.mark.parametrize(
    ("lookback", "span", "context"),
    list(itertools.product((2, 5, 20), (1, 2, 5), ("across", "inside"))),
)
def test_no_target_lies_in_two_parts(lookback: int, span: int, context: str) -> None:
    split = by_ratio(
        train=0.7,
        test=0.15,
        context=context,
        dates=days(300),
        lookback=lookback,
        target_span=span,
    )
    assert_no_target_in_two_parts(split, span)
    assert split.train[0] == lookback - 1
    assert split.test[-1] + span == 299
    first = 210 if context == "across" else 210 + lookback - 1
    assert split.validation[0] == first


@pytest.mark.parametrize(("number", "span"), list(itertools.product(range(6), (1, 2, 5))))
def test_folds_walk_forward_without_overlap(number: int, span: int) -> None:
    split = fold(number, span)
    assert_no_target_in_two_parts(split, span)
    assert split.train[0] == 60
    assert split.test[0] == 300 + 60 * number
    assert split.train[-1] + span < split.validation[0]
    assert split.validation[-1] + span < split.test[0]
    assert len(split.validation) == 40


@pytest.mark.parametrize("span", [1, 2, 5])
def test_the_folds_of_nifty_wf_tile_the_test_days(span: int) -> None:
    tests = np.concatenate([fold(number, span).test for number in range(6)])
    assert np.array_equal(tests, np.arange(300, 660 - span))


def test_training_may_roll() -> None:
    split = fold(5, train_days=100)
    assert len(split.train) == 100
    assert split.train[-1] == fold(5).train[-1]


@pytest.mark.parametrize("number", [-1, 6])
def test_a_fold_that_is_not_there_is_named(number: int) -> None:
    with pytest.raises(ValueError, match=f"split.fold={number}: there are 6 folds, 0 to 5"):
        fold(number)


def test_the_published_nasdaq_samples() -> None:
    split = by_dates(
        **{"validation_start": 756, "test_start": 1008, "counted_by": "target"},
        **{"context": "across", "dates": days(1245), "lookback": 16, "target_span": 1},
    )
    assert [len(part) for part in split.parts().values()] == [740, 252, 237]
    assert split.test[0] == 1007
    assert_no_target_in_two_parts(split, 1)


def test_dates_are_looked_up() -> None:
    settings = {"counted_by": "signal", "context": "across", "lookback": 5, "target_span": 2}
    dates = days(100)
    split = by_dates(
        validation_start=str(dates[60]), test_start=str(dates[80]), dates=dates, **settings
    )
    assert (split.validation[0], split.test[0]) == (60, 80)
    with pytest.raises(ValueError, match="validation_start='soon': neither an ISO date"):
        by_dates(validation_start="soon", test_start=80, dates=dates, **settings)


def test_a_split_without_samples_is_named() -> None:
    with pytest.raises(ValueError, match="no validation samples in rows 75 to 87 of 100"):
        by_ratio(
            train=0.75, test=0.125, context="inside", dates=days(100), lookback=20, target_span=2
        )


def test_no_window_or_target_reaches_across_a_break() -> None:
    split = Split(train=np.arange(4, 60), validation=np.arange(60, 80), test=np.arange(80, 98))
    kept = split.without((30, 31), lookback=5, target_span=2)
    assert np.array_equal(np.setdiff1d(split.train, kept.train), np.arange(28, 35))
    assert np.array_equal(kept.test, split.test)
    assert split.without((), lookback=5, target_span=2).train.shape == split.train.shape
    with pytest.raises(ValueError, match="every validation window crosses a gap"):
        split.without(range(60, 82, 4), lookback=5, target_span=2)
