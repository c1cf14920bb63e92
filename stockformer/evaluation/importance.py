"""What moved the forecasts: the rank IC that is lost if an input is shuffled across stocks.

Permutation importance (Breiman 2001; Fisher, Rudin and Dominici 2019) on the test dates, paired by
date. It describes this model: of inputs that say the same, shuffling one may cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from stockformer.evaluation.metrics import correlation, mean, ranks
from stockformer.evaluation.statistics import estimate
from stockformer.runs.typed_json import NUMBER, Form

MOST_GROUPS = 40
"""More factors are shuffled in groups: each group costs a forecast of all test dates."""
PAST_RETURNS = "past returns"

TEST = ("mean", "standard_error", "t", "p", "lower", "upper")
IMPORTANCE: Form = {
    "rank_ic": NUMBER,
    "dates": int,
    "inputs": [{"name": str, "factors": [str], **dict.fromkeys(TEST, NUMBER)}],
}


@dataclass(frozen=True)
class Importance:
    """The drop of the rank IC by group of inputs.

    rank_ic: with nothing shuffled, the mean of `dates` test dates. table: by group, the mean drop
    with its test and interval (`statistics.Estimate`). factors: those of each group; none for past
    returns.
    """

    rank_ic: float
    dates: int
    table: pd.DataFrame
    factors: Mapping[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it; numbers that are not finite may be in it."""
        rows = self.table.to_dict("index")
        return {
            "rank_ic": self.rank_ic,
            "dates": self.dates,
            "inputs": [
                {"name": name, "factors": list(self.factors[name]), **rows[name]}
                for name in self.factors
            ],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Importance:
        """The inverse of `to_json`, of the form `IMPORTANCE`."""
        inputs = data["inputs"]
        table = pd.DataFrame(
            [{name: each[name] for name in TEST} for each in inputs],
            index=[each["name"] for each in inputs],
            columns=list(TEST),
        ).astype(float)
        return cls(
            rank_ic=np.nan if data["rank_ic"] is None else float(data["rank_ic"]),
            dates=data["dates"],
            table=table,
            factors={each["name"]: tuple(each["factors"]) for each in inputs},
        )


def groups(names: Sequence[str], most: int = MOST_GROUPS) -> dict[str, list[int]]:
    """Positions of the factors that are shuffled together, by the name of the group.

    Each factor alone if there are at most `most`. Else those whose names differ in a final number
    only, such as the windows of one indicator; if these are still too many, neighbours together.
    """
    if len(names) <= most:
        return {name: [place] for place, name in enumerate(names)}
    families: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        families.setdefault(re.sub(r"\d+$", "", name) or name, []).append(place)
    if len(families) <= most:
        return {_title(name, places): places for name, places in families.items()}
    found = {}
    for part in np.array_split(np.arange(len(families)), most):
        chosen = [list(families)[place] for place in part]
        places = [place for name in chosen for place in families[name]]
        name = chosen[0] if len(chosen) == 1 else f"{chosen[0]} to {chosen[-1]}"
        found[_title(name, places)] = places
    return found


def rank_ic_by_date(forecast: np.ndarray, label: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(S,) rank IC of forecasts (S, H, N) over the valid cells, mean over the steps."""
    a, b = (ranks(np.where(valid, values, np.nan)) for values in (forecast, label))
    by_step = correlation(a, b, valid)
    return mean(by_step, np.isfinite(by_step))


def importance(
    rank_ic: np.ndarray,
    shuffled: Mapping[str, np.ndarray],
    factors: Mapping[str, tuple[str, ...]],
    horizon: int,
) -> Importance:
    """The drops, from the rank IC by date (S,), and that with each group of inputs shuffled.

    A date on which the shuffled forecasts rank nothing counts as a rank IC of zero.
    """
    rows = {}
    for name, each in shuffled.items():
        test = asdict(estimate(rank_ic - np.nan_to_num(each), horizon))
        rows[name] = {column: test[column] for column in TEST}
    return Importance(
        rank_ic=float(np.nanmean(rank_ic)) if np.isfinite(rank_ic).any() else np.nan,
        dates=int(np.isfinite(rank_ic).sum()),
        table=pd.DataFrame.from_dict(rows, orient="index", columns=list(TEST)),
        factors=factors,
    )


def _title(name: str, places: Sequence[int]) -> str:
    return name if len(places) == 1 else f"{name} ({len(places)} factors)"
