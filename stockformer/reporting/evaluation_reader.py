"""What a run's evaluation left: evaluation.json, as in docs/evaluation.md, and the ledger."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stockformer.evaluation.backtest import Settings
from stockformer.evaluation.statistics import Estimate
from stockformer.evaluation.summary import VERSION
from stockformer.reporting.quantities import COMPARED, METRICS

EVALUATION_KEYS = (
    *("version", "epoch", "model", "table", "verdict", "sentences", "targets", "oracle_rank_ic"),
    *("notes", "first_step_rank_ic", "statistics", "daily", "backtest", "validation"),
)
TABLE_COLUMNS = (
    *COMPARED,
    *(f"{m}_{column}" for m in COMPARED for column in ("lead", "lower", "upper", "t", "p")),
)
ESTIMATE_KEYS = ("n", "lag", "mean", "standard_error", "t", "p", "lower", "upper")
TRADED_KEYS = (
    *("settings", "figures", "excess", "benchmarks", "offsets", "sectors", "capacity", "daily"),
)


@dataclass(frozen=True)
class Target:
    """A figure that was hoped for, what came of it, and whether that was enough."""

    name: str
    value: float
    met: bool


@dataclass(frozen=True)
class RecordedTrading:
    """The backtest in evaluation.json.

    figures: a row a variant, `base` first; benchmarks: a row a benchmark; offsets: a row a start
    date within the rebalancing period, None where that is a day; columns as in `quantities.EARNED`,
    and others. excess: by variant, of the daily excess over the universe after costs. sectors: mean
    share of the account; returns by date: net_return, benchmark. sectors and capacity are None
    where nobody knows.
    """

    settings: Settings
    figures: pd.DataFrame
    excess: dict[str, Estimate]
    benchmarks: pd.DataFrame
    offsets: pd.DataFrame | None
    sectors: dict[str, float] | None
    capacity: dict[str, float] | None
    returns: pd.DataFrame


@dataclass(frozen=True)
class FinalEvaluation:
    """evaluation.json: the best epoch on the test dates, beside the baselines.

    table: a row a contestant, the model first; columns `TABLE_COLUMNS`.
    epoch: None for an ensemble. oracle_rank_ic: what the best forecaster could reach where
    first_step_rank_ic is the model's; known for simulated markets only. daily: some metrics by test
    date. traded: None where there were too few dates. validation: net_return and benchmark by date
    of the validation forecasts; None where the model was not chosen there, or dates were too few.
    """

    epoch: int | None
    model: dict[str, float]
    table: pd.DataFrame
    verdict: str
    sentences: tuple[str, ...]
    targets: tuple[Target, ...]
    oracle_rank_ic: float | None
    first_step_rank_ic: float
    notes: tuple[str, ...]
    daily: pd.DataFrame
    traded: RecordedTrading | None
    validation: pd.DataFrame | None


def read_evaluation(path: Path) -> FinalEvaluation:
    """Raises what a file of another content makes it raise."""
    return final_evaluation(json_object(path, ("version",)))


def read_ledger(path: Path) -> pd.DataFrame:
    """A table of the ledger; its tickers are text, whatever they look like."""
    frame = pd.read_csv(
        path, dtype={"ticker": str}, keep_default_na=False, na_values=[""], parse_dates=["date"]
    )
    numbers = frame.columns.difference(["date", "ticker", "side"])
    return frame.astype(dict.fromkeys(numbers, float))


def final_evaluation(data: dict[str, Any]) -> FinalEvaluation:
    """The content of evaluation.json, checked. Raises ValueError or TypeError."""
    if data["version"] != VERSION:
        raise ValueError(
            f"version {data['version']}, but this code reads {VERSION}: train again, or read it "
            "with the code that wrote it"
        )
    require_keys(data, EVALUATION_KEYS)
    for row in data["table"]:
        require_keys(row, ("name", "rank_ic", "mae", "accuracy"))
    for target in data["targets"]:
        require_keys(target, ("name", "value", "met"))
    epoch, oracle, traded = data["epoch"], data["oracle_rank_ic"], data["backtest"]
    validation = data["validation"]
    return FinalEvaluation(
        epoch=None if epoch is None else int(epoch),
        model=_numbers(data["model"], METRICS),
        table=pd.DataFrame(
            [_numbers(row, TABLE_COLUMNS) for row in data["table"]],
            index=[str(row["name"]) for row in data["table"]],
        ),
        verdict=str(data["verdict"]),
        sentences=tuple(map(str, data["sentences"])),
        targets=tuple(
            Target(str(t["name"]), _number(t["value"]), bool(t["met"])) for t in data["targets"]
        ),
        oracle_rank_ic=None if oracle is None else float(oracle),
        first_step_rank_ic=_number(data["first_step_rank_ic"]),
        notes=tuple(map(str, data["notes"])),
        daily=_by_date(data["daily"], "signal_date"),
        traded=None if traded is None else _traded(traded),
        validation=None if validation is None else _returns(validation["daily"]),
    )


def json_object(path: Path, keys: Collection[str]) -> dict[str, Any]:
    """A JSON object that has these keys."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError(f"a {type(data).__name__} where an object was expected")
    require_keys(data, keys)
    return data


def require_keys(given: Collection[str], keys: Collection[str]) -> None:
    missing = [key for key in keys if key not in given]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")


def _traded(data: dict[str, Any]) -> RecordedTrading:
    require_keys(data, TRADED_KEYS)
    offsets = data["offsets"]
    return RecordedTrading(
        settings=Settings(**data["settings"]),
        figures=_figures(data["figures"]),
        excess={name: _estimate(each) for name, each in data["excess"].items()},
        benchmarks=_figures(data["benchmarks"]),
        offsets=None
        if offsets is None
        else pd.DataFrame(offsets).set_index("offset").astype(float),
        sectors=data["sectors"],
        capacity=data["capacity"],
        returns=_returns(data["daily"]),
    )


def _estimate(data: dict[str, float | None]) -> Estimate:
    require_keys(data, ESTIMATE_KEYS)
    mean, standard_error, t, p, lower, upper = (_number(data[name]) for name in ESTIMATE_KEYS[2:])
    n, lag = (int(_number(data[name])) for name in ESTIMATE_KEYS[:2])
    return Estimate(mean, n, lag, standard_error, t, p, lower, upper)


def _returns(columns: dict[str, Any]) -> pd.DataFrame:
    returns = _by_date(columns, "date")
    require_keys(returns.columns, ("net_return", "benchmark"))
    return returns


def _figures(rows: dict[str, dict[str, float | None]]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index").astype(float)


def _by_date(columns: dict[str, Any], dates: str) -> pd.DataFrame:
    """Lists of numbers of one length, indexed by the one that holds dates."""
    require_keys(columns, (dates,))
    frame = pd.DataFrame({k: v for k, v in columns.items() if k != dates}, dtype=float)
    return frame.set_index(pd.DatetimeIndex(columns[dates], name=dates))


def _number(value: float | None) -> float:
    """JSON has no NaN: null stands for it."""
    return math.nan if value is None else float(value)


def _numbers(given: dict[str, Any], known: Collection[str]) -> dict[str, float]:
    """Those of the given numbers that a report has a name for."""
    return {name: _number(given[name]) for name in known if name in given}
