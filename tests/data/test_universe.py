"""Names of stocks, and signal days whose window crosses no long gap."""

from __future__ import annotations

import numpy as np
import pytest

from stockformer.data.findings import Findings
from stockformer.data.universe import check_tickers, unbroken


@pytest.mark.parametrize("ticker", ["M&M", "360ONE", "BRK.B", "^GSPC", "BAJAJ-AUTO", "NA", "1E5"])
def test_real_names_are_tickers(ticker: str) -> None:
    findings = Findings()
    check_tickers([ticker], "", findings)
    assert findings.result() == ()


@pytest.mark.parametrize(
    "ticker",
    ["", " ", "../x", "a/b", "a\\b", "..", "=cmd", "+1", "@x", "-x", "a\nb", "a..b", "x" * 65],
)
def test_paths_formulas_and_blanks_are_not(ticker: str) -> None:
    findings = Findings()
    check_tickers([ticker], "", findings)
    assert findings.any_error()


def test_no_window_and_no_target_reaches_over_a_break() -> None:
    signals = np.arange(30)
    kept = unbroken(signals, np.array([10, 20]), lookback=4, span=2)
    for signal in signals:
        rows = range(signal - 3, signal + 3)
        crossed = any(row - 1 in rows and row in rows for row in (10, 20))
        assert (signal in kept) == (not crossed)
    np.testing.assert_array_equal(unbroken(signals, np.array([], int), lookback=4, span=2), signals)
