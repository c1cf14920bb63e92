"""evaluation.json: the evaluation of a model, and how it is written and read back.

docs/evaluation.md describes every key. `null` stands for a missing number.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from stockformer.evaluation.backtest import BASIS_POINT, TRADING_DAYS, Backtest, Settings
from stockformer.evaluation.comparison import label
from stockformer.evaluation.metrics import COMPARED, METRICS, OVER_DATES
from stockformer.evaluation.quantities import MISSING, format_p
from stockformer.evaluation.signal_detail import SIGNAL_DETAIL, SignalDetail
from stockformer.evaluation.statistics import Estimate
from stockformer.evaluation.verdict import QUESTIONS, Verdict, conclude
from stockformer.runs.typed_json import NUMBER, Form, require

VERSION = 4
"""Version 3 is converted when it is read; any other version is an error."""

SCORES = METRICS | OVER_DATES
TABLE_COLUMNS = (
    *COMPARED,
    *(f"{m}_{column}" for m in COMPARED for column in ("lead", "lower", "upper", "t", "p")),
)
RETURNS = ("net_return", "benchmark")
VALIDATION = (*RETURNS, "turnover")  # the last since version 0.2
VARIANTS = ("base", "one_day_later", "doubled_costs")
LEAK_WORDS = ("Too good to be true", "Likely leak")
SETTINGS_OF_VERSION_3 = {"k": "top_k", "cash_share": "risk_degree"}

_ESTIMATE = {
    "n": int,
    "lag": int,
    **dict.fromkeys(("mean", "standard_error", "t", "p", "lower", "upper"), NUMBER),
}
_RETURNS: Form = {"date": [str], **{name: [NUMBER] for name in RETURNS}}
_BASE = ("n_dates", "total_return", "benchmark_total_return", "turnover")
BACKTEST: Form = {
    "settings": {f"{f.name}?": {"int": int, "float": float}[str(f.type)] for f in fields(Settings)},
    "figures": {name: {"total_return": NUMBER} for name in VARIANTS}
    | {"base": dict.fromkeys(_BASE, NUMBER)},
    "excess": dict.fromkeys(VARIANTS, _ESTIMATE),
    "benchmarks": {str: {str: NUMBER}},
    "start_offsets": ([{"offset": int, "annual_excess_return": NUMBER}], None),
    "sectors": ({str: float}, None),
    "capacity": ({str: NUMBER}, None),
    "daily": _RETURNS,
    "waterfall?": ({str: _ESTIMATE}, None),  # missing in records of earlier versions
}
EVALUATION: Form = {
    "version": int,
    "epoch": (int, None),
    "model": {f"{name}?": NUMBER for name in SCORES},
    "table": [
        {f"{name}?": NUMBER for name in TABLE_COLUMNS}
        | {"name": str, "rank_ic": NUMBER, "mae": NUMBER, "accuracy": NUMBER}
    ],
    "verdict": str,
    "sentences": [str],
    "answers?": {question: {"answer": str, "sentence": str} for question in QUESTIONS},
    "targets": [{"name": str, "value": NUMBER, "met": bool, "met_by?": str}],
    "oracle_rank_ic": NUMBER,
    "oracle_excess?": NUMBER,  # since version 0.2
    "first_step_rank_ic": NUMBER,
    "notes": [str],
    "statistics": {str: _ESTIMATE},
    "daily": {f"{name}?": [NUMBER] for name in METRICS}
    | {"signal_date": [str], "rank_ic": [NUMBER]},
    "backtest": (BACKTEST, None),
    "signal?": (SIGNAL_DETAIL, None),  # missing in records of earlier versions
    "validation": ({"daily": _RETURNS | {"turnover?": [NUMBER]}}, None),
}
"""Other keys are ignored."""


@dataclass(frozen=True)
class ProjectTarget:
    """A target of the project, the model's value, and whether it meets the target.

    met_by: a trivial baseline that meets it as well, with its value; empty if none does.
    """

    name: str
    value: float
    met: bool
    met_by: str = ""

    @property
    def shown(self) -> str:
        """The value, as the target is written."""
        return MISSING if math.isnan(self.value) else f"{self.value:.4g}"

    @property
    def outcome(self) -> str:
        """A target that a constant meets is no achievement."""
        if not self.met:
            return "not met"
        return f"met, but so does {self.met_by}" if self.met_by else "met"


@dataclass(frozen=True)
class BacktestResult:
    """Backtest of a model's forecasts, with its variants.

    figures: `backtest.figures`, a row a variant: base, one_day_later, doubled_costs. excess: by
    variant, the daily return after costs minus the universe's. benchmarks:
    `backtest.return_figures`, a row for the universe and one for the index if there is one.
    start_offsets: `backtest.figures`, a row a start date within the rebalancing period; None if the
    period is one day. sectors: mean share of the account by sector; None if unknown. capacity:
    `backtest.capacity`; None if unknown. returns by date: net_return, benchmark. waterfall:
    `money.waterfall`; None if not recorded. ledger: None if this was read from evaluation.json.
    """

    settings: Settings
    figures: pd.DataFrame
    excess: Mapping[str, Estimate]
    benchmarks: pd.DataFrame
    start_offsets: pd.DataFrame | None
    sectors: Mapping[str, float] | None
    capacity: Mapping[str, float] | None
    returns: pd.DataFrame
    waterfall: Mapping[str, Estimate] | None = None
    ledger: Backtest | None = None

    def to_json(self) -> dict[str, Any]:
        starts = self.start_offsets
        return {
            "settings": asdict(self.settings),
            "figures": self.figures.to_dict("index"),
            "excess": _dicts(self.excess),
            "benchmarks": self.benchmarks.to_dict("index"),
            "start_offsets": None if starts is None else starts.reset_index().to_dict("records"),
            "sectors": self.sectors,
            "capacity": self.capacity,
            "daily": _lists(self.returns, "date"),
            "waterfall": None if self.waterfall is None else _dicts(self.waterfall),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BacktestResult:
        starts, parts = data["start_offsets"], data.get("waterfall")
        return cls(
            settings=Settings(**data["settings"]),
            figures=_rows(data["figures"]),
            excess={name: _estimate(each) for name, each in data["excess"].items()},
            benchmarks=_rows(data["benchmarks"]),
            start_offsets=None
            if starts is None
            else pd.DataFrame(starts).set_index("offset").astype(float),
            sectors=data["sectors"],
            capacity=data["capacity"],
            returns=_by_date(data["daily"], "date", RETURNS),
            waterfall=None if parts is None else {n: _estimate(each) for n, each in parts.items()},
        )

    def lines(self) -> list[str]:
        """For a terminal: the return, and how sensitive it is to delay, costs and start date."""
        base = self.figures.loc["base"]
        total = self.figures["total_return"].map("{:+z.1%}".format)
        lines = [
            f"backtest, top {self.settings.top_k}, {base['n_dates']:.0f} days, after costs: "
            f"{total['base']}; equal-weight universe {base['benchmark_total_return']:+z.1%}",
            f"  one day later {total['one_day_later']}, costs doubled {total['doubled_costs']}, "
            f"turnover {base['turnover']:.0%} a day",
        ]
        if self.start_offsets is not None:
            spread = self.start_offsets["annual_excess_return"] / TRADING_DAYS / BASIS_POINT
            lines.append(
                f"  started on {len(spread)} days of a rebalancing period: daily excess "
                f"{spread.min():+z.1f} to {spread.max():+z.1f} basis points"
            )
        return lines


@dataclass(frozen=True)
class EvaluationRecord:
    """A model on the test dates, compared with the baselines.

    epoch: the tested one; None for an ensemble. scores: `predictions.score`. table: a row a
    forecaster, the model first; columns `TABLE_COLUMNS`. verdict: on ranking, in one sentence.
    answers: what a reader needs first. sentences: the other conclusions, on level forecasts and on
    trading, and the baselines compared with. oracle_rank_ic: the best attainable rank IC of the
    first step, to compare with first_step_rank_ic, the model's; None unless the market is
    simulated. oracle_excess: the mean daily return above the universe's after costs of the oracle,
    traded as the model is; None without an oracle or a backtest. statistics:
    `statistics.summary`, a row a metric. daily: metrics by test date. backtest: None if there were
    too few dates or nothing was ranked. validation: net_return, benchmark and turnover by date of
    the same backtest on the validation forecasts, on which models are selected; None if the model
    was not selected there, or the dates are too few. signal: how long the signal lasts and where it
    works; None if nothing was ranked, or not recorded.
    """

    epoch: int | None
    scores: Mapping[str, float]
    table: pd.DataFrame
    verdict: str
    answers: Verdict
    sentences: tuple[str, ...]
    targets: tuple[ProjectTarget, ...]
    oracle_rank_ic: float | None
    oracle_excess: float | None
    first_step_rank_ic: float
    notes: tuple[str, ...]
    statistics: pd.DataFrame
    daily: pd.DataFrame
    backtest: BacktestResult | None
    validation: pd.DataFrame | None
    signal: SignalDetail | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of evaluation.json, as `from_json` reads it."""
        validation = self.validation
        data: dict[str, Any] = plain(
            {
                "version": VERSION,
                "epoch": self.epoch,
                "model": self.scores,
                "table": self.table.rename_axis("name").reset_index().to_dict("records"),
                "verdict": self.verdict,
                "answers": self.answers.to_json(),
                "sentences": self.sentences,
                "targets": [asdict(target) for target in self.targets],
                "oracle_rank_ic": self.oracle_rank_ic,
                "oracle_excess": self.oracle_excess,
                "first_step_rank_ic": self.first_step_rank_ic,
                "notes": self.notes,
                "statistics": self.statistics.to_dict("index"),
                "daily": _lists(self.daily[list(METRICS)], "signal_date"),
                "backtest": None if self.backtest is None else self.backtest.to_json(),
                "validation": None if validation is None else {"daily": _lists(validation, "date")},
                "signal": None if self.signal is None else self.signal.to_json(),
            }
        )
        require(data, EVALUATION, "evaluation")
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EvaluationRecord:
        """The content of evaluation.json, checked. Raises ValueError or TypeError."""
        if data.get("version") == 3:
            data = _of_version_3(data)
        if data.get("version") != VERSION:
            raise ValueError(
                f"version {data.get('version')}, but this code reads {VERSION}: train again, or "
                "read it with the version of the code that wrote it"
            )
        require(data, EVALUATION, "evaluation")
        if not data["table"]:
            raise ValueError("an empty table")
        validation, signal = data["validation"], data.get("signal")
        backtest = None if data["backtest"] is None else BacktestResult.from_json(data["backtest"])
        table = pd.DataFrame(
            [_numbers(row, TABLE_COLUMNS) for row in data["table"]],
            index=[row["name"] for row in data["table"]],
        )
        statistics = _rows(data["statistics"]).astype({"n": int, "lag": int})
        return cls(
            epoch=data["epoch"],
            scores=_numbers(data["model"], SCORES),
            table=table,
            verdict=data["verdict"],
            answers=Verdict.from_json(data["answers"])
            if "answers" in data
            else _answers(data, table, statistics, backtest),
            sentences=tuple(data["sentences"]),
            targets=tuple(
                ProjectTarget(t["name"], _number(t["value"]), t["met"], t.get("met_by", ""))
                for t in data["targets"]
            ),
            oracle_rank_ic=float(data["oracle_rank_ic"]) if data["oracle_rank_ic"] else None,
            oracle_excess=data.get("oracle_excess"),
            first_step_rank_ic=_number(data["first_step_rank_ic"]),
            notes=tuple(data["notes"]),
            statistics=statistics,
            daily=_by_date(data["daily"], "signal_date", METRICS),
            backtest=backtest,
            validation=None
            if validation is None
            else _by_date(validation["daily"], "date", VALIDATION),
            signal=None if signal is None else SignalDetail.from_json(signal),
        )

    def lines(self) -> list[str]:
        """The closing table and the conclusions, for a terminal or a log."""
        lines = [
            f"{self.scores.get('n_dates', math.nan):.0f} test dates:",
            "",
            *closing_table(self.table, self.oracle_rank_ic, self.first_step_rank_ic),
            "",
            *self.answers.lines(),
            "",
            self.verdict,
        ]
        return [*lines, *self.conclusions()]

    def conclusions(self) -> list[str]:
        """The conclusions other than the verdict."""
        targets = [f"project target, {t.name}: {t.outcome} ({t.shown})" for t in self.targets]
        backtest = [] if self.backtest is None else self.backtest.lines()
        return [*self.sentences, *targets, *backtest, *(f"note: {note}" for note in self.notes)]


