"""The factors of qlib's Alpha158 and Alpha360, computed on a whole panel at once.

Formulas: qlib 0.9.7, ``qlib/contrib/data/loader.py`` (``Alpha158DL``, ``Alpha360DL``), operators in
``qlib/data/ops.py``. T dates, N stocks, F factors; every array is (T, N) unless stated. Factors
are pure numbers: prices relative to today's close or open, volumes to today's volume.

Causal: row t uses rows up to t. A window of d days is the last d rows of the panel; unknown values
are skipped, and a stock listed less than d days ago has a shorter window, as in qlib.

Differences from qlib, which on complete prices are no more than rounding:
- prices are float64, where qlib rounds them, and differences and ratios of them, to float32;
- a day without a trade has no factors, and windows skip it also where qlib counts it (CNTP, CNTN,
  CNTD: as a day that did not move; IMAX, IMIN, IMXD: as the extreme itself);
- infinite values are unknown, in prices and in factors.

To add a factor, write one function of (stocks, days) and enter it in ``EXTRA``; in the tables that
list the factors, ``s`` is the block of stocks, a ``Stocks``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

REQUIRED = ("open", "high", "low", "close", "volume")
WINDOWS = (5, 10, 20, 30, 60)
LAGS = tuple(range(59, -1, -1))
TINY = 1e-12  # added by qlib where a denominator may be zero
FLAT = 2e-5  # qlib gives no correlation if a standard deviation, unscaled, is at most this
BLOCK_CELLS = 32_768  # dates x stocks computed at a time, so that intermediates stay in the cache


def earlier(values: np.ndarray, lag: int) -> np.ndarray:
    """The values `lag` rows before rows lag, lag + 1, ...: a view (T - lag, N)."""
    return values[: max(len(values) - lag, 0)]


def shifted(values: np.ndarray, lag: int) -> np.ndarray:
    """The values of lag rows ago, NaN in the first lag rows."""
    result = np.full_like(values, np.nan)
    result[lag:] = earlier(values, lag)
    return result


class Sums:
    """Sums over the last d rows of each of terms(lag), the terms of the row `lag` rows back.

    Windows must be requested in ascending order and grow row by row, so all cost as much as the
    longest. Every row is summed anew: a running total would keep the rounding errors of values
    that have left the window.
    """

    def __init__(self, terms: Callable[[int], Sequence[np.ndarray]]) -> None:
        self.terms = terms
        self.totals = [term.copy() for term in terms(0)]
        self.days = 1

    def over(self, days: int) -> list[np.ndarray]:
        """The sums, which the next call changes in place."""
        assert days >= self.days, "windows must be requested in ascending order"
        for lag in range(self.days, days):
            for total, term in zip(self.totals, self.terms(lag), strict=True):
                total[lag:] += term
        self.days = days
        return self.totals


class Extremes:
    """Highest value of the last d rows, and how many rows ago it was first reached."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.highest = np.where(np.isnan(values), -np.inf, values)
        self.lags = np.zeros(values.shape, np.int16)
        self.days = 1

    def over(self, days: int) -> tuple[np.ndarray, np.ndarray]:
        """Highest value, -inf if none is known, and lag; the next call changes both in place."""
        assert days >= self.days, "windows must be requested in ascending order"
        for lag in range(self.days, days):
            values, highest, lags = earlier(self.values, lag), self.highest[lag:], self.lags[lag:]
            np.maximum(lags, (values >= highest) * np.int16(lag), out=lags)
            np.fmax(highest, values, out=highest)
        self.days = days
        return self.highest, self.lags


class Moments(NamedTuple):
    """Moments of the known pairs (x, y) of a window; deviations are from the latest such pair."""

    latest: np.ndarray  # x of the latest pair
    known: np.ndarray  # number of pairs
    x_mean: np.ndarray  # mean deviations
    y_mean: np.ndarray
    x_squares: np.ndarray  # sums of products of deviations from the mean
    y_squares: np.ndarray
    products: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return self.latest + self.x_mean

    @property
    def std(self) -> np.ndarray:
        """Sample standard deviation of x, NaN for a single value."""
        return np.sqrt(self.x_squares / (self.known - 1))

    @property
    def slope(self) -> np.ndarray:
        """Slope of the least-squares line of x on y."""
        return self.products / self.y_squares

    @property
    def residual(self) -> np.ndarray:
        """How far x of the latest pair lies above that line."""
        return self.slope * self.y_mean - self.x_mean

    @property
    def correlation(self) -> np.ndarray:
        least = FLAT**2 * (self.known - 1)
        varies = (self.x_squares > least) & (self.y_squares > least)
        result = self.products / np.sqrt(self.x_squares * self.y_squares)
        return np.where(varies, result, np.nan)


