"""Which names may be names of stocks."""

from __future__ import annotations

import pytest

from stockformer.data.reading.findings import Findings
from stockformer.data.reading.universe import check_tickers


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
