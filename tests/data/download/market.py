"""A provider of made-up prices that stands for the network, and a clock that tests turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from stockformer.data.download import command
from stockformer.data.download.provider import History, Provider, Unavailable
from stockformer.data.download.rate_limit import Requests

ZONE = "Asia/Kolkata"
FIRST = "2023-01-02"
CLOSE = time(15, 30)
ROWS = ("AAA,AAA.NS,Power", "M&M,M&M.NS,Automobile", "ZZZ,ZZZ.NS,Power")
Edit = Callable[[History], History]


@dataclass
class Market:
    """Each symbol has a price on every business day from FIRST to the clock's day.

    now: the time in the market. faults: exceptions, by symbol or "" for any, that the next requests
    raise. edits: what changes the answers of a symbol. dividends: days by symbol.
    """

    now: datetime
    name: str = "stand-in"
    faults: dict[str, list[Exception]] = field(default_factory=dict)
    edits: dict[str, Edit] = field(default_factory=dict)
    dividends: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, date, date]] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def history(self, symbol: str, start: date, end: date) -> History:
        self.asked.append((symbol, start, end))
        for key in (symbol, ""):
            if self.faults.get(key):
                raise self.faults[key].pop(0)
        history = self.complete(symbol)
        days = history.prices.index.tz_localize(None)
        inside = (days >= pd.Timestamp(start)) & (days <= pd.Timestamp(end))
        history = replace(history, prices=history.prices[inside])
        return self.edits[symbol](history) if symbol in self.edits else history

    def complete(self, symbol: str) -> History:
        if symbol.startswith("NONE"):
            raise Unavailable(f"no prices of {symbol}")
        days = pd.bdate_range(FIRST, self.now.date(), tz=ZONE)
        random = np.random.default_rng(sum(symbol.encode()))
        moves = random.normal(0, 0.02, (4000, 3))[: len(days)]
        close = 100 * np.exp(moves[:, 0].cumsum())
        first = close * np.exp(moves[:, 1] / 2)
        factor = np.ones(len(days))
        for day in self.dividends.get(symbol, []):
            factor[days < pd.Timestamp(day, tz=ZONE)] *= 0.98
        prices = pd.DataFrame(
            {
                "Open": first,
                "High": np.maximum(first, close) * 1.01,
                "Low": np.minimum(first, close) * 0.99,
                "Close": close,
                "Adj Close": close * factor,
                "Volume": (1e5 * np.exp(moves[:, 2])).astype(np.int64),
            },
            index=days.rename("Date"),
        )
        ends = datetime.combine(self.now.date(), CLOSE, ZoneInfo(ZONE))
        return History(prices, "INR", ZONE, ends)

    def at(self, day: str, hour: int = 20) -> None:
        self.now = moment(day, hour)

    def requests(self, provider: Provider) -> Requests:
        return Requests(provider, sleep=self.slept.append)


def moment(day: str, hour: int = 20) -> datetime:
    return datetime.combine(date.fromisoformat(day), time(hour), ZoneInfo(ZONE))


def download(market: Market, *words: str) -> tuple[list[str], str]:
    """The lines that a download shows, and its error; "" for none."""
    named = dict(word.split("=", 1) for word in words)
    shown: list[str] = []
    lines = command.download(
        named, lambda: market, lambda: market.now.astimezone(UTC), market.requests
    )
    try:
        shown.extend(lines)
    except ValueError as error:
        return shown, str(error)
    return shown, ""


def write_universe(path: Path, *rows: str, header: str = "ticker,symbol,sector") -> Path:
    path.write_text("".join(f"{line}\n" for line in (header, *rows)))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by relative name."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
