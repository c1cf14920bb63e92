"""The panel of daily prices: what all sources of prices do after reading. T dates, N stocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stockformer.data.panel import Panel
from stockformer.data.reading.findings import Findings
from stockformer.data.reading.quality import (
    Rules,
    check_coverage,
    check_single_precision,
    close_to_close,
    session_gaps,
)


def price_panel(
    *,
    dates: np.ndarray,
    tickers: np.ndarray,
    prices: Mapping[str, np.ndarray],
    sectors: np.ndarray | None,
    member: np.ndarray | None,
    rules: Rules,
    findings: Findings,
    path: str,
    sources: Mapping[str, str],
    notes: Sequence[str],
) -> Panel:
    """The panel, without factors, of prices (T, N) that were checked as read.

    Returns are from close to close of consecutive sessions, NaN where either day was not traded or
    a break lies between. path: of the source, for findings. Raises ValueError with every error in
    `findings`.
    """
    prices = adjusted(prices)
    check_coverage(np.isfinite(prices["close"]), tickers, rules, findings, path, member)
    after_gap = session_gaps(dates, rules.max_gap_days)
    returns = close_to_close(prices["close"], after_gap)
    check_single_precision(returns, "the return", dates, tickers, findings, path)
    findings.refuse(rules.strict)
    return Panel(
        dates=dates,
        tickers=tickers,
        returns=returns,
        factors=np.empty((len(dates), len(tickers), 0), np.float32),
        factor_names=(),
        prices=prices,
        sources=sources,
        sectors=sectors,
        member=member,
        session_gaps=tuple(after_gap.tolist()),
        notes=tuple(notes),
        findings=findings.result(),
    )


def adjusted(prices: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Open, high, low, close, volume and vwap (T, N), adjusted for splits and dividends.

    If there is an adjusted close, prices are scaled by adjusted / close and volume by its inverse,
    as in qlib. vwap is amount / volume if there is an amount and no vwap.
    """
    prices = dict(prices)
    amount = prices.pop("amount", None)
    if amount is not None and "vwap" not in prices:
        prices["vwap"] = amount / prices["volume"]
    close = prices.pop("adjusted", None)
    if close is None:
        return prices
    ratio = close / prices["close"]
    return {
        name: values / ratio if name == "volume" else values * ratio
        for name, values in prices.items()
    }