def closing_table(
    table: pd.DataFrame, oracle_rank_ic: float | None, first_step_rank_ic: float
) -> list[str]:
    """The model, the baselines and the oracle, if there is one: lines of 79 characters."""
    lines = [
        f"{'':31}{'lead of the model in rank IC':^31}",
        f"{'':22}{'rank IC':>9}{'lead':>9}{'95 % interval':>17}{'p':>7}{'MAE bp':>8}{'acc.':>7}",
    ]
    for name, row in table.iterrows():
        cells = {key: _cell(row.get(key)) for key in ("rank_ic", "rank_ic_lead")}
        interval = "-"
        if math.isfinite(row.get("rank_ic_lower", math.nan)):
            interval = f"{row['rank_ic_lower']:+z.3f} to {row['rank_ic_upper']:+z.3f}"
        p_cell = format_p(row.get("rank_ic_p", math.nan))
        title = label(str(name)).removeprefix("best ")
        lines.append(
            f"{title:22}{cells['rank_ic']:>9}{cells['rank_ic_lead']:>9}"
            f"{interval:>17}{p_cell:>7}{METRICS['mae'].format(row['mae']):>8}"
            f"{row['accuracy']:7.3f}"
        )
    if oracle_rank_ic:
        share = first_step_rank_ic / oracle_rank_ic
        reached = f"{share:.0%}" if share > 0 else "none of it"
        lines.append(f"{'oracle':22}{oracle_rank_ic:+9.4f}   the model reaches {reached}")
    how = "lead: above zero is better for the model; its own row: its rank IC against zero"
    return [*lines, how]


