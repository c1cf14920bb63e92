"""Forecasts of a day by finished runs: of the newest day, which has no target yet, or an earlier.

N stocks, H steps of the horizon. Nothing is fitted.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stockformer.data.panel import Panel
from stockformer.data.reading.unpacking import read_parquet
from stockformer.evaluation.averaging import equal_shares, mean_forecast, run_weights
from stockformer.evaluation.backtest import Market
from stockformer.evaluation.day_forecast import DayForecast
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.quantities import format_count
from stockformer.evaluation.trading import earned_steps
from stockformer.experiment import backtest_spec, read_panel, samples_at_once
from stockformer.runs.description import last_day_used
from stockformer.runs.ensemble import differences, forecast_settings, how_neutralised
from stockformer.runs.reopen import ReopenedRun, reopen
from stockformer.training.attribution import attribute
from stockformer.training.loader import EVALUATED_AT_ONCE

MAX_AGE_DAYS = 100
"""Calendar days since the last one a model was selected on, above which a note says so."""
MAX_MISSING = 0.1
"""Share of the stocks a model was trained on that may be missing from the data."""


def forecast(
    runs: Sequence[Path], asof: str | None = None, overrides: Sequence[str] = (), explained: int = 3
) -> DayForecast:
    """The mean forecast of the runs, which may differ in anything but stocks and targets.

    asof: a date of the data, the newest by default; of a run's test days the forecast is that of
    its evaluation to the bit. explained: number of stocks at each end whose forecast is attributed.

    Raises ValueError for a date that is not in the data, or that a run was fitted on or selected
    by, and for data that are not those of the training: factors, or many stocks.
    """
    if len({path.resolve() for path in runs}) < len(runs):
        raise ValueError("run=: one of the runs is named twice")
    members = [Member(reopen(path, overrides), asof) for path in runs]
    first = members[0]
    for path, member in zip(runs[1:], members[1:]):
        require_same_subject(path, member, runs[0], first)
    config, data, row = first.trained.config, first.experiment.data, first.row
    spec = backtest_spec(config, data)
    earned = earned_steps(data.targets.start, spec.settings.delay)
    configurations = [forecast_settings(member.trained.run) for member in members]
    shares = equal_shares(configurations)
    forecasts = np.stack([member.prediction for member in members])
    prediction = mean_forecast(forecasts, configurations)
    before = mean_forecast(
        np.stack([member.prediction_before for member in members]), configurations
    )
    probability = np.average([m.probability for m in members], axis=0, weights=shares)
    weights = run_weights(forecasts, configurations)[:, earned].mean(axis=(1, 2))
    masked = reasons_without_forecast(data.panel, spec.market, row, first.missing)
    known = np.array([ticker not in masked for ticker in first.tickers])
    if asof is None:
        require_complete(spec.market.dates, spec.market.choosable, row, "Name a day with asof=")
    signal = np.where(known, prediction[earned].mean(axis=0), np.nan)
    signal_before = np.where(spec.market.choosable[row - 1], before[earned].mean(axis=0), np.nan)
    columns = {
        "ticker": first.tickers,
        "rank": ranks(signal),
        "signal": signal,
        "probability": probability[earned].mean(axis=0),
        "rank_before": ranks(signal_before),
    }
    for step in range(len(prediction)):
        columns[f"prediction_{step + 1}"] = prediction[step]
        columns[f"probability_{step + 1}"] = probability[step]
    stocks = pd.DataFrame(columns)[known].astype({"rank": int}).sort_values("rank")
    ends = [*stocks.index[:explained], *stocks.index[max(explained, len(stocks) - explained) :]]
    neutralised = how_neutralised(configurations)
    notes = [*data.notes, *spec.notes, *differences(configurations), *neutralised]
    if len({member.last_day_used for member in members}) > 1:
        notes.append("the runs were fitted and selected on data that end on different days")
    if neutralised and explained:
        notes.append("what moved a forecast is that of the forecast before it was neutralised")
    age = (data.panel.dates[row] - min(member.last_day_used for member in members)).astype(int)
    if age > MAX_AGE_DAYS:
        notes.insert(
            0, f"the model was fitted and selected on data that end {age} days before this day"
        )
    if not (data.targets.start >= spec.settings.delay).any():
        notes.append(
            "the forecast return begins before the trade, which is "
            f"{format_count(spec.settings.delay, 'day')} after the signal: the ranking must last "
            "longer than its target"
        )
    return DayForecast(
        asof=data.panel.dates[row],
        quantity="excess return" if config.target.excess else "return",
        event="being above the median" if config.target.median_class else "up",
        before=data.panel.dates[row - 1],
        targets=tuple(zip(first.day.target_start[0][earned], first.day.target_end[0][earned])),
        stocks=stocks.reset_index(drop=True),
        masked=masked | dict.fromkeys(first.new, "new: the model was not trained on it"),
        influence=influence(members, weights, ends, earned),
        settings=spec.settings,
        market=spec.market,
        past=bool(row + data.targets.end[earned].max() < len(data.panel.dates)),
        has_prices="close" in data.panel.prices,
        sources=tuple(runs),
        notes=tuple(notes),
    )


def require_same_subject(path: Path, member: Member, first: Path, of_first: Member) -> None:
    """Raises ValueError for runs whose mean would be of different things."""
    groups = [
        name
        for name in ("target", "backtest")
        if member.trained.config[name] != of_first.trained.config[name]
    ]
    if groups:
        raise ValueError(f"{path}: another {groups[0]} than {first}: they have no common mean")
    same = np.array_equal(member.tickers, of_first.tickers) and member.row == of_first.row
    ours, theirs = (m.experiment.data.panel for m in (of_first, member))
    if not (same and np.array_equal(ours.returns, theirs.returns, equal_nan=True)):
        raise ValueError(f"{path}: other data than {first}")


def require_complete(dates: np.ndarray, priced: np.ndarray, row: int, remedy: str) -> None:
    """Raises ValueError where so few stocks have a price that the day is not over.

    priced (T, N) bool.
    """
    today, before = (int(priced[each].sum()) for each in (row, row - 1))
    if today < (1 - MAX_MISSING) * before:
        raise ValueError(
            f"on {dates[row]}, the newest day, {today} stocks have a price, on the day before "
            f"{before}: the data are not complete. {remedy}"
        )


def panel_of_run(trained: ReopenedRun) -> tuple[Panel, list[str], list[str]]:
    """The data with the run's stocks in its order, those that they lack, and those that are new.

    Raises ValueError where they lack too many.
    """
    panel = read_panel(trained.config)
    tickers = np.array(trained.facts["tickers"])
    missing = sorted(set(tickers) - set(panel.tickers))
    new = sorted(set(panel.tickers) - set(tickers))
    if len(missing) > MAX_MISSING * len(tickers):
        raise ValueError(
            f"{trained.run.path}: trained on {len(tickers)} stocks, of which the data lack "
            f"{len(missing)}: {', '.join(missing[:5])}, ...; name their folder with "
            "paths.data_dir="
        )
    if missing or new or not np.array_equal(panel.tickers, tickers):
        panel = panel.with_tickers(tickers)
    if missing and not trained.config.processors:  # nothing else fills unknown factors
        panel.factors[:, np.isin(tickers, missing)] = 0.0
    return panel, missing, new


class Member:
    """A run on its own preparation of the data."""

    def __init__(self, trained: ReopenedRun, asof: str | None) -> None:
        self.trained = trained
        panel, self.missing, self.new = panel_of_run(trained)
        self.tickers = panel.tickers
        self.last_day_used = np.datetime64(last_day_used(trained.manifest["split"]))
        self.row = row_of(panel, asof, trained.config.dataset.lookback, self.last_day_used)
        batch = EVALUATED_AT_ONCE * samples_at_once(trained.config)
        first = self.row - 1 - batch - trained.config.dataset.lookback
        rows = slice(max(0, first), min(len(panel.dates), self.row + batch))
        self.experiment = trained.experiment(panel, rows)
        self.day = self._predict(self.row)
        require_as_evaluated(trained, self.day)
        self.prediction, self.probability = self.day.prediction[0], self.day.probability[0]
        before = self._predict(self.row - 1).prediction[0]
        in_sample = panel.dates[self.row - 1] < self.last_day_used
        self.prediction_before = np.full_like(before, np.nan) if in_sample else before

    def _predict(self, row: int) -> Predictions:
        """The forecasts of a row, a test day's to the bit: in the same batch."""
        experiment = self.experiment
        rows = self._evaluated_with(row)
        batch = experiment.data.windows.part(rows)[list(range(len(rows)))]
        whole = experiment.evaluator.predict(experiment.model, batch)
        return whole.on(experiment.data.panel.dates[row])

    def _evaluated_with(self, row: int) -> np.ndarray:
        """The rows of the batch that an evaluation computes the row in; else only the row."""
        data, dates = self.experiment.data, self.experiment.data.panel.dates
        test = self.trained.manifest["split"]["test"]
        ends = (np.datetime64(test[f"{which}_signal_date"]) for which in ("first", "last"))
        first, last = np.searchsorted(dates, list(ends))
        of_split = data.split.test if data.split.test[0] == first else np.arange(first, last + 1)
        rows = of_split[of_split <= last]
        if row not in rows or len(rows) != test["samples"]:
            return np.array([row])
        at_once = EVALUATED_AT_ONCE * self.experiment.samples_at_once
        start = int(np.searchsorted(rows, row)) // at_once * at_once
        return rows[start : start + at_once]


