"""What a run's evaluation left: evaluation.json, as in docs/evaluation.md, and the ledger."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from stockformer.evaluation.backtest import Settings
from stockformer.evaluation.statistics import Estimate
from stockformer.evaluation.summary import DAILY, VERSION
from stockformer.reporting.quantities import COMPARED, METRICS
from stockformer.runs.typed_json import NUMBER, Form, require

TABLE_COLUMNS = (
    *COMPARED,
    *(f"{m}_{column}" for m in COMPARED for column in ("lead", "lower", "upper", "t", "p")),
)
RETURNS = ("net_return", "benchmark")


_FIGURES = {str: {str: NUMBER}}
_BASE = dict.fromkeys(("n_dates", "benchmark_total_return", "turnover"), NUMBER)
_VARIANTS = ("base", "one_day_later", "doubled_costs")
_ESTIMATE = {"n": int, "lag": int} | dict.fromkeys(
    ("mean", "standard_error", "t", "p", "lower", "upper"), NUMBER
)
_RETURNS = {"date": [str], **{name: [NUMBER] for name in RETURNS}}
BACKTEST: Form = {
    "settings": {f"{f.name}?": {"int": int, "float": float}[str(f.type)] for f in fields(Settings)},
    "figures": {name: {"total_return": NUMBER} for name in _VARIANTS}
    | {"base": _BASE | {"total_return": NUMBER}},
    "excess": dict.fromkeys(_VARIANTS, _ESTIMATE),
    "benchmarks": _FIGURES,
    "start_offsets": ([{"offset": int, "annual_excess_return": NUMBER}], None),
    "sectors": ({str: float}, None),
    "capacity": ({str: NUMBER}, None),
    "daily": _RETURNS,
}
EVALUATION: Form = {
    "version": int,
    "epoch": (int, None),
    "model": {f"{name}?": NUMBER for name in METRICS},
    "table": [
        {f"{name}?": NUMBER for name in TABLE_COLUMNS}
        | {"name": str, "rank_ic": NUMBER, "mae": NUMBER, "accuracy": NUMBER}
    ],
    "verdict": str,
    "sentences": [str],
    "targets": [{"name": str, "value": NUMBER, "met": bool}],
    "oracle_rank_ic": NUMBER,
    "first_step_rank_ic": NUMBER,
    "notes": [str],
    "statistics": object,
    "daily": {f"{name}?": [NUMBER] for name in DAILY} | {"signal_date": [str], "rank_ic": [NUMBER]},
    "backtest": (BACKTEST, None),
    "validation": ({"daily": _RETURNS}, None),
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
        raise ValueError(
            f"version {data['version']}, but this code reads {VERSION}: train again, or read it "
            "with the code that wrote it"
        )
    require(data, EVALUATION, "evaluation")
    if not data["table"]:
        raise ValueError("an empty table")
    oracle, traded, validation = (
        data[name] for name in ("oracle_rank_ic", "backtest", "validation")
    )
    return FinalEvaluation(
        epoch=data["epoch"],
        model=_numbers(data["model"], METRICS),
        table=pd.DataFrame(
            [_numbers(row, TABLE_COLUMNS) for row in data["table"]],
            index=[row["name"] for row in data["table"]],
        ),
        verdict=data["verdict"],
        sentences=tuple(data["sentences"]),
        targets=tuple(Target(t["name"], _number(t["value"]), t["met"]) for t in data["targets"]),
        oracle_rank_ic=None if not oracle else float(oracle),
        first_step_rank_ic=_number(data["first_step_rank_ic"]),
        notes=tuple(data["notes"]),
        daily=_by_date(data["daily"], "signal_date", DAILY),
        traded=None if traded is None else _traded(traded),
        validation=None if validation is None else _by_date(validation["daily"], "date", RETURNS),
    )


def require_keys(given: Collection[str], keys: Collection[str]) -> None:
    missing = [key for key in keys if key not in given]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")


def _traded(data: dict[str, Any]) -> RecordedTrading:
    offsets = data["start_offsets"]
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
        returns=_by_date(data["daily"], "date", RETURNS),
    )


def _estimate(data: dict[str, Any]) -> Estimate:
    numbers: dict[str, Any] = {
        name: value if name in ("n", "lag") else _number(value) for name, value in data.items()
    }
    return Estimate(**{name: numbers[name] for name in _ESTIMATE})


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
