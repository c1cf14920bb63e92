"""Any two to five runs of a leaderboard over one another: what the page needs to draw them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from stockformer.evaluation.backtest import BASIS_POINT
from stockformer.evaluation.metrics import METRICS, OBJECTIVES
from stockformer.evaluation.quantities import format_p, format_t
from stockformer.reporting.page import Section
from stockformer.runs.settings import training_settings
from stockformer.sweeps.selection import paired_tests
from stockformer.sweeps.trials import (
    Configuration,
    Group,
    Trials,
    by_date,
    recorded_settings,
)

TITLE = "Runs over one another"
MAX_PAIRED = 300
MOST_RUNS = 5


def section(trials: Trials) -> Section:
    """Two to five runs: validation curves, equity, the lead of the first, what was set."""
    groups = [_group(trials, group) for group in trials.groups if group.rank_ic.shape[1] > 1]
    if not groups:
        return Section(TITLE, "It takes two runs with daily metrics, tested on the same dates.")
    lead = (
        f"Choose two to {MOST_RUNS} runs. The lead is the paired daily difference of rank IC on "
        "the test dates, the first run minus another: above zero the first is better. Its 95 % "
        "interval is Newey-West; of many pairs, one in twenty excludes zero by chance. Test "
        "figures are not for choosing."
    )
    if any(group.rank_ic.shape[1] > MAX_PAIRED for group in trials.groups):
        lead += f" The best {MAX_PAIRED} by validation can be chosen."
    objective = OBJECTIVES[trials.objective]
    shown = {"metric": objective.axis, "groups": groups}
    return Section(TITLE, lead, pairs=json.dumps(shown, separators=(",", ":")))


def _group(trials: Trials, group: Group) -> dict[str, object]:
    """Runs that can be compared, as short numbers, without a NaN."""
    rank_ic = group.rank_ic.iloc[:, :MAX_PAIRED]
    names = [str(name) for name in rank_ic]
    chosen = [trials.configurations[name] for name in names]
    returns = {each.name: _returns(trials, each) for each in chosen}
    days = sorted({day for frame in returns.values() for day in frame.index})
    universe = pd.concat([frame["benchmark"] for frame in returns.values()] or [pd.Series()])
    return {
        "label": group.label,
        "dates": _dates(rank_ic.index),
        "runs": names,
        "rank_ic": [_short(rank_ic[name]) for name in names],
        "days": _dates(pd.DatetimeIndex(days)),
        "net": [_points(frame["net_return"], days) for frame in returns.values()],
        "universe": _points(universe[~universe.index.duplicated()], days),
        "curves": [_curve(trials, each) for each in chosen],
        **_settings(trials, chosen),
        **_tests(rank_ic, group.horizon),
    }


def _tests(rank_ic: pd.DataFrame, horizon: int) -> dict[str, object]:
    """The paired test of every two runs, i before j, row by row; half: of the 95 % interval."""
    tests = paired_tests(rank_ic, horizon)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.abs(tests["mean"] / tests["t"])
    half = error * stats.t.ppf(0.975, np.maximum(tests["n"] - 1, 1))
    return {
        "mean": [METRICS["rank_ic"].format(mean) for mean in tests["mean"]],
        "half": _short(half),
        "n": [int(n) for n in tests["n"]],
        "t": [format_t(t) for t in tests["t"]],
        "p": [format_p(p) for p in tests["p"]],
    }


def _returns(trials: Trials, configuration: Configuration) -> pd.DataFrame:
    """net_return and benchmark of the traded test forecasts by date, the mean over seeds."""
    records = [trials.completed[name].evaluation for name in configuration.runs]
    traded = [r.backtest.returns for r in records if r is not None and r.backtest is not None]
    columns = ("net_return", "benchmark")
    if not traded:
        return pd.DataFrame(columns=columns, index=pd.DatetimeIndex([]), dtype=float)
    return pd.DataFrame({name: by_date([frame[name] for frame in traded]) for name in columns})


def _curve(trials: Trials, configuration: Configuration) -> list[float | None]:
    """The validation metric by epoch, in its unit, the mean over the runs that reached it."""
    column = f"validation_{trials.objective}"
    found = [
        run.metrics[column].astype(float)
        for run in (trials.completed[name] for name in configuration.runs)
        if run.metrics is not None and column in run.metrics
    ]
    scale = OBJECTIVES[trials.objective].scale
    return _short(scale * pd.concat(found).groupby(level=0).mean(), 5) if found else []


def _settings(trials: Trials, chosen: list[Configuration]) -> dict[str, object]:
    """Every recorded setting that differs between any of the runs, and its value in each."""
    runs = (trials.completed[each.runs[0]] for each in chosen)
    recorded = [dict(training_settings(recorded_settings(run))) for run in runs]
    keys = sorted({key for values in recorded for key in values})
    varied = [key for key in keys if len({values.get(key) for values in recorded}) > 1]
    return {"keys": varied, "values": [_values(values, varied) for values in recorded]}


def _values(recorded: Mapping[str, str], keys: list[str]) -> list[str]:
    return [recorded.get(key, "-") for key in keys]


def _points(series: pd.Series, days: list[pd.Timestamp]) -> list[float | None]:
    """In basis points on each of the days; None where unknown."""
    return _short(series.reindex(pd.DatetimeIndex(days)) / BASIS_POINT, 1)


def _dates(index: pd.Index) -> list[str]:
    return [f"{date:%Y-%m-%d}" for date in pd.DatetimeIndex(index)]


def _short(series: Iterable[float], decimals: int = 4) -> list[float | None]:
    return [round(value, decimals) if math.isfinite(value) else None for value in series]
