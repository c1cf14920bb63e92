"""Checks of columns against each other. T dates, N stocks.

Each column may be valid by itself and the data still be wrong: an adjusted close that never
changes, a vwap in another unit, a return that is not the close's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stockformer.data.reading.findings import ERROR, WARNING, Finding, Findings
from stockformer.data.reading.quality import close_to_close

ANOTHER_UNIT = 2.0  # times the close, in the median, beyond which a price is in another unit
OUTSIDE_RANGE = 0.01  # share of a price by which a vwap may lie outside low and high
MAX_ODD_SHARE = 0.05  # share of a stock's days up to which an anomaly may be an accident
MAX_UNCHANGED = 0.5  # share of the days with another close on which an adjusted close is the same
MIN_DAYS_TO_COMPARE, DIFFERENT_CLOSES = 20, 10  # of two stocks with the same closes
SAME_RATIO, MAX_RATIO_CHANGES = 0.001, 0.2  # of adjusted / close: a change, share of the days
ROUNDED = 0.0051  # half a cent: the largest effect of rounding
IN_PERCENT = 0.2  # a larger median daily move is in percent, not a fraction
SAME_RETURN = 0.002  # largest difference between a return and the close's


class Checker:
    """Checks of the stocks of one source; each finding names the stock.

    setting: the key that names the columns, for advice.
    """

    def __init__(
        self,
        dates: np.ndarray,
        tickers: np.ndarray,
        findings: Findings,
        file: str,
        setting: str = "dataset.source.columns",
    ) -> None:
        self.dates, self.tickers, self.findings, self.file = dates, tickers, findings, file
        self.setting = setting

    def stocks(
        self, level: str, check: str, hit: np.ndarray, message: str, where: np.ndarray | None = None
    ) -> None:
        """One finding for each stock that is hit (N,), with its first day and number of days."""
        hits = np.flatnonzero(hit).tolist()

        def finding(i: int) -> Finding:
            ticker = str(self.tickers[i])
            if where is None:
                return Finding(message, self.file, ticker=ticker)
            number, first = int(where[:, i].sum()), str(self.dates[where[:, i].argmax()])
            text = f"{message} ({number} days), first"
            return Finding(text, self.file, date=first, ticker=ticker, count=number)

        self.findings.each(level, check, hits, finding)

    def prices(self, prices: Mapping[str, np.ndarray]) -> None:
        """Check prices (T, N) as read, before adjustment."""
        close = prices["close"]
        known = np.isfinite(close)
        if not self.findings.any_error():  # unreadable cells are missing too, and already reported
            for name in ("open", "high", "low", "volume"):
                if name in prices:
                    self._missing(name, known & ~np.isfinite(prices[name]), known)
        with np.errstate(divide="ignore", invalid="ignore"):
            if "adjusted" in prices:
                self._adjusted(prices["adjusted"], close, known)
            if "vwap" in prices:
                self._unit("vwap", prices["vwap"], prices)
            elif "amount" in prices:
                self._unit("amount / volume", prices["amount"] / prices["volume"], prices)
        self._alike(close, known)

    def _missing(self, name: str, missing: np.ndarray, known: np.ndarray) -> None:
        if missing.any() and missing.sum() == known.sum():
            found = Finding(f"column {name} has no value for any stock", self.file, column=name)
            self.findings.error("no value", found)
            return
        often = missing.sum(axis=0) > MAX_ODD_SHARE * np.maximum(known.sum(axis=0), 1)
        self.stocks(
            WARNING,
            "value missing",
            often,
            f"no {name} on days that have a close; its factors are filled there",
            missing,
        )

    def _adjusted(self, adjusted: np.ndarray, close: np.ndarray, known: np.ndarray) -> None:
        missing = known & ~np.isfinite(adjusted)
        empty = missing.any(axis=0) & (missing.sum(axis=0) == known.sum(axis=0))
        message = "no adjusted close"
        advice = f'{self.setting}.adjusted="" reads the unadjusted close'
        self.stocks(ERROR, "no value", empty, f"{message}; {advice}")
        some = missing.any(axis=0) & ~empty
        self.stocks(
            WARNING, "value missing", some, f"{message}, counted as not traded", where=missing
        )
        both: np.ndarray = (
            known[1:] & known[:-1] & np.isfinite(adjusted[1:]) & np.isfinite(adjusted[:-1])
        )
        # A small adjusted close may be rounded to the same cent.
        expected = np.abs(adjusted[:-1] * (close[1:] / close[:-1] - 1))
        moved = both & (expected > ROUNDED)
        still = moved & (adjusted[1:] == adjusted[:-1])
        frozen: np.ndarray = still.sum(axis=0) > MAX_UNCHANGED * np.maximum(moved.sum(axis=0), 1)
        where = _from_second_day(still)
        message = "the adjusted close does not change while the close does"
        self.stocks(ERROR, "adjusted close", frozen, f"{message}; {advice}", where)
        # A split or a dividend changes the ratio on a few days, another day's price on most.
        ratio = np.log(adjusted / close)
        rounding = ROUNDED / adjusted + ROUNDED / close
        apart = np.abs(np.diff(ratio, axis=0)) > SAME_RATIO + rounding[1:] + rounding[:-1]
        unsteady = (both & apart).sum(axis=0) > MAX_RATIO_CHANGES * np.maximum(both.sum(axis=0), 1)
        where = _from_second_day(both & apart)
        message = "adjusted / close changes again and again: the prices of another day or stock?"
        self.stocks(ERROR, "adjusted close", np.asarray(unsteady & ~frozen), message, where)

    def _unit(self, name: str, price: np.ndarray, prices: Mapping[str, np.ndarray]) -> None:
        close, column = prices["close"], name.split(" ", maxsplit=1)[0]
        ratio = price / close
        usable = np.isfinite(ratio) & (ratio > 0)
        for i in np.flatnonzero(usable.any(axis=0)).tolist():
            median = float(np.median(ratio[usable[:, i], i]))
            if not 1 / ANOTHER_UNIT <= median <= ANOTHER_UNIT:
                message = f"{name} is {median:.4g} times the close (median): another unit?"
                advice = f'{self.setting}.{column}="" leaves it out'
                found = Finding(
                    f"{message} {advice}", self.file, column=column, ticker=str(self.tickers[i])
                )
                self.findings.error("another unit", found)
        low, high = prices["low"] * (1 - OUTSIDE_RANGE), prices["high"] * (1 + OUTSIDE_RANGE)
        outside = usable & ((price < low) | (price > high))
        often = outside.sum(axis=0) > MAX_ODD_SHARE * np.maximum(usable.sum(axis=0), 1)
        self.stocks(WARNING, "vwap", often, f"{name} is outside low and high", outside)

    def _alike(self, close: np.ndarray, known: np.ndarray) -> None:
        """Two stocks with the same closes on all common days; one may be a truncated copy."""
        first: dict[bytes, int] = {}
        for i in np.flatnonzero(known.sum(axis=0) >= MIN_DAYS_TO_COMPARE).tolist():
            rows = np.flatnonzero(known[:, i])
            if len(np.unique(close[rows, i])) < DIFFERENT_CLOSES:
                continue  # pegged to a currency
            for some in (rows[:MIN_DAYS_TO_COMPARE], rows[-MIN_DAYS_TO_COMPARE:]):
                other = first.setdefault(some.tobytes() + close[some, i].tobytes(), i)
                both = known[:, i] & known[:, other]
                if other != i and np.array_equal(close[both, i], close[both, other]):
                    message = f"exactly the closes of {self.tickers[other]}: is one file a copy?"
                    found = Finding(message, self.file, ticker=str(self.tickers[i]))
                    self.findings.error("same prices", found)
                    break

    def returns(self, returns: np.ndarray, close: np.ndarray | None, gap: np.ndarray) -> None:
        """Check returns (T, N) that were read; close (T, N) where there is one.

        gap: rows (K,) without a return of the close.
        """
        impossible = returns < -1
        message = "a return below -100 %: in percent, or another column?"
        self.stocks(ERROR, "return", np.asarray(impossible.any(axis=0)), message, impossible)
        moves = np.abs(returns[np.isfinite(returns) & (returns != 0)])
        if len(moves) and float(np.median(moves)) > IN_PERCENT:
            message = (
                f"the median return is {np.median(moves):.2f} a day: in percent? fractions are "
                "expected, 0.01 for 1 %"
            )
            self.findings.error("another unit", Finding(message, self.file))
        if close is None:
            return
        expected = close_to_close(close, gap)
        both = np.isfinite(expected) & np.isfinite(returns)
        tolerance = np.full(close.shape, np.inf)
        tolerance[1:] = SAME_RETURN + ROUNDED / close[:-1] + ROUNDED / close[1:]
        apart = both & (np.abs(expected - returns) > tolerance)
        share = apart.sum() / max(1, both.sum())
        if share > MAX_ODD_SHARE:
            row, column = np.argwhere(apart)[0]
            message = (
                f"{share:.0%} of the returns are not those of the close, e.g. "
                f"{returns[row, column]:+.4f} instead of {expected[row, column]:+.4f}"
                f"{_shift(returns, expected)}; "
                f'{self.setting}.return="" computes them from the close'
            )
            found = Finding(
                message,
                self.file,
                date=str(self.dates[row]),
                ticker=str(self.tickers[column]),
            )
            self.findings.error("return", found)
        else:
            often = np.asarray(apart.any(axis=0))
            self.stocks(WARNING, "return", often, "a return that is not the close's", apart)


def _from_second_day(hit: np.ndarray) -> np.ndarray:
    """A comparison of each day with the day before, (T-1, N), as (T, N)."""
    return np.vstack([np.zeros((1, hit.shape[1]), bool), hit])


def _shift(returns: np.ndarray, expected: np.ndarray) -> str:
    """A hint, if the returns are the close's of another day."""
    for days, which in ((1, "the next"), (-1, "the last")):
        moved = np.roll(expected, -days, axis=0)
        both = np.isfinite(moved) & np.isfinite(returns)
        if both.any() and (np.abs(moved - returns) <= SAME_RETURN)[both].mean() > 1 - MAX_ODD_SHARE:
            return f" (they are those of {which} session)"
    return ""
