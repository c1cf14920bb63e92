"""`predict.py`: the forecast of a day, its page and the trades it asks for."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from stockformer.commands.plain_command import Words
from stockformer.config.quoting import as_path, pasteable, split_paths
from stockformer.evaluation.day_forecast import DayForecast, read_holdings, trades
from stockformer.reporting import forecast_page, terminal
from stockformer.reporting.page import Page
from stockformer.runs.console import program
from stockformer.runs.folder import RunDir
from stockformer.runs.forecasting import forecast
from stockformer.runs.logs import start_log
from stockformer.runs.recorded_run import is_run, newest_run
from stockformer.sweeps.trials import read_trials

log = logging.getLogger(__name__)

NARROW = 5
"""Columns of a table on the terminal; the page has all."""


def predict(words: Words, overrides: list[str]) -> Iterator[RenderableType]:
    """Yields what to print. Raises ValueError if there is no such forecast."""
    start_log(only_warnings=True)
    named = split_paths(words["run"]) if "run" in words else [newest_run(Path())]
    if len(named) > 1 and "into" not in words:
        raise ValueError("several runs: name the folder of their forecast with into=FOLDER")
    held = read_holdings(as_path(words["holdings"])) if "holdings" in words else None
    cash = amount(words["cash"]) if "cash" in words else None
    day = forecast(members(named), words.get("asof"), overrides)
    folder = as_path(words["into"]) if "into" in words else named[0] / "forecasts" / str(day.asof)
    orders = None
    if held is not None or cash is not None:
        orders = trades(day, held or {}, cash or 0.0)
    runs = pasteable("run", *(path.resolve() for path in day.sources))
    others = [f"{key}={words[key]}" for key in ("holdings", "cash") if key in words]
    others += [f"asof={day.asof}", f"into={folder}", *overrides]
    command = f"{program('predict')} {runs} {shlex.join(others)}"
    page = forecast_page.page(day, orders, held or {}, command)
    path = forecast_page.write(folder, day, orders, page)
    yield from shown(day, page)
    yield Text(f"forecast: {path}")


def members(named: Sequence[Path]) -> list[Path]:
    """The trained runs of what is named: runs, ensembles, or the best of each sweep's."""
    return [run for path in named for run in _trained(path)]


def _trained(path: Path) -> list[Path]:
    """Of one folder; one that does not exist is left to the reader's error."""
    if not path.is_dir():
        return [path]
    if is_run(path):
        runs = RunDir(path).read_manifest().get("ensemble_of")
        return [path] if runs is None else _latest_fold([Path(run) for run in runs])
    trials = read_trials(path)
    if len(trials.groups) > 1:
        raise ValueError(
            f"{path}: its runs are of different data or targets, so none is the best; name one"
        )
    best = trials.best(trials.groups[0]) if trials.groups else None
    if best is None:
        raise ValueError(f"{path}: no completed run to choose; name one with run=FOLDER")
    runs = _latest_fold([path / name for name in best.runs])
    log.warning(
        "best of the sweep by validation %s: %s", trials.objective, ", ".join(map(str, runs))
    )
    return runs


def shown(day: DayForecast, page: Page) -> Iterator[RenderableType]:
    """The page's headline, ranking and trades for the terminal."""
    yield Text(page.headline, style="bold")
    yield Text(page.subtitle)
    for line in page.sections[-1].remarks:  # what the model has shown
        yield Text(f"- {line}")
    for section in page.sections[:-2]:
        yield Text()
        if not section.tables:
            yield Text(section.lead)
        for table in section.tables:
            rows = [row[:NARROW] for row in table.rows]
            yield terminal.laid_out(replace(table, header=table.header[:NARROW], rows=rows))
    if day.masked:
        yield Text(f"without a forecast: {', '.join(sorted(day.masked))}")


def amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"cash={text}: must be a number of at least 0")
    return value


def _latest_fold(runs: Sequence[Path]) -> list[Path]:
    """Of the folds of a walk-forward split, the one trained on the latest days."""
    last = {
        run: RunDir(run).read_manifest("split")["split"]["test"]["last_signal_date"] for run in runs
    }
    return [run for run in runs if last[run] == max(last.values())]
