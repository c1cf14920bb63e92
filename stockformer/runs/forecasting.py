"""Forecasts of a day by finished runs: of the newest day, which has no target yet, or an earlier.

N stocks, H steps of the horizon. Nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stockformer.data.panel import Panel
from stockformer.evaluation.backtest import Market
from stockformer.evaluation.day_forecast import DayForecast
from stockformer.evaluation.predictions import Predictions
from stockformer.evaluation.trading import earned_steps
from stockformer.experiment import backtest_spec, read_panel, samples_at_once
from stockformer.runs.reopen import ReopenedRun, reopen
from stockformer.training.attribution import attribute
from stockformer.training.loader import EVALUATED_AT_ONCE

MAX_MISSING = 0.1
"""Share of the stocks a model was trained on that may be missing from the data."""


def forecast(
    runs: Sequence[Path], asof: str | None = None, overrides: Sequence[str] = (), explained: int = 5
) -> DayForecast:
    """The mean forecast of the runs, which may differ in anything but stocks and targets.

    asof: a date of the data, the newest by default; of a run's test days the forecast is that of
    its evaluation to the bit. explained: so many of the best and of the worst stocks.

    Raises ValueError for a date that is not in the data, or that a run was fitted on or selected
    by, and for data that are not those of the training: factors, or many stocks.
    """
    members = [_Member(reopen(path, overrides), asof) for path in runs]
    first = members[0]
    for path, member in zip(runs[1:], members[1:]):
        same = np.array_equal(member.tickers, first.tickers) and member.row == first.row
        if not same or not np.array_equal(member.day.target_end, first.day.target_end):
            raise ValueError(f"{path}: other stocks, dates or targets than {runs[0]}")
    data, row = first.experiment.data, first.row
    spec = backtest_spec(first.experiment.config, data)
    earned = earned_steps(data.targets.start, spec.settings.delay)
    prediction, probability, before = (
        np.mean([getattr(m, name) for m in members], axis=0)
        for name in ("prediction", "probability", "prediction_before")
    )
    masked = _masked(data.panel, spec.market, row, first.missing)
    known = np.array([ticker not in masked for ticker in first.tickers])
    signal = np.where(known, prediction[earned].mean(axis=0), np.nan)
    signal_before = before[earned].mean(axis=0)
    signal_before = np.where(spec.market.choosable[row - 1], signal_before, np.nan)
    columns = {
        "ticker": first.tickers,
        "rank": _ranks(signal),
        "signal": signal,
        "probability": probability[earned].mean(axis=0),
        "rank_before": _ranks(signal_before),
    }
    for step in range(len(prediction)):
        columns[f"prediction_{step + 1}"] = prediction[step]
        columns[f"probability_{step + 1}"] = probability[step]
    stocks = pd.DataFrame(columns)[known].astype({"rank": int}).sort_values("rank")
    ends = [*stocks.index[:explained], *stocks.index[explained:][-explained:]]
    return DayForecast(
        asof=data.panel.dates[row],
        before=data.panel.dates[row - 1],
        targets=tuple(zip(first.day.target_start[0], first.day.target_end[0])),
        stocks=stocks.reset_index(drop=True),
        masked=masked | dict.fromkeys(first.new, "new: the model was not trained on it"),
        influence=_influence(members, ends, earned),
        settings=spec.settings,
        market=spec.market,
        past=bool(data.targets.valid[row].any()),
        sources=tuple(runs),
        notes=data.notes,
    )


class _Member:
    """A run on its own preparation of the data."""

    def __init__(self, trained: ReopenedRun, asof: str | None) -> None:
        self.trained = trained
        panel = read_panel(trained.config)
        tickers = np.array(trained.facts["tickers"])
        self.missing = sorted(set(tickers) - set(panel.tickers))
        self.new = sorted(set(panel.tickers) - set(tickers))
        if len(self.missing) > MAX_MISSING * len(tickers):
            raise ValueError(
                f"{trained.run.path}: trained on {len(tickers)} stocks, of which the data lack "
                f"{len(self.missing)}: {', '.join(self.missing[:5])}, ...; name their folder with "
                "paths.data_dir="
            )
        if self.missing or self.new or not np.array_equal(panel.tickers, tickers):
            panel = panel.with_tickers(tickers)
        if self.missing and not trained.config.processors:  # nothing else fills unknown factors
            absent = np.isin(tickers, self.missing)
            panel.factors[:, absent] = 0.0
        self.tickers = tickers
        self.row = _row(panel, asof, trained)
        batch = EVALUATED_AT_ONCE * samples_at_once(trained.config)
        first = self.row - 1 - batch - trained.config.dataset.lookback
        rows = slice(max(0, first), min(len(panel.dates), self.row + batch))
        self.experiment = trained.experiment(panel, rows)
        self.day = self._predict(self.row)
        self.prediction, self.probability = self.day.prediction[0], self.day.probability[0]
        self.prediction_before = self._predict(self.row - 1).prediction[0]

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


def _row(panel: Panel, asof: str | None, trained: ReopenedRun) -> int:
    """The row of the date. Raises ValueError where there is none, or the run has used it."""
    dates, lookback = panel.dates, trained.config.dataset.lookback
    if asof is None:
        row = len(dates) - 1
    else:
        try:
            date = np.datetime64(asof, "D")
        except ValueError as error:
            raise ValueError(f"asof={asof}: not a date, such as {dates[-1]}") from error
        row = int(np.searchsorted(dates, date))
        if row == len(dates) or dates[row] != date:
            near = dates[max(0, min(row, len(dates)) - 1)]
            raise ValueError(
                f"asof={asof}: not a day of the data, which end on {dates[-1]}; the day before is "
                f"{near}"
            )
    parts = trained.manifest["split"]
    used = max(parts[name]["last_target_date"] for name in ("train", "validation"))
    if dates[row] < np.datetime64(used):
        raise ValueError(
            f"asof={dates[row]}: the model was fitted on days up to {used}, so it is no forecast; "
            "name a later day"
        )
    if row + 1 < lookback + 1:
        raise ValueError(f"asof={dates[row]}: the window of {lookback} days starts before the data")
    return row


def _masked(panel: Panel, market: Market, row: int, missing: Sequence[str]) -> dict[str, str]:
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


def _ranks(signal: np.ndarray) -> np.ndarray:
    """1 for the best; ties go to the earlier stock, as when it is traded; NaN without a signal."""
    order = np.argsort(-signal, kind="stable")
    ranks = np.empty(len(signal))
    ranks[order] = np.arange(1, len(signal) + 1)
    return np.where(np.isfinite(signal), ranks, np.nan)


def _influence(
    members: Sequence[_Member], stocks: Sequence[int], steps: np.ndarray
) -> dict[str, list[tuple[str, float]]]:
    """The mean over the runs, for stocks of the model by position, largest part first."""
    parts: dict[str, dict[str, float]] = {str(members[0].tickers[s]): {} for s in stocks}
    for member in members:
        data = member.experiment.data
        batch = data.windows.part(np.array([member.row]))[[0]].to(member.experiment.device)
        scale = data.targets.scale / len(members)
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