class Pairs:
    """Moments of two series over the last d rows, by sums of deviations from the latest known pair.

    That pair is in every window that has any, and no value is further from the mean of its own
    sample than sqrt(n - 1) standard deviations (Samuelson's inequality). So high prices lose no
    digits, as they would in sums of squared prices.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        known = np.isfinite(x) & np.isfinite(y)
        latest = np.maximum.accumulate(np.where(known, np.arange(len(x))[:, None], 0), axis=0)
        x, y, weight = np.where(known, x, 0.0), np.where(known, y, 0.0), known.astype(np.float64)
        x_latest = np.take_along_axis(x, latest, axis=0)
        y_latest = np.take_along_axis(y, latest, axis=0)

        # No reference to self: a cycle would keep every block's arrays until garbage collection.
        def terms(lag: int) -> tuple[np.ndarray, ...]:
            present = earlier(weight, lag)
            x_deviation = (earlier(x, lag) - x_latest[lag:]) * present
            y_deviation = (earlier(y, lag) - y_latest[lag:]) * present
            squares = x_deviation * x_deviation, y_deviation * y_deviation
            return present, x_deviation, y_deviation, *squares, x_deviation * y_deviation

        self.x_latest, self.sums = x_latest, Sums(terms)

    def over(self, days: int) -> Moments:
        known, x, y, xx, yy, xy = self.sums.over(days)
        x_mean, y_mean = x / known, y / known
        products = xx - x * x_mean, yy - y * y_mean, xy - x * y_mean
        return Moments(self.x_latest, known, x_mean, y_mean, *products)


class Stocks:
    """The prices of a block of stocks, and intermediates of several factors, computed lazily.

    open, high, low, close, volume, vwap (T, N) float64, NaN where unknown. listed (N,): the row of
    the first trade, negative if it was before the first row.
    """

    def __init__(self, prices: Mapping[str, np.ndarray], listed: np.ndarray) -> None:
        self.listed = listed
        self.open, self.high, self.low = prices["open"], prices["high"], prices["low"]
        self.close, self.volume = prices["close"], prices["volume"]
        typical = (self.high + self.low + self.close) / 3
        self.vwap = prices.get("vwap", typical)
        self.traded = np.isfinite(self.close)
        self.rows = np.broadcast_to(np.arange(len(self.close))[:, None], self.close.shape)
        self._sorted_days, self._sorted = 0, self.close

    @cached_property
    def trend(self) -> Pairs:
        return Pairs(self.close, self.rows)

    @cached_property
    def price_and_volume(self) -> Pairs:
        return Pairs(self.close, np.log(self.volume + 1))

    @cached_property
    def relative_changes(self) -> Pairs:
        volume_change = np.log(self.volume / shifted(self.volume, 1) + 1)
        return Pairs(self.close / shifted(self.close, 1), volume_change)

    @cached_property
    def volume_level(self) -> Pairs:
        return Pairs(self.volume, self.rows)

    @cached_property
    def weighted_moves(self) -> Pairs:
        return Pairs(np.abs(self.close / shifted(self.close, 1) - 1) * self.volume, self.rows)

    @cached_property
    def highs(self) -> Extremes:
        return Extremes(self.high)

    @cached_property
    def negative_lows(self) -> Extremes:
        return Extremes(-self.low)

    @cached_property
    def day_counts(self) -> Sums:
        """Days up, down and traded."""
        change = self.close - shifted(self.close, 1)
        return _plain_sums(change > 0, change < 0, self.traded, self.traded)

    @cached_property
    def price_swings(self) -> Sums:
        return _gains_and_losses(self.close)

    @cached_property
    def volume_swings(self) -> Sums:
        return _gains_and_losses(self.volume)

    @cached_property
    def _closes_below(self) -> Sums:
        close = self.close

        def terms(lag: int) -> list[np.ndarray]:
            before, now = earlier(close, lag), close[lag:]
            return [x.astype(np.int16) for x in (before < now, before <= now, np.isfinite(before))]

        return Sums(terms)

    def highest(self, days: int) -> np.ndarray:
        return self.highs.over(days)[0]

    def lowest(self, days: int) -> np.ndarray:
        return -self.negative_lows.over(days)[0]

    def position(self, extremes: Extremes, days: int) -> np.ndarray:
        """Position in the window at which the extreme was first reached, as a share of days: 1 /
        days at the window's first row or, if later, at the listing."""
        highest, lags = extremes.over(days)
        age = self.rows - self.listed + 1
        return np.where(np.isfinite(highest), (np.minimum(age, days) - lags) / days, np.nan)

    def rank(self, days: int) -> np.ndarray:
        """Percentile rank of today's close among those of the window, ties averaged."""
        below, not_above, traded = self._closes_below.over(days)
        return (below + not_above + 1) / (2 * traded)

    def quantile(self, days: int, share: float) -> np.ndarray:
        """Quantile of the closes, linear between two order statistics."""
        if self._sorted_days != days:
            before = np.full((self.close.shape[1], days - 1), np.nan)
            by_stock = np.concatenate([before, self.close.T], axis=1)
            windows = np.lib.stride_tricks.sliding_window_view(by_stock, days, axis=1)
            self._sorted_days, self._sorted = days, np.sort(windows, axis=-1)
        last = days - 1 - np.isnan(self._sorted).sum(axis=-1, keepdims=True)
        below = (share * last).astype(np.intp)
        low = np.take_along_axis(self._sorted, below, axis=-1)
        high = np.take_along_axis(self._sorted, np.minimum(below + 1, last), axis=-1)
        return (low + (high - low) * (share * last - below))[..., 0].T


