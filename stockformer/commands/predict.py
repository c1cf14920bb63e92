"""`predict.py`: the forecast of a day, its page and the trades it asks for."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from stockformer.commands.plain_command import Words
from stockformer.config.quoting import as_path, split_paths
from stockformer.evaluation.day_forecast import DayForecast, read_holdings, trades
from stockformer.reporting import forecast_page, terminal
from stockformer.runs import atomic
from stockformer.runs.folder import RunDir
from stockformer.runs.forecasting import forecast
from stockformer.runs.logs import start_log
from stockformer.runs.recorded_run import is_run, newest_run, read_run
from stockformer.sweeps.trials import read_trials

log = logging.getLogger(__name__)

CSV, PARQUET, TRADES, PAGE = "forecast.csv", "forecast.parquet", "trades.csv", "forecast.html"


def predict(words: Words, overrides: list[str]) -> Iterator[RenderableType]:
    """Yields what to print. Raises ValueError if there is no such forecast."""
    start_log(only_warnings=True)
    named = split_paths(words["run"]) if "run" in words else [newest_run(Path())]
    if len(named) > 1 and "into" not in words:
        raise ValueError("several runs: name the folder of their forecast with into=FOLDER")
    held = read_holdings(as_path(words["holdings"])) if "holdings" in words else None
    cash = amount(words["cash"]) if "cash" in words else None
    day = forecast(members(named), words.get("asof"), overrides)
    orders = None
    if held is not None or cash is not None:
        orders = trades(day, held or {}, cash or 0.0)
    folder = as_path(words["into"]) if "into" in words else named[0] / "forecasts" / str(day.asof)
    path = write(folder, day, orders)
    yield from shown(day, orders)
    yield Text(f"forecast: {path}")


def members(named: Sequence[Path]) -> list[Path]:
    """The trained runs of what is named: runs, an ensemble, or the best of a sweep's."""
    if len(named) > 1 or (is_run(named[0]) and "ensemble_of" not in _manifest(named[0])):
        return list(named)
    if is_run(named[0]):
        return [Path(path) for path in _manifest(named[0])["ensemble_of"]]
    trials = read_trials(named[0])
    best = trials.best(trials.groups[0]) if trials.groups else None
    if best is None:
        raise ValueError(f"{named[0]}: no completed run to choose; name one with run=FOLDER")
    runs = [named[0] / name for name in best.runs]
    last = {run: _last_test_date(run) for run in runs}
    newest = [run for run in runs if last[run] == max(last.values())]
    log.warning(
        "best of the sweep by validation %s: %s", trials.objective, ", ".join(map(str, newest))
    )
    return newest


def write(folder: Path, day: DayForecast, orders: pd.DataFrame | None) -> Path:
    """Write the tables and the page; returns the page's path.

    Raises ValueError if the folder has another forecast: what was said of a day is not replaced.
    """
    csv = table(day).to_csv(index=False, date_format="%Y-%m-%d").encode()
    before = folder / CSV
    if before.exists() and before.read_bytes() != csv:
        raise ValueError(
            f"{before}: differs from this forecast: the data of that day, the model or the code "
            "have changed since; nothing was changed. Name another folder with into=FOLDER"
        )
    folder.mkdir(parents=True, exist_ok=True)
    parquet = io.BytesIO()
    table(day).to_parquet(parquet, index=False)
    atomic.write(before, csv)
    atomic.write(folder / PARQUET, parquet.getvalue())
    if orders is not None:
        atomic.write(folder / TRADES, orders.to_csv(index=False).encode())
    return forecast_page.page(day, orders).write(folder / PAGE)


def table(day: DayForecast) -> pd.DataFrame:
    """A row a stock, those without a forecast last, with the reason."""
    without = pd.DataFrame({"ticker": sorted(day.masked)})
    without["masked"] = [day.masked[ticker] for ticker in without["ticker"]]
    rows = pd.concat([day.stocks.assign(masked=""), without], ignore_index=True)
    dates = {"asof": day.asof, "target_start": day.targets[0][0], "target_end": day.targets[-1][1]}
    for place, (name, date) in enumerate(dates.items()):
        rows.insert(place, name, pd.Timestamp(date))
    return rows.astype({"rank": "Int64", "rank_before": "Int64"})


def shown(day: DayForecast, orders: pd.DataFrame | None) -> Iterator[RenderableType]:
    """The best and the worst on the terminal."""
    page = forecast_page.page(day, orders)
    yield Text(page.headline, style="bold")
    yield Text(page.subtitle)
    for each in page.sections[0].tables:
        yield Text()
        yield terminal.laid_out(each)
    if orders is not None:
        yield Text()
        yield Text(page.sections[1].lead)
        for each in page.sections[1].tables:
            yield terminal.laid_out(each)
    if day.masked:
        yield Text(f"without a forecast: {', '.join(sorted(day.masked))}")
    for line in forecast_page.verdicts(day.sources):
        yield Text(line)


def amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value < np.inf:
        raise ValueError(f"cash={text}: must be a number of at least 0")
    return value


def _manifest(folder: Path) -> dict[str, Any]:
    return RunDir(folder).read_manifest()


def _last_test_date(run: Path) -> str:
    manifest = read_run(run, large_files=False).manifest
    assert manifest is not None
    return str(manifest.split.loc["test", "last_signal_date"])
