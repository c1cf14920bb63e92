"""Asks a provider, no faster than it wants: pauses, waits when it limits the rate, tries again."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import date

from stockformer.data.download.provider import (
    History,
    Provider,
    RateLimited,
    Unavailable,
    Unreachable,
)
from stockformer.runs.console import human_time

PAUSE, MAX_PAUSE = 0.5, 8.0  # seconds between two requests; doubled at each rate limit
FIRST_WAIT, MAX_WAIT = 30.0, 960.0  # seconds of waiting after a rate limit
LIMITED_ATTEMPTS = 6  # of one request: 30 s, 1, 2, 4 and 8 min between them
RETRY, UNREACHABLE_ATTEMPTS = 2.0, 4  # of one request: 2, 4 and 8 s between them
UNREACHABLE_STOCKS = 3  # in a row, after which the provider counts as gone

Lines = Generator[str, None, History]


class Stopped(Exception):
    """It makes no sense to ask for more now; the message says why."""


@dataclass
class Requests:
    """A provider, asked politely. sleep: replaced in tests."""

    provider: Provider
    sleep: Callable[[float], None] = time.sleep
    _pause: float = field(default=0.0, init=False)
    _unreachable: int = field(default=0, init=False)

    def history(self, symbol: str, start: date, end: date) -> Lines:
        """The provider's answer; yields a line for each wait.

        Raises Unavailable or Unreachable for this stock, Stopped if others should not be asked
        for either.
        """
        limited = failed = 0
        while True:
            self.sleep(self._pause)
            self._pause = max(self._pause, PAUSE)
            try:
                answer = self.provider.history(symbol, start, end)
            except Unavailable:
                self._unreachable = 0
                raise
            except RateLimited as error:
                limited += 1
                self._unreachable = 0
                yield from self._wait(symbol, limited, error)
            except Unreachable as error:
                failed += 1
                if failed == UNREACHABLE_ATTEMPTS:
                    self._count_unreachable(error)
                    raise
                self.sleep(RETRY * 2 ** (failed - 1))
            else:
                self._unreachable = 0
                return answer

    def _wait(self, symbol: str, limited: int, error: RateLimited) -> Generator[str, None, None]:
        seconds = FIRST_WAIT * 2 ** (limited - 1) if error.seconds is None else error.seconds
        if seconds > MAX_WAIT:
            raise Stopped(f"{self.provider.name} asks to wait {human_time(seconds)}") from error
        if limited == LIMITED_ATTEMPTS:
            raise Stopped(f"{self.provider.name} limits the rate of requests") from error
        self._pause = min(2 * self._pause, MAX_PAUSE)
        yield (
            f"{symbol}: {self.provider.name} limits the rate of requests; next attempt in "
            f"{human_time(seconds)} ({limited + 1} of {LIMITED_ATTEMPTS})"
        )
        self.sleep(seconds)

    def _count_unreachable(self, error: Unreachable) -> None:
        self._unreachable += 1
        if self._unreachable == UNREACHABLE_STOCKS:
            raise Stopped(
                f"{self.provider.name} does not answer ({UNREACHABLE_STOCKS} stocks in a row: "
                f"{error}); is there a network?"
            ) from error
