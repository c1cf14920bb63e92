"""Processors of factors: each is fitted on training days, and applied with the fitted state.

Every processor has the same methods: `fit(panel, targets, fit_rows) -> state`, arrays by name, from
only those rows, and `apply(panel, state) -> panel`. A processed row depends on that row, on earlier
rows and on the state, never on later rows. T dates, N stocks, F factors; NaN is unknown.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np

from stockformer.data.factors.cross_section import KINDS, NORMAL_MAD, cross_sectional
from stockformer.data.panel import Panel
from stockformer.data.targets import Targets

State = Mapping[str, np.ndarray]
SIZE_DAYS = 20  # traded value is averaged over a month


class Processor(Protocol):
    """stateless: whether nothing is fitted, so that the result does not depend on the split.

    earlier_rows: how many rows before a row its result depends on. recursive: whether all that it
    needs of them is its own result for the row before.
    """

    stateless: ClassVar[bool]
    earlier_rows: int
    recursive: bool

    def fit(self, panel: Panel, targets: Targets, fit_rows: slice) -> State: ...

    def apply(self, panel: Panel, state: State) -> Panel: ...


class CrossSectional:
    """Each day's values across stocks on a common scale of about unit deviation.

    kind "rank": percentile rank, centred, ties averaged; "zscore": by the day's mean and standard
    deviation; "robust": by the median and the median absolute deviation; both clipped at `clip`.
    """

    stateless = True
    earlier_rows = 0
    recursive = False

    def __init__(self, *, kind: str, clip: float = math.inf) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind={kind}: must be one of {', '.join(KINDS)}")
        _require_positive_clip(clip)
        self.kind, self.clip = kind, clip

    def fit(self, panel: Panel, targets: Targets, fit_rows: slice) -> State:
        return {}

    def apply(self, panel: Panel, state: State) -> Panel:
        scaled = np.empty(panel.factors.shape, np.float32)
        for row, day in enumerate(panel.factors):  # a day's intermediates stay in the cache
            scaled[row] = cross_sectional(day, self.kind, axis=0, clip=self.clip)
        return panel.with_factors(scaled, panel.factor_names)


class Winsorise:
    """Clip each factor at its `share` and 1 - `share` quantiles over the training cells."""

    stateless = False
    earlier_rows = 0
    recursive = False

    def __init__(self, *, share: float) -> None:
        if not 0 < share < 0.5:
            raise ValueError(f"share={share}: must be above 0 and below 0.5")
        self.share = share

    def fit(self, panel: Panel, targets: Targets, fit_rows: slice) -> State:
        low, high = _quantiles(panel.factors[fit_rows], (self.share, 1 - self.share))
        return {"low": low, "high": high}

    def apply(self, panel: Panel, state: State) -> Panel:
        cut = np.clip(panel.factors, state["low"], state["high"])
        return panel.with_factors(cut.astype(np.float32), panel.factor_names)


class RobustZScore:
    """(x - median) / (1.4826 median absolute deviation) of the training cells, clipped at `clip`.

    A factor without deviation in the training cells becomes 0.
    """

    stateless = False
    earlier_rows = 0
    recursive = False

    def __init__(self, *, clip: float) -> None:
        _require_positive_clip(clip)
        self.clip = clip

    def fit(self, panel: Panel, targets: Targets, fit_rows: slice) -> State:
        factors = panel.factors[fit_rows]
        (median,) = _quantiles(factors, (0.5,))
        (deviation,) = _quantiles(factors, (0.5,), around=median)
        return {"median": median, "deviation": NORMAL_MAD * deviation}

    def apply(self, panel: Panel, state: State) -> Panel:
        deviation = state["deviation"]
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
        scaled = ((panel.factors - state["median"]) * scale).clip(-self.clip, self.clip)
        return panel.with_factors(scaled.astype(np.float32), panel.factor_names)


class Neutralise:
    """Residuals of each factor, day by day, after sector means and size are removed.

    Least squares across stocks on sector dummies (`sector`) and the log of the traded value
    averaged over 20 days (`size`). Stocks without a sector form a sector of their own.
    """

    stateless = True
    earlier_rows = SIZE_DAYS - 1
    recursive = False

    def __init__(self, *, sector: bool, size: bool) -> None:
        self.sector, self.size = sector, size

    def fit(self, panel: Panel, targets: Targets, fit_rows: slice) -> State:
        if self.sector and panel.sectors is None:
            raise ValueError("processors: neutralise by sector, but the data set has no sectors")
        if self.size and not {"close", "volume"} <= set(panel.prices):
            raise ValueError("processors: neutralise by size, but the data set has no volume")
        return {}

    def apply(self, panel: Panel, state: State) -> Panel:
        columns = [np.ones((*panel.returns.shape, 1))]
        if self.sector:
            _, sector = np.unique(np.asarray(panel.sectors), return_inverse=True)
            dummies = np.eye(sector.max() + 1)[sector]
            columns = [np.broadcast_to(dummies, (*panel.returns.shape, dummies.shape[1]))]
        if self.size:
            columns.append(_log_size(panel)[..., None])
        exposures = np.concatenate(columns, axis=-1)
        left = [residuals(x, y) for x, y in zip(exposures, panel.factors.astype(np.float64))]
        return panel.with_factors(np.stack(left).astype(np.float32), panel.factor_names)


class Select:
    """Keep named factors, or the `count` with the largest absolute rank IC on the training days.

    This is the mean daily rank IC with the first step of the target; its sign does not matter.
    """

    stateless = False
    earlier_rows = 0
    recursive = False

    def __init__(self, *, names: Sequence[str], count: int) -> None:
        if count < 1:
            raise ValueError(f"count={count}: must be at least 1")
        self.names, self.count = list(names), count

    def fit(self, panel: Panel, targets: Targets, fit_rows: slice) -> State:
        if self.names:
            missing = [name for name in self.names if name not in panel.factor_names]
            if missing:
                raise ValueError(f"processors: select names factors that do not exist: {missing}")
            return {"kept": np.array([panel.factor_names.index(name) for name in self.names])}
        last = fit_rows.stop - targets.span  # signal days whose target ends within fit_rows
        known = np.where(targets.valid[:last, 0], targets.returns[:last, 0], np.nan)
        ic = [
            _mean_rank_ic(panel.factors[:last, :, f], known) for f in range(len(panel.factor_names))
        ]
        order = np.argsort(-np.abs(np.nan_to_num(ic)), kind="stable")
        return {"kept": np.sort(order[: self.count])}

    def apply(self, panel: Panel, state: State) -> Panel:
        names = tuple(panel.factor_names[i] for i in state["kept"])
        return panel.with_factors(panel.factors[..., state["kept"]], names)


class Fill:
    """Fill unknown cells with the stock's last known value, if `forward`, and then with 0."""

    stateless = True

    def __init__(self, *, forward: bool) -> None:
        self.forward = forward
        self.earlier_rows = sys.maxsize if forward else 0
        self.recursive = forward

    def fit(self, panel: Panel, targets: Targets, fit_rows: slice) -> State:
        return {}

    def apply(self, panel: Panel, state: State) -> Panel:
        factors = panel.factors
        filled = fill_forward_then_zero(factors) if self.forward else _zero_filled(factors)
        return panel.with_factors(filled, panel.factor_names)