def row_of(panel: Panel, asof: str | None, lookback: int, used: np.datetime64) -> int:
    """The row of the date. Raises ValueError where there is none, or it is before `used`, the last
    day that the run was fitted on or selected by."""
    dates = panel.dates
    if asof is None:
        row = len(dates) - 1
    else:
        try:
            date = np.datetime64(datetime.date.fromisoformat(asof))
        except ValueError as error:
            raise ValueError(f"asof={asof}: not a date, such as {dates[-1]}") from error
        row = int(np.searchsorted(dates, date))
        if row == len(dates) or dates[row] != date:
            near = dates[max(0, min(row, len(dates)) - 1)]
            raise ValueError(
                f"asof={asof}: not a day of the data, which end on {dates[-1]}; the day before is "
                f"{near}"
            )
    if dates[row] < used:
        raise ValueError(
            f"asof={dates[row]}: the model was fitted and selected on days before {used}, so it is "
            f"no forecast; the first possible is {used}"
        )
    gaps = [gap for gap in panel.session_gaps if row - lookback + 1 < gap <= row]
    if row < lookback or gaps:
        start = dates[gaps[0] - 1] if gaps else dates[0]
        raise ValueError(
            f"asof={dates[row]}: its window of {lookback} days crosses the start of the data or a "
            f"gap between sessions, after {start}"
        )
    return row


