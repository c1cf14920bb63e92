"""The data of an experiment: the panel, its targets, and the days of each part of the split."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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


def apply_processors(
    panel: Panel,
    processors: Mapping[str, Processor],
    targets: Targets,
    fit_rows: slice,
    fitted: FittedPreprocessing | None = None,
    rows: slice | None = None,
) -> tuple[Panel, dict[str, State]]:
    """The panel after each processor, fitted on `fit_rows` of what the one before made of it, and
    the fitted states; with `fitted` those of a run instead.

    rows: the only ones that are wanted; where nothing is fitted, the others are left at 0.
    """
    states: dict[str, State] = {}
    whole, first = panel, 0
    if rows is not None and all(processor.stateless for processor in processors.values()):
        first = max(0, rows.start - sum(each.earlier_rows for each in processors.values()))
        panel = panel.between(first, rows.stop)
    for name, processor in processors.items():
        states[name] = processor.fit(panel, targets, fit_rows)
        if fitted is not None:
            states[name] = fitted.state(name, states[name], panel.factor_names)
        panel = processor.apply(panel, states[name])
    if len(panel.dates) < len(whole.dates):
        factors = np.zeros((*whole.returns.shape, len(panel.factor_names)), np.float32)
        factors[first : first + len(panel.dates)] = panel.factors
        panel = whole.with_factors(factors, panel.factor_names)
    return panel, states


def training_days(split: Split, targets: Targets) -> slice:
    """The rows that may be used for fitting: up to the end of the last training target."""
    return slice(0, int(split.train[-1]) + targets.span + 1)


def require_known(panel: Panel) -> None:
    """Raise ValueError unless all factors are finite: a model has no input for "unknown"."""
    unknown = ~np.isfinite(panel.factors).all(axis=(0, 1))
    if unknown.any():
        names = [name for name, some in zip(panel.factor_names, unknown) if some]
        raise ValueError(
            f"factors with unknown or infinite cells after processing: {names[:5]}; end the "
            "processors with a fill, e.g. processors=rank"
        )
