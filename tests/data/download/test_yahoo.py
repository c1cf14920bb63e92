"""Our use of yfinance: its own code, with Yahoo's answers from here instead of the network."""

from __future__ import annotations

import inspect
import sys
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

yfinance = pytest.importorskip("yfinance", reason="yfinance is not installed (extra: download)")

from yfinance.data import YfData  # noqa: E402
from yfinance.exceptions import YFPricesMissingError, YFRateLimitError  # noqa: E402

from stockformer.data.download.provider import (  # noqa: E402
    COLUMNS,
    RateLimited,
    Unavailable,
    Unreachable,
)
from stockformer.data.download.validation import checked_sessions, complete_days  # noqa: E402
from stockformer.data.download.yahoo import Yahoo  # noqa: E402

ZONE = "Asia/Kolkata"
OPENS, CLOSES = timedelta(hours=9, minutes=15), timedelta(hours=15, minutes=30)
DAYS = pd.date_range("2023-01-02", periods=5, tz=ZONE)
SPAN = (date(2023, 1, 2), date(2023, 1, 6))


def answer(**quotes: list[float | None]) -> dict[str, Any]:
    """What Yahoo's chart API answers for five sessions of one stock."""
    close = [100.0, 101.0, 102.0, 103.0, 104.0]
    quote = {
        "open": close,
        "high": [price + 1 for price in close],
        "low": [price - 1 for price in close],
        "close": close,
        "volume": [1000, 2000, 3000, 4000, 5000],
    } | quotes
    day = DAYS[-1]
    period = {
        "timezone": "IST",
        "gmtoffset": 19800,
        "start": int((day + OPENS).timestamp()),
        "end": int((day + CLOSES).timestamp()),
    }
    meta = {
        "currency": "INR",
        "symbol": "AAA.NS",
        "instrumentType": "EQUITY",
        "exchangeTimezoneName": ZONE,
        "timezone": "IST",
        "gmtoffset": 19800,
        "regularMarketTime": period["end"],
        "currentTradingPeriod": {"pre": period, "regular": period, "post": period},
        "dataGranularity": "1d",
        "validRanges": ["1d", "max"],
        "priceHint": 2,
    }
    indicators = {"quote": [quote], "adjclose": [{"adjclose": [0.98 * x for x in close]}]}
    stamps = [int((each + OPENS).timestamp()) for each in DAYS]
    result = {"meta": meta, "timestamp": stamps, "indicators": indicators}
    return {"chart": {"result": [result], "error": None}}


@pytest.fixture
def yahoo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set what Yahoo answers, or raises: `yahoo(answer())`."""

    def reply(content: dict[str, Any] | Exception) -> Yahoo:
        def get(*_: object, **__: object) -> SimpleNamespace:
            if isinstance(content, Exception):
                raise content
            return SimpleNamespace(text="", status_code=200, json=lambda: content)

        monkeypatch.setattr(YfData, "get", get)
        monkeypatch.setattr(YfData, "cache_get", get)
        monkeypatch.setattr("yfinance.base.TickerBase._get_ticker_tz", lambda *_, **__: ZONE)
        return Yahoo()

    return reply


def test_a_history_by_yfinance_s_own_code(yahoo: Any) -> None:
    history = yahoo(answer()).history("AAA.NS", *SPAN)
    assert (history.currency, history.timezone) == ("INR", ZONE)
    sessions = checked_sessions(history, *SPAN)
    assert sessions.columns.tolist() == [*COLUMNS]
    assert sessions.index.strftime("%Y-%m-%d").tolist() == [str(day.date()) for day in DAYS]
    np.testing.assert_allclose(sessions["Close"], [100, 101, 102, 103, 104])
    np.testing.assert_allclose(sessions["Adj Close"], sessions["Close"] * 0.98)
    assert sessions["Volume"].tolist() == [1000, 2000, 3000, 4000, 5000]
    after_close = datetime(2023, 1, 6, 12, 1, tzinfo=UTC)  # 17:31, two hours after 15:30
    assert complete_days(history, after_close).through == date(2023, 1, 6)
    assert complete_days(history, after_close - timedelta(minutes=2)).through == date(2023, 1, 5)


def test_a_price_that_yahoo_lacks_is_refused(yahoo: Any) -> None:
    history = yahoo(answer(high=[101.0, 102.0, None, 104.0, 105.0])).history("AAA.NS", *SPAN)
    with pytest.raises(Unavailable, match="no number for High on 2023-01-04"):
        checked_sessions(history, *SPAN)


UNKNOWN = {"chart": {"result": None, "error": {"description": "No data found, symbol delisted"}}}
FAILURES = {
    "limited": (YFRateLimitError(), RateLimited, "too many requests"),
    "unknown symbol": (UNKNOWN, Unavailable, "No data found, symbol delisted"),
    "no network": (OSError("no route to host"), Unreachable, "no route to host"),
    "another form": ({"chart": {"result": [{"meta": {}}], "error": None}}, Unavailable, "yfinance"),
    "no chart": ({}, Unavailable, "AAA.NS"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_are_told_apart(case: str, yahoo: Any) -> None:
    content, kind, message = FAILURES[case]
    with pytest.raises(kind, match=message):
        yahoo(content).history("AAA.NS", *SPAN)


def test_what_ticker_history_is_called_with(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def history(_: object, **words: Any) -> pd.DataFrame:
        seen.update(words)
        raise YFPricesMissingError("AAA.NS", "")

    monkeypatch.setattr(yfinance.Ticker, "history", history)
    with pytest.raises(Unavailable, match="no price data found"):
        Yahoo().history("AAA.NS", *SPAN)
    assert (seen["start"], seen["end"]) == ("2023-01-02", "2023-01-07")  # yfinance excludes the end
    assert seen["auto_adjust"] is False
    from yfinance.scrapers.history import PriceHistory

    known = inspect.signature(PriceHistory.history).parameters
    assert seen.keys() <= known.keys()


def test_without_yfinance_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yfinance", None)
    with pytest.raises(ValueError, match=r"pip install 'stockformer\[download\]'"):
        Yahoo()
