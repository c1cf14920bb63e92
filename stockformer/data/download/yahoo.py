"""Daily prices from Yahoo Finance, through yfinance."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from stockformer.data.download.provider import (
    COLUMNS,
    History,
    RateLimited,
    Unavailable,
    Unreachable,
)

TIMEOUT = 30  # seconds of a request
# What yfinance raises where Yahoo's answer is not what it expects.
UNEXPECTED = (ValueError, KeyError, TypeError, AttributeError, IndexError)


class Yahoo:
    """Raises ValueError where yfinance is not installed."""

    name = "yahoo"

    def __init__(self) -> None:
        try:
            import yfinance  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise ValueError(
                "yfinance is not installed: pip install 'stockformer[download]' (in a checkout: "
                "pip install -e '.[download]' -c constraints.txt)"
            ) from error
        yfinance.config.debug.hide_exceptions = False  # else a failure is an empty table
        self._yfinance = yfinance

    def history(self, symbol: str, start: date, end: date) -> History:
        errors = self._yfinance.exceptions
        try:
            ticker = self._yfinance.Ticker(symbol)
            prices = ticker.history(
                start=start.isoformat(),
                end=(end + timedelta(days=1)).isoformat(),  # yfinance excludes it
                interval="1d",
                auto_adjust=False,
                actions=False,
                timeout=TIMEOUT,
            )
            facts = ticker.history_metadata
            return History(
                prices=prices[[*COLUMNS]],
                currency=str(facts["currency"]),
                timezone=str(facts["exchangeTimezoneName"]),
                session_end=_session_end(facts),
            )
        except errors.YFRateLimitError as error:  # without the time that Yahoo may have named
            raise RateLimited from error
        except errors.YFTickerMissingError as error:  # before its base class
            raise Unavailable(str(error)) from error
        except (errors.YFException, OSError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        except UNEXPECTED as error:
            raise Unavailable(
                f"yfinance cannot read Yahoo's answer ({type(error).__name__}: {error})"
            ) from error


def _session_end(facts: Any) -> datetime | None:
    """When the regular session ends that Yahoo calls current; None if it does not say."""
    end = facts.get("currentTradingPeriod", {}).get("regular", {}).get("end")
    return end.to_pydatetime() if hasattr(end, "to_pydatetime") else None