def require_as_evaluated(trained: ReopenedRun, day: Predictions) -> None:
    """Raises ValueError where a test day's forecast is not the one that the run was judged by."""
    run = trained.run
    recorded = read_parquet(run.read(run.predictions_file), str(run.predictions_file))
    recorded = recorded[recorded["signal_date"] == day.signal_dates[0]]
    ours = day.frame()
    both = recorded.merge(ours, on=["ticker", "step"], suffixes=("", "_now"))
    if not np.allclose(both["prediction"], both["prediction_now"], rtol=1e-4, atol=1e-9):
        raise ValueError(
            f"{run.path}: its evaluation has another forecast of {day.signal_dates[0]}: the data "
            "of that day or before it have changed"
        )


def reasons_without_forecast(
    panel: Panel, market: Market, row: int, missing: Sequence[str]
) -> dict[str, str]:
    """By ticker why a stock of the model cannot be forecast that day."""
    reasons = {}
    known = np.isfinite(market.close)
    for stock in np.flatnonzero(~market.choosable[row]):
        ticker = str(panel.tickers[stock])
        traded = np.flatnonzero(known[: row + 1, stock])
        if ticker in missing:
            reasons[ticker] = "not in the data: delisted or renamed?"
        elif known[row, stock]:
            reasons[ticker] = "no member of the universe"
        elif len(traded):
            reasons[ticker] = (
                f"not traded: suspended or delisted? last on {panel.dates[traded[-1]]}"
            )
        else:
            reasons[ticker] = "no price so far"
    return reasons


def ranks(signal: np.ndarray) -> np.ndarray:
    """1 for the best; ties go to the earlier stock, as when it is traded; NaN without a signal."""
    order = np.argsort(-signal, kind="stable")
    ranks = np.empty(len(signal))
    ranks[order] = np.arange(1, len(signal) + 1)
    return np.where(np.isfinite(signal), ranks, np.nan)


def influence(
    members: Sequence[Member], weights: np.ndarray, stocks: Sequence[int], steps: np.ndarray
) -> dict[str, list[tuple[str, float]]]:
    """What moved the mean forecast, for stocks of the model by position, largest part first.

    weights (runs,): what multiplies each run's forecast in the mean, here held constant; where the
    target has several steps, its mean over them.
    """
    parts: dict[str, dict[str, float]] = {str(members[0].tickers[s]): {} for s in stocks}
    for member, weight in zip(members, weights):
        data = member.experiment.data
        batch = data.windows.part(np.array([member.row]))[[0]].to(member.experiment.device)
        scale = data.targets.scale * weight
        found = attribute(member.experiment.model, batch, stocks, steps)
        factors = data.panel.factor_names
        for place, ticker in enumerate(parts):
            values = zip(
                (*factors, "past returns", "other stocks"),
                (*found.factors[place], found.past_returns[place], found.other_stocks[place]),
            )
            for name, value in values:
                parts[ticker][name] = parts[ticker].get(name, 0.0) + float(value) * scale
    return {
        ticker: sorted(each.items(), key=lambda item: -abs(item[1]))
        for ticker, each in parts.items()
    }
