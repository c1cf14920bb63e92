"""Answers that are not written, because the reader would refuse the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data.download.market import Edit, Market, download

from stockformer.data.download.provider import History


def edit(**columns: object) -> Edit:
    """An answer with other values on its third day."""

    def change(history: History) -> History:
        frame = history.prices.copy()
        for name, value in columns.items():
            column = name.replace("_", " ")
            frame[column] = frame[column].astype(float)
            frame.iloc[2, frame.columns.get_loc(column)] = value
        return replace(history, prices=frame)

    return change


WRONG = {
    "empty": (lambda h: replace(h, prices=h.prices.iloc[:0]), "no prices from 2023-01-01 to"),
    "no column": (lambda h: replace(h, prices=h.prices.drop(columns="Low")), "no column Low"),
    "twice": (
        lambda h: replace(h, prices=h.prices.iloc[[0, 1, 1, 2]]),
        "two rows for 2023-01-03",
    ),
    "order": (lambda h: replace(h, prices=h.prices.iloc[::-1]), "not in order"),
    "naive": (lambda h: replace(h, prices=h.prices.tz_localize(None)), "no time zone"),
    "zone": (
        lambda h: replace(h, prices=h.prices.tz_localize(None).tz_localize("UTC")),
        "not the midnights of Asia/Kolkata",
    ),
    "no zone": (lambda h: replace(h, timezone="Mars/Base"), "'Mars/Base' is not a time zone"),
    "currency": (lambda h: replace(h, currency="USD"), "prices are in USD"),
    "nan": (edit(Close=np.nan), "no number for Close on 2023-01-04"),
    "infinite": (edit(Adj_Close=np.inf), "no number for Adj Close on 2023-01-04"),
    "zero": (edit(Low=0.0), "price not above 0 on 2023-01-04"),
    "negative": (edit(Adj_Close=-1.0), "price not above 0 on 2023-01-04"),
    "high below low": (edit(High=1.0), "high below low on 2023-01-04"),
    "outside": (edit(Open=1e6), "open is outside low and high on 2023-01-04"),
    "volume": (edit(Volume=-5), "negative volume on 2023-01-04"),
    "idle": (
        lambda h: replace(h, prices=h.prices.assign(Volume=0)),
        "no day on which it was traded",
    ),
    "frozen": (
        lambda h: replace(h, prices=h.prices.assign(**{"Adj Close": 50.0})),
        "the adjusted close does not change",
    ),
    "text": (lambda h: replace(h, prices=h.prices.astype({"Open": str})), "no number for Open"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_answer_that_the_reader_would_refuse_is_not_written(
    case: str, market: Market, words: list[str], into: Path
) -> None:
    change, message = WRONG[case]
    market.edits["ZZZ.NS"] = change
    _, error = download(market, *words)
    assert error.startswith("1 of 3 stocks could not be downloaded:\n  ZZZ: ")
    assert message in error
    assert not (into / "raw/ZZZ.csv").exists()
    assert (into / "raw/AAA.csv").exists()
