"""Columns of a long file: each different date is looked at once, and nothing is copied twice."""

from __future__ import annotations

import datetime
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stockformer.data.reading.findings import Findings
from stockformer.data.reading.quality import in_order
from stockformer.data.reading.records import Records, joined
from stockformer.data.reading.tables import Table, parse_parquet

ONE, TWO = datetime.date(2024, 1, 2), datetime.date(2024, 1, 3)


def table_of(dates: pa.Array) -> Table:
    content = io.BytesIO()
    pq.write_table(pa.table({"Date": dates}), content, row_group_size=2)
    table = parse_parquet(content.getvalue(), "prices.parquet", {"date"}, Findings())
    assert table is not None
    return table


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("ns"), pa.timestamp("s"), pa.date64()])
def test_dates_that_repeat_are_those_of_their_rows(kind: pa.DataType) -> None:
    findings = Findings()
    dates = table_of(pa.array([TWO, ONE, TWO, TWO, ONE], pa.date32()).cast(kind)).dates(
        "date", "", "", findings
    )
    assert dates.astype(str).tolist() == [str(day) for day in (TWO, ONE, TWO, TWO, ONE)]
    assert not findings.result()


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("ns")])
def test_every_row_without_a_valid_date_is_an_error(kind: pa.DataType) -> None:
    findings, early = Findings(), datetime.date(1800, 1, 1)
    table = table_of(pa.array([ONE, None, early, early, None], pa.date32()).cast(kind))
    dates = table.dates("date", "", "", findings)
    assert np.isnat(dates).tolist() == [False, True, True, True, True]
    with pytest.raises(ValueError, match="4 findings") as caught:
        findings.refuse()
    wrong = {2: "not a date", 3: "absurd year", 4: "absurd year", 5: "not a date"}
    for row, check in wrong.items():
        assert any(
            check in line and f"(row {row}," in line for line in str(caught.value).split("\n")
        )


def records_of(order: list[int]) -> Records:
    dates = np.array(["2024-01-02", "2024-01-03"] * 2, "datetime64[D]")[order]
    ticker, zero = np.array([0, 0, 1, 1])[order], np.zeros(4, int)
    values = {"close": np.arange(4.0)[order], "adjusted": np.arange(4.0)[order]}
    return Records(("a.csv",), zero, np.arange(4), dates, np.array(["A", "B"]), ticker, values)


def test_rows_in_order_are_not_copied_and_others_sorted() -> None:
    sorted_rows, others = records_of([0, 1, 2, 3]), records_of([3, 0, 1, 2])
    assert in_order(sorted_rows, Findings()) is sorted_rows
    assert in_order(others, Findings()).values["close"].tolist() == [0, 1, 2, 3]


def test_one_file_is_not_copied_and_its_columns_are_in_order() -> None:
    part = records_of([0, 1, 2, 3])
    whole = joined([part])
    assert list(whole.values) == ["adjusted", "close"]
    assert whole.values["close"] is part.values["close"]


def test_the_pivot_takes_the_columns_out() -> None:
    records = records_of([2, 0, 3, 1])
    _, arrays = records.pivot()
    assert arrays["close"].tolist() == [[0, 2], [1, 3]]
    assert not records.values
