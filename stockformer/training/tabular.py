"""Fits a tabular model on the training days; the validation days choose among its candidates."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from stockformer.data.windows import Windows
from stockformer.evaluation.metrics import MONITORS
from stockformer.interface import Batch
from stockformer.models.tabular import Tabular
from stockformer.runs.folder import AfterEpoch, RunDir
from stockformer.training.checkpoint import load_checkpoint
from stockformer.training.checkpoint_manager import save_best
from stockformer.training.early_stopping import EarlyStopping
from stockformer.training.evaluate import Evaluation, Evaluator
from stockformer.training.losses import Loss
from stockformer.training.memory import peak_memory_mib
from stockformer.training.progress import working
from stockformer.training.tensorboard import TensorBoard

log = logging.getLogger(__name__)

WINDOWS_AT_ONCE = 32


class TabularTrainer:
    """Leaves in the run's folder what the loop leaves of one epoch: the best candidate's metrics
    and its checkpoint. A fit that is interrupted begins again; a finished one is kept.

    Arguments as those of `Trainer`; seed: of what the model draws.
    """

    def __init__(
        self,
        *,
        model: Tabular,
        loss: Loss,
        evaluator: Evaluator,
        run: RunDir,
        facts: dict[str, Any],
        tensorboard: TensorBoard,
        monitor: str,
        seed: int,
        after_epoch: AfterEpoch | None = None,
    ) -> None:
        self.model, self.loss, self.evaluator = model, loss, evaluator
        self.run, self.facts, self.tensorboard = run, facts, tensorboard
        self.monitor, self.seed, self.after_epoch = monitor, seed, after_epoch
        self.kept: float | None = None  # the result of a finished fit

    def fit(self, train: DataLoader[Batch], validation: DataLoader[Batch]) -> float:
        """Returns the best validation value of the monitored metric.

        Raises FloatingPointError if it is defined for no candidate, or a forecast is not finite.
        """
        if self.kept is not None:
            return self.kept
        started = time.perf_counter()
        choice = EarlyStopping(
            patience=1,
            min_delta=0.0,
            higher_is_better=bool(MONITORS[self.monitor].higher_is_better),
        )
        best: Evaluation | None = None
        for candidate in self.candidates(train):
            found = self.evaluator.evaluate(self.model, self.loss, validation)
            value = found.metrics[self.monitor]
            log.info("%s: validation %s %.6g", candidate, self.monitor, value)
            if choice.better(value):
                best, state = found, {k: v.clone() for k, v in self.model.state_dict().items()}
        if best is None:
            raise FloatingPointError(
                f"no candidate had a defined validation {self.monitor}: no valid target, or the "
                "same forecast for all stocks; check the validation days or trainer.monitor"
            )
        self.model.load_state_dict(state)
        fitted = self.evaluator.evaluate(self.model, self.loss, self.in_order(train))
        row = self.row(fitted, best) | {"seconds": time.perf_counter() - started}
        save_best(self.run, self.model, self.facts, epoch=1, metrics=best.metrics)
        self.run.write_metrics([{"epoch": 1} | row])  # last: with it the fit is finished
        self.tensorboard.scalars(1, row)
        if self.after_epoch is not None:
            self.after_epoch(1, best.metrics)
        return best.metrics[self.monitor]

    def resume(self) -> None:
        """Load the fit of the run's folder, if it is finished."""
        if not self.run.trained():
            log.info("resumed before the fit was finished: starting at the beginning")
            return
        names = tuple(self.facts["factor_names"])
        facts = load_checkpoint(self.run.checkpoint("best"), self.model, names)
        self.kept = float(facts["validation"][self.monitor])
        log.info("resumed after the fit")

    def candidates(self, train: DataLoader[Batch]) -> Iterator[str]:
        with working("fitting the model"):
            table = self.model.table(self.in_order(train))
            if not table.valid.any(axis=0).all():
                raise ValueError("a step has no valid target on the training days")
            self.model.learn_distribution(table)
        yield from self.model.candidates(table, self.seed)

    def in_order(self, train: DataLoader[Batch]) -> Iterator[Batch]:
        """The windows of the training days by date, not in the loop's random order."""
        windows = train.dataset
        assert isinstance(windows, Windows)
        for first in range(0, len(windows), WINDOWS_AT_ONCE):
            yield windows[range(first, min(first + WINDOWS_AT_ONCE, len(windows)))]

    def row(self, fitted: Evaluation, validated: Evaluation) -> dict[str, float]:
        """As of an epoch of `Trainer`, without what only a loop has."""
        names = ("loss", "regression_loss", "classification_loss")
        return {
            **{f"train_{name}": fitted.metrics[name] for name in names},
            **{f"validation_{name}": validated.metrics[name] for name in MONITORS},
            "peak_memory_mib": peak_memory_mib(self.evaluator.device),
        }
