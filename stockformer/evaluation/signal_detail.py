"""What evaluation.json says of a signal beyond its mean: how long it lasts and where it works.

It needs the market's returns, sectors and volumes, which a run's folder does not keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stockformer.evaluation import breakdown, signal_decay
from stockformer.evaluation.backtest import Market
from stockformer.evaluation.predictions import Predictions
from stockformer.runs.typed_json import NUMBER, Form

GROUP = (
    *("n", "mean", "standard_error", "t", "p", "lower", "upper"),
    *("from", "to"),
)
SECTOR = ("rank_ic", "n_dates", "n_stocks")
_GROUPS: Form = [{"group": str, **dict.fromkeys(GROUP, NUMBER)}]
SIGNAL_DETAIL: Form = {
    "decay": [{"day": int, **dict.fromkeys(signal_decay.COLUMNS, NUMBER)}],
    "sectors": ([{"sector": str, "month": str, **dict.fromkeys(SECTOR, NUMBER)}], None),
    "volatility": _GROUPS,
    "size": (_GROUPS, None),
}


@dataclass(frozen=True)
class SignalDetail:
    """decay: `signal_decay.decay` of the mean forecast over the steps. sectors:
    `breakdown.by_sector`; None if the data have none. volatility: `breakdown.by_volatility`. size:
    `breakdown.by_size`; None without volumes.
    """

    decay: pd.DataFrame
    sectors: pd.DataFrame | None
    volatility: pd.DataFrame
    size: pd.DataFrame | None

    def to_json(self) -> dict[str, Any]:
        return {
            "decay": self.decay.reset_index().to_dict("records"),
            "sectors": None if self.sectors is None else self.sectors.to_dict("records"),
            "volatility": _groups(self.volatility),
            "size": None if self.size is None else _groups(self.size),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SignalDetail:
        sectors, size = data["sectors"], data["size"]
        return cls(
            decay=_frame(data["decay"], ["day"], signal_decay.COLUMNS).set_index("day"),
            sectors=None if sectors is None else _frame(sectors, ["sector", "month"], SECTOR),
            volatility=_frame(data["volatility"], ["group"], GROUP).set_index("group"),
            size=None if size is None else _frame(size, ["group"], GROUP).set_index("group"),
        )


def signal_detail(
    predictions: Predictions, market: Market, sectors: np.ndarray | None
) -> SignalDetail:
    """The decay and the breakdowns of these forecasts; sectors (N,) str, "" where unknown."""
    return SignalDetail(
        decay=signal_decay.decay(
            predictions.prediction.mean(axis=1), predictions.signal_dates, market
        ),
        sectors=None if sectors is None else breakdown.by_sector(predictions, sectors),
        volatility=breakdown.by_volatility(predictions, market),
        size=breakdown.by_size(predictions, market),
    )


def _groups(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.reindex(columns=list(GROUP)).rename_axis("group").reset_index().to_dict("records")


def _frame(
    rows: Sequence[dict[str, Any]], labels: Sequence[str], numbers: Sequence[str]
) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*labels, *numbers])
    return frame.astype(dict.fromkeys(numbers, float))
