"""What a run's evaluation left: evaluation.json, as in docs/evaluation.md, and the ledger."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from stockformer.evaluation.backtest import Settings
from stockformer.evaluation.summary import DAILY, VERSION
from stockformer.reporting.quantities import COMPARED, METRICS
from stockformer.schema import NUMBER, Form, require

SPREAD = ("lowest", "lower_quartile", "median", "upper_quartile", "highest")


SPREADS = ("summary", "one_day_later", "doubled_costs")
_FIGURES = {str: {str: NUMBER}}
_BASE = dict.fromkeys(("n_dates", "benchmark_total_return", "turnover"), NUMBER)
BACKTEST: Form = {
    "settings": {f"{f.name}?": {"int": int, "float": float}[str(f.type)] for f in fields(Settings)},
    "figures": (
        {
            "base": _BASE | {"total_return": NUMBER},
            **{name: {"total_return": NUMBER} for name in SPREADS[1:]},
        }
    ),
    "benchmarks": _FIGURES,
    "offsets": {
        "list": [{"offset": int, "annual_excess_return": NUMBER}],
        **{name: {"annual_excess_return": dict.fromkeys(SPREAD, NUMBER)} for name in SPREADS},
    },
    "sectors": ({str: float}, None),
    "capacity": ({str: NUMBER}, None),
    "daily": {"date": [str], "net_return": [NUMBER], "benchmark": [NUMBER]},
}
EVALUATION: Form = {
    "version": int,
    "epoch": (int, None),
    "model": {f"{name}?": NUMBER for name in METRICS},
    "table": [
        {f"{name}?": NUMBER for name in COMPARED}
        | {"name": str, "rank_ic": NUMBER, "mae": NUMBER, "accuracy": NUMBER}
    ],
    "verdict": str,
    "targets": [{"name": str, "value": NUMBER, "met": bool}],
    "oracle_rank_ic": NUMBER,
    "first_step_rank_ic": NUMBER,
    "notes": [str],
    "statistics": object,
    "daily": {f"{name}?": [NUMBER] for name in DAILY} | {"signal_date": [str], "rank_ic": [NUMBER]},
    "backtest": (BACKTEST, None),
}
"""docs/evaluation.md; keys beside these are passed over."""
LEDGER = {
    "trades": ("date", "ticker", "side", "shares", "price", "value", "cost"),
    "positions": ("date", "ticker", "shares", "close", "value"),
    "equity": (
        *("date", "cash", "value", "account", "net_return", "gross_return", "turnover", "cost"),
        *("slippage", "n_held", "benchmark", "index"),
    ),
}


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
    date; columns as in `quantities.EARNED`, and others. spreads: a row a variant, distribution of
    the annual excess over start dates, columns `SPREAD`. sectors: mean share of the account;
    returns by date: net_return, benchmark. sectors and capacity are None where nobody knows.
    """

    settings: Settings
    figures: pd.DataFrame
    benchmarks: pd.DataFrame
    offsets: pd.DataFrame
    spreads: pd.DataFrame
    sectors: dict[str, float] | None
    capacity: dict[str, float] | None
    returns: pd.DataFrame


@dataclass(frozen=True)
class FinalEvaluation:
    """evaluation.json: the best epoch on the test dates, beside the baselines.

    table: a row a contestant, the model first; columns as in `COMPARED`, and others.
    epoch: None for an ensemble. oracle_rank_ic: what the best forecaster could reach where
    first_step_rank_ic is the model's; known for simulated markets only. daily: some metrics by test
    date. traded: None where there were too few dates.
    """

    epoch: int | None
    model: dict[str, float]
    table: pd.DataFrame
    verdict: str
    targets: tuple[Target, ...]
    oracle_rank_ic: float | None
    first_step_rank_ic: float
    notes: tuple[str, ...]
    daily: pd.DataFrame
    traded: RecordedTrading | None


def read_ledger(content: bytes, table: str) -> pd.DataFrame:
    """A table of the ledger, by its name in LEDGER; its tickers are text, whatever they look like.

    Raises ValueError or TypeError for anything else.
    """
    frame = pd.read_csv(
        io.BytesIO(content),
        dtype={"ticker": str},
        keep_default_na=False,
        na_values=[""],
        parse_dates=["date"],
        date_format="%Y-%m-%d",
    )
    require_keys(frame.columns, LEDGER[table])
    if frame["date"].isna().any() or not pd.api.types.is_datetime64_dtype(frame["date"]):
        raise ValueError("a date that is none")
    numbers = frame.columns.difference(["date", "ticker", "side"])
    return frame.astype(dict.fromkeys(numbers, float))


def final_evaluation(data: dict[str, Any]) -> FinalEvaluation:
    """The content of evaluation.json, checked. Raises ValueError or TypeError."""
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']}, but this code reads {VERSION}")
    require(data, EVALUATION, "evaluation")
    if not data["table"]:
        raise ValueError("an empty table")
    oracle, traded = data["oracle_rank_ic"], data["backtest"]
    return FinalEvaluation(
        epoch=data["epoch"],
        model=_numbers(data["model"], METRICS),
        table=pd.DataFrame(
            [_numbers(row, COMPARED) for row in data["table"]],
            index=[row["name"] for row in data["table"]],
        ),
        verdict=data["verdict"],
        targets=tuple(Target(t["name"], _number(t["value"]), t["met"]) for t in data["targets"]),
        oracle_rank_ic=None if not oracle else float(oracle),
        first_step_rank_ic=_number(data["first_step_rank_ic"]),
        notes=tuple(data["notes"]),
        daily=_by_date(data["daily"], "signal_date", DAILY),
        traded=None if traded is None else _traded(traded),
    )


def require_keys(given: Collection[str], keys: Collection[str]) -> None:
    missing = [key for key in keys if key not in given]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")


def _traded(data: dict[str, Any]) -> RecordedTrading:
    spreads = {name: data["offsets"][name]["annual_excess_return"] for name in SPREADS}
    return RecordedTrading(
        settings=Settings(**data["settings"]),
        figures=_figures(data["figures"]),
        benchmarks=_figures(data["benchmarks"]),
        offsets=pd.DataFrame(data["offsets"]["list"]).set_index("offset").astype(float),
        spreads=_figures(spreads),
        sectors=data["sectors"],
        capacity=data["capacity"],
        returns=_by_date(data["daily"], "date", ("net_return", "benchmark")),
    )


def _figures(rows: dict[str, dict[str, float | None]]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index").astype(float)


def _by_date(columns: dict[str, Any], dates: str, names: Sequence[str]) -> pd.DataFrame:
    """Lists of numbers of one length, indexed by the one that holds dates."""
    index = pd.DatetimeIndex(pd.to_datetime(columns[dates], format="%Y-%m-%d"), name=dates)
    if not len(index) or not index.is_monotonic_increasing or not index.is_unique:
        raise ValueError(f"{dates}: empty, or not strictly increasing")
    known = {name: columns[name] for name in names if name in columns}
    return pd.DataFrame(known, dtype=float).set_index(index)


def _number(value: float | None) -> float:
    """JSON has no NaN: null stands for it."""
    return math.nan if value is None else float(value)


def _numbers(given: dict[str, Any], known: Collection[str]) -> dict[str, float]:
    """Those of the given numbers that a report has a name for."""
    return {name: _number(given[name]) for name in known if name in given}
