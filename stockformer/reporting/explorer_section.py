"""The report's explorer: any date or stock, with forecasts, outcomes, ranks and trades.

Its data travel in the page as arrays of bytes (base64), dates by stocks; explorer.js shows them.
"""

from __future__ import annotations

import base64
import json

import numpy as np

from stockformer.evaluation import forecasts, returns
from stockformer.evaluation.backtest import BASIS_POINT, Backtest
from stockformer.evaluation.metrics import mean
from stockformer.evaluation.predictions import Predictions, daily
from stockformer.evaluation.quantities import format_count
from stockformer.reporting import figures, tables
from stockformer.reporting.page import Section
from stockformer.reporting.signal_section import nothing_to_score
from stockformer.runs.recorded_run import RecordedRun

TITLE, ANCHOR = "Explorer", "explorer"
CELLS = 36_000
"""Most cells, dates times stocks, that the page holds: about 0.4 MB."""
UNKNOWN = -32_768
LEVELS = 32_000
UNKNOWN_PROBABILITY = 255


def section(run: RecordedRun) -> Section:
    """The last dates that fit into the page."""
    predictions = run.predictions
    if predictions is None or not predictions.valid.any():
        return Section(TITLE, nothing_to_score(run), anchor=ANCHOR)
    dates, steps, stocks = predictions.prediction.shape
    shown = min(dates, max(1, CELLS // stocks))
    cut = "" if shown == dates else f" Only the last {shown} of {dates} dates are in this page."
    averaged = "" if steps == 1 else f", means of {steps} steps"
    lead = (
        f"Choose a date or one of {format_count(stocks, 'stock')}. Forecast and outcome in basis "
        f"points{averaged}; rank 1 is the highest. The backtest's column is what it did on the day "
        f"that it traded this signal.{cut}"
    )
    return Section(
        TITLE,
        lead,
        explorer=data(predictions, run.ledger, shown),
        anchor=ANCHOR,
        folded=best_and_worst(predictions),
    )


def best_and_worst(predictions: Predictions) -> Section:
    """The dates and stocks that contribute most and least to the rank IC."""
    frame = predictions.frame()
    stocks = forecasts.rank_ic_by_stock(frame[frame["valid"]])
    return Section(
        "Best and worst dates and stocks",
        "A stock's share of the rank IC: the shares of all stocks add up to the mean. Do not "
        "exclude stocks or dates because of these tables: that would be selection on test dates.",
        [
            *tables.days_by(daily(predictions), "rank_ic", "Dates by rank IC"),
            *tables.stocks_by_rank_ic(stocks),
        ],
    )


def data(predictions: Predictions, ledger: Backtest | None, shown: int) -> str:
    """The last `shown` dates as JSON. Numbers are rounded to 1 / 32,000 of the largest."""
    forecast = predictions.prediction.mean(axis=1) / BASIS_POINT
    valid = predictions.valid.any(axis=1)
    steps = np.moveaxis(predictions.valid, 1, -1)
    outcome = mean(np.moveaxis(predictions.label, 1, -1), steps) / BASIS_POINT
    probability = predictions.probability.mean(axis=1)
    done = np.zeros(valid.shape, np.uint8)
    trade_dates = [""] * valid.shape[0]
    if ledger is not None:  # its dates are those of the first signals, in order
        done[: len(ledger.equity)] = returns.actions(ledger, predictions.tickers)
        trade_dates[: len(ledger.equity)] = [f"{date:%Y-%m-%d}" for date in ledger.equity.index]
    last = slice(-shown, None)
    forecast_unit, forecasts = _levels(forecast[last])
    outcome_unit, outcomes = _levels(outcome[last])
    known = np.isfinite(probability[last])
    percent = np.where(known, np.rint(np.nan_to_num(probability[last]) * 200), UNKNOWN_PROBABILITY)
    rank_ic = daily(predictions)["rank_ic"].to_numpy()[last]
    return json.dumps(
        {
            "dates": [str(date) for date in predictions.signal_dates[last]],
            "trades": trade_dates[last],
            "tickers": predictions.tickers.tolist(),
            "rankIc": [round(x, 4) if np.isfinite(x) else None for x in rank_ic.tolist()],
            "forecastColour": figures.TEST,
            "outcomeColour": figures.REFERENCE,
            "forecastUnit": forecast_unit,
            "outcomeUnit": outcome_unit,
            "forecast": forecasts,
            "outcome": outcomes,
            "rank": _packed(_places(np.where(valid, forecast, np.nan)[last]), "<i2"),
            "probability": _packed(percent, "u1"),
            "action": _packed(done[last], "u1"),
        },
        separators=(",", ":"),
    )


def _levels(values: np.ndarray) -> tuple[float, str]:
    """The unit, and the values in it as 16-bit integers."""
    known = np.isfinite(values)
    unit = float(np.abs(values[known]).max(initial=0.0)) / LEVELS or 1.0
    return unit, _packed(np.where(known, np.rint(np.nan_to_num(values) / unit), UNKNOWN), "<i2")


def _places(values: np.ndarray) -> np.ndarray:
    """Rank by date, 1 the highest, ties share the better one; 0 where unknown."""
    highest_first = np.sort(-values, axis=1)  # NaN last
    places = [np.searchsorted(row, -value) + 1 for row, value in zip(highest_first, values)]
    return np.where(np.isfinite(values), np.array(places).reshape(values.shape), 0)


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()
