"""What a provider of daily prices is asked for, what it gives, and how it fails."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

import pandas as pd

PRICES = ("Open", "High", "Low", "Close", "Adj Close")
COLUMNS = (*PRICES, "Volume")


@dataclass(frozen=True)
class History:
    """Daily prices of one stock, as a provider gives them; nothing in it is checked.

    prices: a row a session, at its midnight in the market's time zone; columns `COLUMNS`. Open,
    High, Low and Close may be adjusted for splits, and Volume then is too; Adj Close is the close
    adjusted for splits and dividends. session_end: of the newest or the coming regular session.
    """

    prices: pd.DataFrame
    currency: str
    timezone: str
    session_end: datetime | None


class Provider(Protocol):
    """A source of daily prices. name: recorded with the files, and shown."""

    @property
    def name(self) -> str: ...

    def history(self, symbol: str, start: date, end: date) -> History:
        """The sessions from start to end, both included.

        Raises RateLimited, Unreachable, or Unavailable.
        """


class RateLimited(Exception):
    """Too many requests. seconds: how long the provider says to wait; None if it does not say."""

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__("too many requests")
        self.seconds = seconds


class Unreachable(Exception):
    """No answer: the network or the provider; the next attempt may succeed."""


class Unavailable(Exception):
    """The prices of this stock cannot be had or used, whoever asks again; the message says why."""
