"""Downloads a universe's prices, one file a stock; what is there already is continued."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd

from stockformer.data.download.folder import (
    Changed,
    DownloadFolder,
    StockFacts,
    from_csv,
    to_csv,
)
from stockformer.data.download.provider import COLUMNS, Unavailable, Unreachable
from stockformer.data.download.rate_limit import Requests, Stopped
from stockformer.data.download.universe import Stock
from stockformer.data.download.validation import (
    check_market,
    checked_sessions,
    complete_days,
    require_readable,
)

OVERLAP = 10  # sessions of a file that are asked for again when newer ones are
SAME = 1e-5  # relative difference up to which two prices of a session are the same
MAX_LOST = 0.01  # share of a file's sessions that a corrected history may lack
ONE_DAY = timedelta(days=1)
LONGEST = 400  # characters of a reason: a provider's may be a whole page


@dataclass
class Outcome:
    """How many files are new, continued, replaced or unchanged; failures: why, by ticker."""

    new: int = 0
    continued: int = 0
    replaced: int = 0
    unchanged: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    untried: list[str] = field(default_factory=list)
    stopped: str = ""

    @property
    def missing(self) -> list[str]:
        """The tickers to ask for again."""
        return [*self.failures, *self.untried]


def now_utc() -> datetime:
    return datetime.now(UTC)


@dataclass
class Downloader:
    """Fills a folder with the prices from start to end (None: the newest complete session).

    clock: the time, with a time zone; replaced in tests.
    """

    folder: DownloadFolder
    requests: Requests
    start: date
    end: date | None
    clock: Callable[[], datetime] = now_utc

    def require_same_range(self) -> None:
        """Raises ValueError if files have more days than are asked for: none is ever removed."""
        for ticker, facts in self.folder.facts.stocks.items():
            if facts.start < self.start:
                raise ValueError(
                    f"start={self.start}: {self.folder.file(ticker)} was downloaded from "
                    f"{facts.start} on; give start={facts.start}, or another folder with "
                    "into=FOLDER"
                )
            if self.end is not None and facts.last > self.end:
                raise ValueError(
                    f"end={self.end}: {self.folder.file(ticker)} has sessions up to {facts.last}; "
                    "give no end or a later one, or another folder with into=FOLDER"
                )

    def run(self, stocks: Sequence[Stock], outcome: Outcome) -> Iterator[str]:
        """Download each stock; yields what is to be shown. Raises OSError if a file cannot be
        written; all files are whole then."""
        for number, stock in enumerate(stocks, start=1):
            place = f"[{number:>{len(str(len(stocks)))}}/{len(stocks)}]"
            try:
                for line in self._update(stock, outcome):
                    yield f"{place} {line}"
            except (Unavailable, Unreachable, Changed) as error:
                outcome.failures[stock.ticker] = _one_line(error)
                yield f"{place} {stock.ticker}: failed"
            except Stopped as error:
                outcome.stopped = _one_line(error)
                outcome.untried = [each.ticker for each in stocks[number - 1 :]]
                return

    def _update(self, stock: Stock, outcome: Outcome) -> Generator[str, None, None]:
        found = self.folder.read(stock.ticker)
        if found is None:
            sessions = yield from self._download(stock, None)
            outcome.new += 1
            yield f"{stock.ticker}: {_described(sessions)}"
            return
        facts, content = found
        if self._is_current(facts) and (facts.symbol, facts.start) == (stock.symbol, self.start):
            outcome.unchanged += 1
            return
        old = from_csv(content)
        if (facts.symbol, facts.start) == (stock.symbol, self.start):
            added = yield from self._continue(stock, facts, old, content)
            if added is not None:
                outcome.continued += bool(added)
                outcome.unchanged += not added
                yield f"{stock.ticker}: {_number(added)} added"
                return
            yield f"{stock.ticker}: its past prices were adjusted or corrected; downloading all"
        sessions = yield from self._download(stock, old if facts.symbol == stock.symbol else None)
        outcome.replaced += 1
        yield f"{stock.ticker}: {_described(sessions)}"

    def _is_current(self, facts: StockFacts) -> bool:
        """Whether there can be no newer session, so that nobody need be asked."""
        if self.end is not None and facts.through >= self.end:
            return True
        return self.clock() < facts.until

    def _download(
        self, stock: Stock, old: pd.DataFrame | None
    ) -> Generator[str, None, pd.DataFrame]:
        """The whole history, written. old: what the file has now, none of which may get lost."""
        sessions, facts = yield from self._fetch(stock, self.start)
        if old is not None:
            _require_no_loss(old, sessions)
        self.folder.write(stock.ticker, facts, to_csv(sessions, header=True))
        return sessions

    def _continue(
        self, stock: Stock, facts: StockFacts, old: pd.DataFrame, content: bytes
    ) -> Generator[str, None, int | None]:
        """The number of sessions added to the file; None if its past prices are others now."""
        overlap = old.iloc[-OVERLAP:]
        sessions, newest = yield from self._fetch(stock, overlap.index[0].date())
        again = sessions[sessions.index <= overlap.index[-1]]
        if not _same(overlap, again):
            return None
        added = sessions[sessions.index > overlap.index[-1]]
        newest = replace(
            newest,
            start=facts.start,
            first=facts.first,
            sessions=len(old) + len(added),
            sha256=facts.sha256,
        )
        if added.empty:
            self.folder.keep(stock.ticker, newest)
            return 0
        require_readable(pd.concat([old, added]))
        self.folder.write(stock.ticker, newest, content + to_csv(added, header=False))
        return len(added)

    def _fetch(
        self, stock: Stock, start: date
    ) -> Generator[str, None, tuple[pd.DataFrame, StockFacts]]:
        """The complete sessions from `start` on, checked, and the facts of a file of them."""
        asked_end = self.end or self.clock().date() + ONE_DAY  # it may be tomorrow in the market
        history = yield from self.requests.history(stock.symbol, start, asked_end)
        market = check_market(history, self.folder.facts.market)
        now = self.clock()
        complete = complete_days(history, now)
        through = min(asked_end, complete.through)
        until = complete.until if through == complete.through else now
        sessions = checked_sessions(history, start, through)
        if self.folder.facts.market is None:
            self.folder.facts = replace(self.folder.facts, market=market)
        facts = StockFacts(
            symbol=stock.symbol,
            start=start,
            through=through,
            until=until.astimezone(UTC),
            first=sessions.index[0].date(),
            last=sessions.index[-1].date(),
            sessions=len(sessions),
            sha256="",
        )
        return sessions, facts


def _same(old: pd.DataFrame, new: pd.DataFrame) -> bool:
    """Whether these are the same sessions with the same prices and volumes, up to rounding."""
    if not old.index.equals(new.index):
        return False
    columns = [*COLUMNS]
    return bool(np.allclose(old[columns], new[columns], rtol=SAME, atol=0))


def _require_no_loss(old: pd.DataFrame, new: pd.DataFrame) -> None:
    """Raises Unavailable if a new history lacks sessions that the file has."""
    lost = old.index.difference(new.index)
    if len(lost) > MAX_LOST * len(old) or (len(lost) and old.index[0] < new.index[0]):
        raise Unavailable(
            f"the provider's history now lacks {len(lost)} of the file's {len(old)} sessions, the "
            f"first {lost[0].date()}; the file is kept"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:LONGEST]


def _number(sessions: int) -> str:
    return "1 session" if sessions == 1 else f"{sessions} sessions"


def _described(sessions: pd.DataFrame) -> str:
    first, last = sessions.index[0].date(), sessions.index[-1].date()
    return f"{_number(len(sessions))} from {first} to {last}"