def _require_positive_clip(clip: float) -> None:
    if not clip > 0:
        raise ValueError(f"clip={clip}: must be above 0")


def fill_forward_then_zero(factors: np.ndarray) -> np.ndarray:
    """Each missing cell takes the stock's last known value, 0 before there is one. (T, N, F)."""
    known = ~np.isnan(factors)
    row = np.where(known, np.arange(len(factors))[:, None, None], 0)
    last = np.maximum.accumulate(row, axis=0)
    return _zero_filled(np.take_along_axis(factors, last, axis=0))


def _zero_filled(factors: np.ndarray) -> np.ndarray:
    """NaN becomes 0. Infinity stays, to be refused later: `nan_to_num` would make it a number."""
    return np.where(np.isnan(factors), np.float32(0), factors)


def _quantiles(
    factors: np.ndarray, shares: Sequence[float], around: np.ndarray | None = None
) -> np.ndarray:
    """(shares, F) quantiles of the known cells of each factor (T, N, F); NaN without any.

    around: (F,) of the absolute deviations from these values instead.
    """
    found = np.empty((len(shares), factors.shape[-1]), np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        for f in range(factors.shape[-1]):
            values = factors[..., f]
            if around is not None:
                values = np.abs(values - around[f])
            found[:, f] = np.nanquantile(values, shares)
    return found


def residuals(exposures: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Residuals of values (N, F) after least squares on exposures (N, K); NaN where unknown."""
    left = np.full(values.shape, np.nan)
    known = np.isfinite(values) & np.isfinite(exposures).all(axis=1)[:, None]
    masks, which = np.unique(known, axis=1, return_inverse=True)
    for mask, columns in ((masks[:, i], which.ravel() == i) for i in range(masks.shape[1])):
        if mask.any():
            x, y = exposures[mask], values[np.ix_(mask, columns)]
            left[np.ix_(mask, columns)] = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return left


def _log_size(panel: Panel) -> np.ndarray:
    """(T, N) log of the mean traded value of the last 20 days, over the known ones."""
    value = panel.prices["close"] * panel.prices["volume"]
    total, count = np.zeros(value.shape), np.zeros(value.shape)
    for lag in range(min(SIZE_DAYS, len(value))):
        past = value[: len(value) - lag]
        total[lag:] += np.where(np.isfinite(past), past, 0.0)
        count[lag:] += np.isfinite(past)
    mean = np.divide(total, count, out=np.full(value.shape, np.nan), where=total > 0)
    return np.log(mean)


def _mean_rank_ic(factor: np.ndarray, label: np.ndarray) -> float:
    """Mean over days of the Spearman correlation across stocks known in both (T, N) arrays."""
    known = np.isfinite(factor) & np.isfinite(label)
    a, b = (cross_sectional(np.where(known, x, np.nan), "rank", axis=1) for x in (factor, label))
    a, b = (np.where(known, x - _row_mean(x, known), 0.0) for x in (a, b))
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    days = scale > 0
    return float(((a * b).sum(axis=1)[days] / scale[days]).mean()) if days.any() else 0.0


def _row_mean(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    total = np.where(known, values, 0.0).sum(axis=1, keepdims=True)
    return total / np.maximum(known.sum(axis=1, keepdims=True), 1)