def _plain_sums(*series: np.ndarray) -> Sums:
    numbers = [x.astype(np.int16) if x.dtype == bool else x for x in series]
    return Sums(lambda lag: [earlier(x, lag) for x in numbers])


def _gains_and_losses(values: np.ndarray) -> Sums:
    change = values - shifted(values, 1)
    known = np.isfinite(change)
    change = np.where(known, change, 0.0)
    return _plain_sums(np.maximum(change, 0.0), np.maximum(-change, 0.0), np.abs(change), known)


def shares(sums: Sums, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of up and of down in the total; NaN if the window has no known change."""
    up, down, total, known = sums.over(days)
    total = np.where(known > 0, total + TINY, np.nan)
    return up / total, down / total


Factor = Callable[[Stocks, int], np.ndarray]

SINGLE_DAY: dict[str, Factor] = {
    "KMID": lambda s, _: (s.close - s.open) / s.open,
    "KLEN": lambda s, _: (s.high - s.low) / s.open,
    "KMID2": lambda s, _: (s.close - s.open) / (s.high - s.low + TINY),
    "KUP": lambda s, _: (s.high - np.maximum(s.open, s.close)) / s.open,
    "KUP2": lambda s, _: (s.high - np.maximum(s.open, s.close)) / (s.high - s.low + TINY),
    "KLOW": lambda s, _: (np.minimum(s.open, s.close) - s.low) / s.open,
    "KLOW2": lambda s, _: (np.minimum(s.open, s.close) - s.low) / (s.high - s.low + TINY),
    "KSFT": lambda s, _: (2 * s.close - s.high - s.low) / s.open,
    "KSFT2": lambda s, _: (2 * s.close - s.high - s.low) / (s.high - s.low + TINY),
}
LAGGED: dict[str, Factor] = {
    "CLOSE": lambda s, lag: shifted(s.close, lag) / s.close,
    "OPEN": lambda s, lag: shifted(s.open, lag) / s.close,
    "HIGH": lambda s, lag: shifted(s.high, lag) / s.close,
    "LOW": lambda s, lag: shifted(s.low, lag) / s.close,
    "VWAP": lambda s, lag: shifted(s.vwap, lag) / s.close,
    "VOLUME": lambda s, lag: shifted(s.volume, lag) / (s.volume + TINY),
}
ROLLING: dict[str, Factor] = {
    "ROC": lambda s, days: shifted(s.close, days) / s.close,
    "MA": lambda s, days: s.trend.over(days).mean / s.close,
    "STD": lambda s, days: s.trend.over(days).std / s.close,
    "BETA": lambda s, days: s.trend.over(days).slope / s.close,
    "RSQR": lambda s, days: s.trend.over(days).correlation ** 2,
    "RESI": lambda s, days: s.trend.over(days).residual / s.close,
    "MAX": lambda s, days: s.highest(days) / s.close,
    "MIN": lambda s, days: s.lowest(days) / s.close,
    "QTLU": lambda s, days: s.quantile(days, 0.8) / s.close,
    "QTLD": lambda s, days: s.quantile(days, 0.2) / s.close,
    "RANK": lambda s, days: s.rank(days),
    "RSV": lambda s, days: (s.close - s.lowest(days)) / (s.highest(days) - s.lowest(days) + TINY),
    "IMAX": lambda s, days: s.position(s.highs, days),
    "IMIN": lambda s, days: s.position(s.negative_lows, days),
    "IMXD": lambda s, days: s.position(s.highs, days) - s.position(s.negative_lows, days),
    "CORR": lambda s, days: s.price_and_volume.over(days).correlation,
    "CORD": lambda s, days: s.relative_changes.over(days).correlation,
    "CNTP": lambda s, days: shares(s.day_counts, days)[0],
    "CNTN": lambda s, days: shares(s.day_counts, days)[1],
    "CNTD": lambda s, days: np.subtract(*shares(s.day_counts, days)),
    "SUMP": lambda s, days: shares(s.price_swings, days)[0],
    "SUMN": lambda s, days: shares(s.price_swings, days)[1],
    "SUMD": lambda s, days: np.subtract(*shares(s.price_swings, days)),
    "VMA": lambda s, days: s.volume_level.over(days).mean / (s.volume + TINY),
    "VSTD": lambda s, days: s.volume_level.over(days).std / (s.volume + TINY),
    "WVMA": lambda s, days: (
        s.weighted_moves.over(days).std / (s.weighted_moves.over(days).mean + TINY)
    ),
    "VSUMP": lambda s, days: shares(s.volume_swings, days)[0],
    "VSUMN": lambda s, days: shares(s.volume_swings, days)[1],
    "VSUMD": lambda s, days: np.subtract(*shares(s.volume_swings, days)),
}
EXTRA: dict[str, Factor] = {}  # your own: NAME here is offered as NAME5, NAME10, ... NAME60

ALPHA158: tuple[str, ...] = (
    *SINGLE_DAY,
    *("OPEN0", "HIGH0", "LOW0", "VWAP0"),
    *(f"{name}{days}" for name in ROLLING for days in WINDOWS),
)
ALPHA360: tuple[str, ...] = tuple(f"{name}{lag}" for name in LAGGED for lag in LAGS)


SETS = {"alpha158": ALPHA158, "alpha360": ALPHA360}


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with `alpha158` and `alpha360` standing for all of theirs."""
    return tuple(name for given in names for name in SETS.get(given, (given,)))


def known() -> dict[str, tuple[Factor, int]]:
    """Function and number of days of every factor by name."""
    found = {name: (factor, 0) for name, factor in SINGLE_DAY.items()}
    for family, spans in ((LAGGED, LAGS), (ROLLING, WINDOWS), (EXTRA, WINDOWS)):
        found |= {f"{n}{span}": (factor, span) for n, factor in family.items() for span in spans}
    return found


def resolve(names: Sequence[str]) -> list[tuple[Factor, int]]:
    """Function and number of days of each name; ValueError for an unknown name."""
    factors = known()
    for name in names:
        if name not in factors:
            raise ValueError(f"factors: {name!r} is none of Alpha158, Alpha360 and EXTRA")
    return [factors[name] for name in names]


def compute(
    prices: Mapping[str, np.ndarray],
    names: Sequence[str] | None = None,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Factors of every stock on every date, from data known on that date.

    prices: open, high, low, close, volume and, optionally, vwap, (T, N) each, in one currency and
        one unit of volume, NaN where not traded; without vwap, (high + low + close) / 3.
    names: the factors to compute, in this order, or sets of them (`expand`); ALPHA158 if None.
    out: (T, N, F) float32 to write into, such as a memory map, if the result should not be in RAM.

    Returns the factors (T, N, F) float32, NaN where unknown or not traded, and their names (F,).
    Raises ValueError for an unknown name, a missing price or arrays whose shapes disagree.
    """
    names = ALPHA158 if names is None else expand(names)
    result = _checked_out(prices, names, out)
    everything = slice(0, len(result))
    _fill(result, prices, np.arange(result.shape[1]), everything, resolve(names))
    return result, names


def extend(
    prices: Mapping[str, np.ndarray],
    names: Sequence[str],
    out: np.ndarray,
    known: np.ndarray,
    columns: np.ndarray,
) -> bool:
    """Write what `compute` does into `out`, the same bits, without computing the first rows again.

    known: (K, M, F) float32, the factors of the first K rows of M stocks. columns: (N,) the
    position in it of each stock of `prices` whose first K rows of prices are those it was computed
    from, -1 for the others, which are computed whole.

    The last known row is computed again. False, and nothing is of use in `out`, if it differs (it
    was computed by other versions of libraries), or if factors of `EXTRA`, which may look further
    back than their days, are among `names`.
    """
    _checked_out(prices, names, out)
    if any(name.rstrip("0123456789") in EXTRA for name in names):
        return False
    factors = resolve(names)
    stocks, others = np.flatnonzero(columns >= 0), np.flatnonzero(columns < 0)
    last = len(known) - 1
    _fill(out, prices, stocks, slice(last, len(out)), factors)
    if not np.array_equal(out[last, stocks], known[last, columns[stocks]], equal_nan=True):
        return False
    rows = max(1, BLOCK_CELLS // max(1, len(stocks)))
    for first in range(0, last, rows):
        block = slice(first, min(first + rows, last))
        out[block, stocks] = known[block, columns[stocks]]
    _fill(out, prices, others, slice(0, len(out)), factors)
    return True


def _checked_out(
    prices: Mapping[str, np.ndarray], names: Sequence[str], out: np.ndarray | None
) -> np.ndarray:
    """`out`, or a new array for the factors. Raises ValueError for arrays that do not fit."""
    if missing := [name for name in REQUIRED if name not in prices]:
        raise ValueError(f"factors: prices lack {missing}")
    shape = prices["close"].shape
    for name, array in prices.items():
        if array.shape != shape:
            raise ValueError(f"factors: {name} has shape {array.shape}, close has {shape}")
    result = np.empty((*shape, len(names)), np.float32) if out is None else out
    if result.shape != (*shape, len(names)) or result.dtype != np.float32:
        expected = f"{(*shape, len(names))} float32"
        raise ValueError(f"factors: out is {result.shape} {result.dtype}, expected {expected}")
    return result


def _fill(
    out: np.ndarray,
    prices: Mapping[str, np.ndarray],
    stocks: np.ndarray,
    rows: slice,
    factors: Sequence[tuple[Factor, int]],
) -> None:
    """Write the factors of some stocks, by position, on the last rows, from `rows.start`."""
    # A window needs the day before its first, for the change over it.
    start = max(0, rows.start - max(days for _, days in factors))
    traded = np.isfinite(prices["close"])
    listed = traded.argmax(axis=0) - start
    width = max(1, BLOCK_CELLS // max(1, rows.stop - start))
    for first in range(0, len(stocks), width):
        block = stocks[first : first + width]
        own = {
            name: np.array(array[start : rows.stop, block], float, order="C")
            for name, array in prices.items()
        }
        made = _block_factors(own, listed[block], factors)
        out[rows, block] = made[rows.start - start :]


def _block_factors(
    prices: dict[str, np.ndarray], listed: np.ndarray, factors: Sequence[tuple[Factor, int]]
) -> np.ndarray:
    """The factors (T, N, F) of a few stocks, of which `listed` is the row of the first trade."""
    for array in prices.values():
        array[np.isinf(array)] = np.nan
    block = Stocks(prices, listed)
    result = np.empty((*block.close.shape, len(factors)), np.float32)
    # A window extends the next shorter one, so all factors of a window are computed together.
    by_days = sorted(range(len(factors)), key=lambda i: factors[i][1])
    # Overflows and divisions by zero become NaN below.
    with np.errstate(all="ignore"):
        for i in by_days:
            factor, days = factors[i]
            result[..., i] = factor(block, days)
    result[~(np.isfinite(result) & block.traded[..., None])] = np.nan
    return result
