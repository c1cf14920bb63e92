"""A week of the weekly loop: its days, its warm start, and the challenger's test.

No model is compared on days that it, or the other one, was fitted or selected on. A champion that
was promoted was selected by the days of that test too, so these do not count either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from stockformer.data.factors import library
from stockformer.data.panel import Panel
from stockformer.data.targets import Targets
from stockformer.evaluation.paired_test import (
    MAX_CHANGED,
    Level,
    PairedTest,
    changed_share,
    paired_test,
)
from stockformer.evaluation.predictions import Predictions
from stockformer.experiment import read_panel, targets_of
from stockformer.runs.description import last_day_used
from stockformer.runs.folder import RunDir
from stockformer.runs.forecasting import panel_of_run, require_complete
from stockformer.runs.recorded_run import read_run
from stockformer.runs.reopen import configuration, reopen


@dataclass(frozen=True)
class Champion:
    """The run that challengers are compared with.

    selected_until: the last day of the test that promoted it, ISO; empty for the first champion.
    """

    path: Path
    selected_until: str

    def last_day_used(self) -> str:
        """The last day that it was fitted on or selected by, in its training or its promotion."""
        split = RunDir(self.path).read_manifest("split")["split"]
        return max(last_day_used(split), self.selected_until)


@dataclass(frozen=True)
class Week:
    """What a week trains on and tests; dates are ISO.

    date: the newest day of the data. days: test days with an outcome. warm_start: the run whose
    weights the training starts from; None: from random ones, because of `without_warm_start`.
    """

    date: str
    validation_start: str
    test_start: str
    days: int
    warm_start: Path | None
    without_warm_start: str

    @property
    def split(self) -> list[str]:
        """The words of a command line for its split."""
        return [
            "split=dates",
            f"split.validation_start={self.validation_start}",
            f"split.test_start={self.test_start}",
        ]


def plan_week(
    config: DictConfig,
    champion: Champion | None,
    former: Sequence[Path],
    test_days: int,
    validation_days: int,
) -> Week:
    """The week that the data of `config` end with.

    The test is the last `test_days` days with an outcome that the champion has not seen; the
    validation the `validation_days` before. former: earlier champions, the newest first: the
    training starts from the first of champion and former ones that has not seen these days.

    Raises ValueError where the newest day is incomplete, there are too few days, or the champion is
    of another target or other data.
    """
    panel = read_panel(config)
    targets = targets_of(config, panel)
    newest = len(panel.dates) - 1
    remedy = "Run the week when the day is over and all its prices are there"
    require_complete(panel.dates, np.isfinite(panel.returns), newest, remedy)
    test = len(panel.dates) - targets.span - test_days
    if champion is not None:
        require_same_subject(champion.path, config, panel, targets)
        seen = np.datetime64(champion.last_day_used())
        test = max(test, int(np.searchsorted(panel.dates, seen)))
    validation = test - targets.span - validation_days
    if validation <= 0:
        raise ValueError(
            f"{len(panel.dates)} days of data, to {panel.dates[-1]}, are too few for "
            f"test_days={test_days} and validation_days={validation_days} and a training before"
        )
    start = str(panel.dates[validation])
    candidates = [] if champion is None else [champion.path, *former]
    reasons = {path: why_not_from(path, config, panel, start) for path in candidates}
    return Week(
        date=str(panel.dates[-1]),
        validation_start=start,
        test_start=str(panel.dates[min(test, newest)]),
        days=max(0, newest + 1 - targets.span - test),
        warm_start=next((path for path, reason in reasons.items() if not reason), None),
        without_warm_start=reasons[champion.path] if champion is not None else "no champion yet",
    )


def require_same_subject(run: Path, config: DictConfig, panel: Panel, targets: Targets) -> None:
    """Raises ValueError if the run has another target than `config`, or was tested on other data.

    Of its test days the outcomes are compared: corrections of some days are accepted.
    """
    recorded = read_run(run).predictions
    if recorded is None:
        raise ValueError(f"{run}: not a finished run: it has no test predictions")
    if configuration(RunDir(run)).target != config.target:
        raise ValueError(
            f"{run}: the champion has another target than these settings, so they cannot be "
            "compared; name a new folder with champion="
        )
    rows = pd.Index(panel.dates).get_indexer(pd.Index(recorded.signal_dates))
    stocks = pd.Index(panel.tickers).get_indexer(pd.Index(recorded.tickers))
    known = (rows[:, None, None] >= 0) & (stocks >= 0) & recorded.valid
    now, valid = (each[rows][..., stocks] for each in (targets.returns, targets.valid))
    changed = changed_share(recorded.label, now, known & valid)
    if changed > MAX_CHANGED or (rows < 0).mean() > MAX_CHANGED:
        what = f"{changed:.0%} of the returns" if (rows >= 0).all() else "days"
        raise ValueError(
            f"{run}: the champion was trained on other data: {what} of its test days, "
            f"{recorded.signal_dates[0]} to {recorded.signal_dates[-1]}, are others now; name its "
            "data, or a new folder with champion="
        )


def why_not_from(run: Path, config: DictConfig, panel: Panel, validation_start: str) -> str:
    """Why the run cannot be the warm start of a training; empty if it can."""
    if not run.is_dir():
        return "its folder is gone"
    manifest = RunDir(run).read_manifest("split", "tickers", "factor_names")
    used = last_day_used(manifest["split"])
    if used > validation_start:
        return f"that has seen days up to {used}, and the validation begins on {validation_start}"
    if manifest["tickers"] != panel.tickers.tolist():
        return "it has other stocks"
    names = library.expand(config.dataset.factors) or panel.factor_names
    if manifest["factor_names"] != list(names):
        return "it has other factors"
    if configuration(RunDir(run)).model != config.model:
        return "it has another model"
    return ""


def challenge(
    champion: Champion, challenger: Path, week: Week, data: Sequence[str], level: Level
) -> PairedTest:
    """The test of a finished run against the champion, on the days of the run's own test.

    data: words of a command line that name the data, for the champion. Raises ValueError if a day
    was seen by one of them, or the folder of one is damaged.
    """
    run = read_run(challenger)
    if run.status.state != "finished" or run.predictions is None:
        raise ValueError(f"{challenger}: not a finished run")
    trained = reopen(champion.path, [*data, *week.split])
    panel, _, _ = panel_of_run(trained)
    theirs = trained.experiment(panel).evaluate_part("test").predictions
    ours_used = last_day_used(RunDir(challenger).read_manifest("split")["split"])
    for predictions in (run.predictions, theirs):
        require_unseen(
            predictions, {challenger: ours_used, champion.path: champion.last_day_used()}
        )
    return paired_test(run.predictions, theirs, level)


def require_unseen(predictions: Predictions, used: dict[Path, str]) -> None:
    """Raises ValueError if a run was fitted or selected on days after the first signal date.

    used: the last such day of each run.
    """
    first = str(predictions.signal_dates[0])
    for path, last in used.items():
        if last > first:
            raise ValueError(
                f"{path}: fitted or selected on days up to {last}; a comparison from {first} on "
                "would not be out of sample"
            )