def plain(value: Any) -> Any:
    """As JSON types: NumPy numbers become Python's, numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _answers(
    data: dict[str, Any],
    table: pd.DataFrame,
    statistics: pd.DataFrame,
    backtest: BacktestResult | None,
) -> Verdict:
    """The answers of a record that has none; what they need else is said in its verdict."""
    first = data["verdict"].split(". ")[0].removesuffix(".")
    return conclude(
        table,
        statistics.to_dict("index"),
        backtest,
        data["notes"],
        leak_warning=f"{first}." if first.startswith(LEAK_WORDS) else None,
        few_rankings="Too few separate rankings" in data["verdict"],
    )


def _of_version_3(data: dict[str, Any]) -> dict[str, Any]:
    """Rename the backtest settings that version 3 named differently."""
    backtest = data.get("backtest")
    if isinstance(backtest, dict) and isinstance(backtest.get("settings"), dict):
        settings = {
            SETTINGS_OF_VERSION_3.get(name, name): value
            for name, value in backtest["settings"].items()
        }
        backtest = backtest | {"settings": settings, "start_offsets": backtest.get("offsets")}
    return data | {"version": VERSION, "backtest": backtest}


def _cell(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:+z.4f}"


def _dicts(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {name: asdict(each) for name, each in estimates.items()}


def _estimate(data: dict[str, Any]) -> Estimate:
    numbers: dict[str, Any] = {
        name: value if name in ("n", "lag") else _number(value) for name, value in data.items()
    }
    return Estimate(**{name: numbers[name] for name in _ESTIMATE})


def _rows(rows: dict[str, dict[str, float | None]]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index").astype(float)


def _lists(frame: pd.DataFrame, dates: str) -> dict[str, list[Any]]:
    """The columns of a frame by date as lists, the dates first, as ISO text."""
    columns = {str(name): frame[name].tolist() for name in frame}
    return {dates: [f"{date:%Y-%m-%d}" for date in frame.index], **columns}


def _by_date(columns: dict[str, Any], dates: str, names: Collection[str]) -> pd.DataFrame:
    """The inverse of `_lists`: a frame indexed by the column that holds dates."""
    index = pd.DatetimeIndex(pd.to_datetime(columns[dates], format="%Y-%m-%d"), name=dates)
    if not len(index) or not index.is_monotonic_increasing or not index.is_unique:
        raise ValueError(f"{dates}: empty, or not strictly increasing")
    known = {name: columns[name] for name in names if name in columns}
    return pd.DataFrame(known, dtype=float).set_index(index)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _numbers(given: dict[str, Any], known: Collection[str]) -> dict[str, float]:
    """The given numbers whose names are known."""
    return {name: _number(given[name]) for name in known if name in given}
