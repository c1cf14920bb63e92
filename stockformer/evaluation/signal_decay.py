"""How long a signal lasts: its rank IC with the returns of the days that follow it.

S signal dates, N stocks. Returns are close to close, fractions.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from stockformer.evaluation.backtest import Market
from stockformer.evaluation.metrics import correlation, ranks
from stockformer.evaluation.statistics import overlapping_interval

DAYS = 20
"""Days after the signal that are looked at, about a month."""

COLUMNS = tuple(
    f"{prefix}{name}"
    for prefix in ("", "cumulated_")
    for name in ("rank_ic", "lower", "upper", "n_dates")
)


def decay(
    signal: np.ndarray, signal_dates: np.ndarray, market: Market, days: int = DAYS
) -> pd.DataFrame:
    """Rank IC of a signal (S, N) with later returns, a row a day after the signal, `day` 1 to days.

    rank_ic: with the return of that single day; cumulated_rank_ic: with the return from the
    signal's close to that day's. Both are means over n_dates signal dates, with 95 % intervals
    (`statistics.overlapping_interval`). A stock that was not traded, or no member, on the signal
    date is left out, as is one without a close on either day. Days after the market's last date are
    missing from n_dates; a day without any has no row.
    """
    rows = np.searchsorted(market.dates, signal_dates)
    known = np.where(market.choosable[rows], signal, np.nan)
    ranked, table = ranks(known), {}
    for day in range(1, days + 1):
        reached = rows + day < len(market.dates)
        if not reached.any():
            break
        first, last = rows[reached], rows[reached] + day
        close = market.close[last]
        single = _rank_ic(ranked[reached], close / market.close[last - 1] - 1)
        cumulated = _rank_ic(ranked[reached], close / market.close[first] - 1)
        if not np.isfinite(single).any():
            continue
        table[day] = (*_row(single, 1), *_row(cumulated, day))
    return pd.DataFrame.from_dict(table, orient="index", columns=list(COLUMNS)).rename_axis("day")


def _rank_ic(signal: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """(S,) rank correlation by date over the cells known in both; signal (S, N): its ranks.

    The signal is ranked anew only on dates on which a stock has no outcome: ranking is what takes
    time.
    """
    both = np.isfinite(signal) & np.isfinite(outcome)
    fewer = (both != np.isfinite(signal)).any(axis=1)
    if fewer.any():
        signal = signal.copy()
        signal[fewer] = ranks(np.where(both, signal, np.nan)[fewer])
    return correlation(signal, ranks(np.where(both, outcome, np.nan)), both)


def _row(series: np.ndarray, overlap: int) -> tuple[float, float, float, float]:
    known = series[np.isfinite(series)]
    mean = float(known.mean()) if len(known) else np.nan
    return mean, *overlapping_interval(known, overlap), float(len(known))
