"""The data of an experiment: the panel, its targets, and the days of each part of the split."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockformer.data.factors.processors import Processor, State
from stockformer.data.panel import Panel
from stockformer.data.reading.quality import Report
from stockformer.data.splits import Split
from stockformer.data.targets import Targets
from stockformer.data.windows import Windows

log = logging.getLogger(__name__)

BLOCK_CELLS = 8 << 20  # days x stocks x factors processed at a time
DESCRIBED = ("stateless", "earlier_rows", "recursive")  # what each processor says of itself
NewArray = Callable[[tuple[int, ...], type[np.float32]], np.ndarray]


@dataclass(frozen=True)
class FittedPreprocessing:
    """Preprocessing fitted on a run's training days, as stored in its checkpoint."""

    factor_names: tuple[str, ...]
    states: Mapping[str, Mapping[str, list[Any]]]
    target_scale: float

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> FittedPreprocessing:
        return cls(tuple(facts["factor_names"]), facts["processors"], facts["target_scale"])

    def state(self, name: str, fitted_here: State, factor_names: tuple[str, ...]) -> State:
        """The recorded state of a processor; its form must equal that of the state fitted here."""
        try:
            recorded = self.states[name]
            state = {k: np.asarray(recorded[k], dtype=a.dtype) for k, a in fitted_here.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"processors.{name}: differs from the checkpoint: {error}") from error
        if any(state[key].shape != array.shape for key, array in fitted_here.items()):
            missing = sorted(set(self.factor_names) - set(factor_names))
            raise ValueError(
                f"processors.{name}: fitted on other factors than the {len(factor_names)} here"
                + (f", which lack {', '.join(missing[:5])}" if missing else "")
            )
        return state


@dataclass(frozen=True)
class Dataset:
    """A panel as a model's input, with its targets and split.

    unprocessed: the panel before the processors, with unknown cells still NaN. states: the fitted
    state of each processor. prepared_factors: whether the factors come with the source instead of
    being computed here. notes: caveats that every report on these data must show.
    """

    name: str
    panel: Panel
    targets: Targets
    split: Split
    windows: Windows
    states: dict[str, State]
    unprocessed: Panel
    prepared_factors: bool
    notes: tuple[str, ...]

    def log_findings(self, report: Report) -> None:
        """Log every note, and every warning on the data."""
        for note in self.notes:
            log.warning("note: %s", note)
        if self.panel.findings:
            for line in report.lines():
                if line not in self.panel.notes:  # just logged
                    log.info("%s", line)


def days_at_once(cells: int) -> int:
    """How many days of so many cells are worked on together."""
    return max(1, BLOCK_CELLS // max(1, cells))


def apply_processors(
    panel: Panel,
    processors: Mapping[str, Processor],
    targets: Targets,
    fit_rows: slice,
    fitted: FittedPreprocessing | None = None,
    rows: slice | None = None,
    new_array: NewArray = np.empty,
    work: np.ndarray | None = None,
) -> tuple[Panel, dict[str, State]]:
    """The panel after each processor, fitted on `fit_rows` of what the one before made of it, and
    the fitted states; with `fitted` those of a run instead.

    rows: the only ones that are wanted; where nothing is fitted, the others are left at 0.
    new_array: makes an array for the factors, such as a map of a file. They are processed by blocks
    of days, so that no other array of their size is made. work: the panel's own array of factors,
    where it may be overwritten.
    """
    states: dict[str, State] = {}
    whole, first = panel, 0
    for name, processor in processors.items():
        _require_described(name, processor)
    if rows is not None and all(processor.stateless for processor in processors.values()):
        first = max(0, rows.start - sum(each.earlier_rows for each in processors.values()))
        panel = panel.between(first, rows.stop)
    for name, processor in processors.items():
        states[name] = processor.fit(panel, targets, fit_rows)
        if fitted is not None:
            states[name] = fitted.state(name, states[name], panel.factor_names)
        panel = _by_blocks(panel, processor, states[name], work, new_array)
        work = panel.factors
    if len(panel.dates) < len(whole.dates):
        factors = np.zeros((*whole.returns.shape, len(panel.factor_names)), np.float32)
        factors[first : first + len(panel.dates)] = panel.factors
        panel = whole.with_factors(factors, panel.factor_names)
    return panel, states


def _require_described(name: str, processor: Processor) -> None:
    """Raises ValueError if a class of the user's does not say which rows a row depends on."""
    lacking = [each for each in DESCRIBED if not hasattr(processor, each)]
    if lacking:
        raise ValueError(
            f"processors.{name}: {type(processor).__name__} has no attribute {lacking[0]!r}; a "
            f"processor must have {', '.join(DESCRIBED)}, see docs/extending.md"
        )


def _by_blocks(
    panel: Panel,
    processor: Processor,
    state: State,
    work: np.ndarray | None,
    new_array: NewArray,
) -> Panel:
    """The panel after one processor, by blocks of days.

    work: the panel's own array of factors, where it may be overwritten.
    """
    days, *others = panel.factors.shape
    context = 1 if processor.recursive else processor.earlier_rows
    in_place = work is not None and (processor.recursive or not context)
    out, names = work if in_place else None, panel.factor_names
    size = days_at_once(math.prod(others))
    for first in range(0, days, size):
        stop, start = min(first + size, days), max(0, first - context)
        block = panel.between(start, stop)
        if processor.recursive and out is not None and start < first:
            earlier = out[start:first]
            factors = np.concatenate([earlier, panel.factors[first:stop]])
            block = block.with_factors(factors, names)
        made = processor.apply(block, state)
        if out is None or out.shape[-1] != len(made.factor_names):
            out = new_array((days, others[0], len(made.factor_names)), np.float32)
        names = made.factor_names
        out[first:stop] = made.factors[first - start :]
    return panel.with_factors(panel.factors if out is None else out, names)


def training_days(split: Split, targets: Targets) -> slice:
    """The rows that may be used for fitting: up to the end of the last training target."""
    return slice(0, int(split.train[-1]) + targets.span + 1)


def require_known(panel: Panel) -> None:
    """Raise ValueError unless all factors are finite: a model has no input for "unknown"."""
    unknown = np.zeros(len(panel.factor_names), bool)
    for day in panel.factors:
        unknown |= ~np.isfinite(day).all(axis=0)
    if unknown.any():
        names = [name for name, some in zip(panel.factor_names, unknown) if some]
        raise ValueError(
            f"factors with unknown or infinite cells after processing: {names[:5]}; end the "
            "processors with a fill, e.g. processors=rank"
        )
