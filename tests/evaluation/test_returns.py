"""A portfolio's story, on returns small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from reporting.run_folder import some_predictions, summary

from stockformer.evaluation import returns
from stockformer.evaluation.backtest import largest_imbalance

DAYS = pd.DatetimeIndex(["2023-12-28", "2023-12-29", "2024-01-02", "2024-01-03", "2024-03-01"])
NET = pd.Series([-0.5, 1.0, 0.2, -0.1, -0.1], index=DAYS)


def test_a_loss_on_the_first_day_is_a_drawdown() -> None:
    np.testing.assert_allclose(returns.wealth(NET), [0.5, 1, 1.2, 1.08, 0.972])
    np.testing.assert_allclose(returns.drawdown(NET), [-0.5, 0, 0, -0.1, -0.19])


def test_drawdowns_have_a_beginning_a_trough_and_perhaps_an_end() -> None:
    first, second = returns.drawdowns(NET).to_dict("records")
    assert (first["start"], first["trough"], first["end"]) == (DAYS[0], DAYS[0], DAYS[1])
    assert first["depth"] == -0.5
    assert (second["start"], second["trough"], second["days"]) == (DAYS[3], DAYS[4], 2)
    assert pd.isna(second["end"])
    assert returns.drawdowns(NET.abs()).empty


def test_months_and_years_compound() -> None:
    table = returns.by_month(NET)
    assert list(table.columns) == [*range(1, 13), "year"]
    np.testing.assert_allclose(table.loc[2023, [12, "year"]].astype(float), [0.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(
        table.loc[2024, [1, 2, 3, "year"]].astype(float), [0.08, np.nan, -0.1, -0.028]
    )


def test_a_rolling_sharpe_ratio_is_that_of_its_days() -> None:
    rolled = returns.rolling_sharpe(NET, 3)
    last = NET.iloc[-3:]
    assert rolled.iloc[-1] == pytest.approx(last.mean() / last.std(ddof=1) * 252**0.5)
    assert rolled.iloc[:2].isna().all()
    assert returns.rolling_sharpe(NET * 0, 3).isna().all()


def test_the_stocks_profits_are_the_accounts() -> None:
    judged = summary(some_predictions())
    assert judged.backtest is not None
    ledger = judged.backtest.ledger
    assert largest_imbalance(ledger) < 1e-9
    stocks = returns.profit_by_stock(ledger)
    grown = ledger.equity["account"].iloc[-1] / ledger.settings.capital - 1
    assert stocks["profit"].sum() == pytest.approx(grown, abs=1e-9)
    assert stocks["trades"].sum() == len(ledger.trades)
    assert stocks["days"].sum() == len(ledger.positions)
    share = returns.invested(ledger)
    assert ((share > 0.5) & (share < 1)).all()
