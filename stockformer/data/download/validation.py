"""What of a provider's answer may be written: complete sessions that the reader accepts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from stockformer.data.download.provider import COLUMNS, PRICES, History, Unavailable
from stockformer.data.download.universe import Market
from stockformer.data.reading.consistency import Checker
from stockformer.data.reading.findings import ERROR, Findings
from stockformer.data.reading.quality import Rules, check_prices
from stockformer.data.reading.records import Records

SETTLING = timedelta(hours=2)  # after a session's end, until its prices and volume are final
# The defaults of dataset.source.quality: files that are read with these must be readable.
RULES = Rules(
    strict=False,
    jump=0.5,
    max_gap_days=30,
    max_weekend_share=0.01,
    min_coverage=0.9,
    stale_days=10,
)
SHOWN = 3  # errors of a stock in its message


@dataclass(frozen=True)
class Complete:
    """through: the newest day whose session, if any, is over. until: when that may change."""

    through: date
    until: datetime


def complete_days(history: History, now: datetime) -> Complete:
    """Which days are over in the stock's market, at `now` (with a time zone).

    Today counts once the session's end is `SETTLING` ago; if the provider does not say when the
    session ends, not before midnight.
    """
    zone = ZoneInfo(history.timezone)
    today = now.astimezone(zone).date()
    tomorrow = datetime.combine(today + timedelta(days=1), time(), zone)
    if history.session_end is None:
        return Complete(today - timedelta(days=1), tomorrow)
    settled = history.session_end + SETTLING
    if now < settled:
        return Complete(today - timedelta(days=1), settled)
    is_today = history.session_end.astimezone(zone).date() == today
    return Complete(today if is_today else today - timedelta(days=1), tomorrow)


def checked_sessions(history: History, start: date, end: date) -> pd.DataFrame:
    """The sessions from start to end, indexed by day (datetime64, no time zone).

    Raises Unavailable if there are none, or if any is not what the reader accepts.
    """
    frame = history.prices
    lacking = [name for name in COLUMNS if name not in frame.columns]
    if lacking:
        raise Unavailable(f"no column {lacking[0]} in the answer")
    if frame.empty:
        raise Unavailable(f"no prices from {start} to {end}: delisted, or another symbol?")
    frame = frame[[*COLUMNS]].set_axis(_days(frame.index, history.timezone))
    # A provider may add the newest price after the end of what it was asked for.
    frame = frame[(frame.index >= pd.Timestamp(start)) & (frame.index <= pd.Timestamp(end))]
    if frame.empty:
        raise Unavailable(f"no complete session from {start} to {end}")
    frame = _numbers(frame)
    require_readable(frame)
    return frame


def check_market(history: History, market: Market | None) -> Market:
    """The market of the answer. Raises Unavailable if it is unknown, or not the expected one."""
    found = Market(history.currency, history.timezone)
    try:
        ZoneInfo(found.timezone)
    except (OSError, ValueError, KeyError) as error:
        raise Unavailable(f"{found.timezone!r} is not a time zone") from error
    if market is not None and found != market:
        raise Unavailable(
            f"its prices are in {found.currency}, time zone {found.timezone}; those of this folder "
            f"are in {market.currency}, {market.timezone}: another listing, or a market that needs "
            "a folder of its own"
        )
    return found


def require_readable(frame: pd.DataFrame) -> None:
    """Raises Unavailable with what the reader of daily prices would refuse in these sessions."""
    findings, rows = Findings(), len(frame)
    names = {name: name.lower() for name in COLUMNS} | {"Adj Close": "adjusted"}
    dates = frame.index.to_numpy().astype("datetime64[D]")
    values = {names[name]: frame[name].to_numpy(float).copy() for name in COLUMNS}
    records = Records(
        files=("",),
        file=np.zeros(rows, int),
        row=np.zeros(rows, int),
        date=dates,
        tickers=np.array([""]),
        ticker=np.zeros(rows, int),
        values=values,
    )
    check_prices(records, RULES, findings)
    table = {name: column[:, np.newaxis] for name, column in values.items()}
    Checker(dates, records.tickers, findings, "").prices(table)
    errors = findings.lines(ERROR)
    if errors:
        more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        raise Unavailable("; ".join(errors[:SHOWN]) + more)
    if not np.isfinite(values["close"]).any():  # the checks mask what was not traded
        raise Unavailable("no day on which it was traded: no volume, or an unchanged price")


def _days(index: pd.Index, timezone: str) -> pd.DatetimeIndex:
    """The days of midnights in `timezone`. Raises Unavailable for any other index."""
    if not isinstance(index, pd.DatetimeIndex) or index.tz is None:
        raise Unavailable("its dates have no time zone")
    local = index.tz_convert(timezone).tz_localize(None)
    if local.hasnans or (local != local.normalize()).any():
        raise Unavailable(f"its dates are not the midnights of {timezone}")
    if local.has_duplicates:
        raise Unavailable(f"two rows for {local[local.duplicated()][0].date()}")
    if not local.is_monotonic_increasing:
        raise Unavailable("its dates are not in order")
    return local


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Prices as float64 and volume as int64. Raises Unavailable where a number is missing."""
    for name in COLUMNS:
        values = frame[name]
        wrong = ~np.isfinite(values) if pd.api.types.is_numeric_dtype(values) else values.notna()
        if wrong.any():
            day = frame.index[np.asarray(wrong)][0].date()
            raise Unavailable(f"no number for {name} on {day}")
    whole = frame["Volume"].round()
    if whole.abs().max() >= 2**63:
        raise Unavailable("a volume beyond 64 bits")
    return frame.astype(dict.fromkeys(PRICES, "float64")).assign(Volume=whole.astype("int64"))
