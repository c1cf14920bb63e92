"""TensorBoard logging of a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from stockformer.evaluation.metrics import LOSSES, METRICS
from stockformer.evaluation.predictions import Predictions, daily
from stockformer.runs import atomic

NOON = pd.Timedelta(hours=12)
"""In UTC it is the same date almost everywhere, as TensorBoard shows local time."""


class TensorBoard:
    """Scalars by epoch, the config as text, the test by day, hyper-parameters with final metrics.

    The plugin "custom scalars" shows training and validation in one figure for each task.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def writer(self) -> SummaryWriter:
        """Created on first use, because only one of several processes writes."""
        writer = SummaryWriter(str(self.folder))
        figures = {
            name.replace("_", " "): ["Multiline", [f"train/{name}", f"validation/{name}"]]
            for name in LOSSES
        }
        writer.add_custom_scalars({"by task": figures})
        return writer

    def __enter__(self) -> Self:
        self.former_hook = threading.excepthook
        threading.excepthook = _left_to_the_main_thread
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if "writer" in vars(self):
                with self.named():
                    self.writer.close()
        except OSError:
            if error is None:
                raise  # otherwise `error` already reports the full disk
        finally:
            threading.excepthook = self.former_hook

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """`train_loss` is shown as train/loss, `validation_mae` as validation/mae."""
        with self.named():
            for name, value in values.items():
                part, _, rest = name.partition("_")
                tag = f"{part}/{rest}" if part in ("train", "validation") else f"run/{name}"
                self.writer.add_scalar(tag, value, epoch)
            self.writer.flush()  # so that a killed run's curves are saved

    def text(self, name: str, text: str) -> None:
        with self.named():
            self.writer.add_text(name, f"```yaml\n{text}\n```")

    def tested(self, predictions: Predictions) -> None:
        """Curves over the test dates, rank IC's distribution, precision and recall of "up".

        A curve's step is the date's number from 0, the time the signal date, so that TensorBoard's
        horizontal axis WALL, and the time beside a point, are dates.
        """
        days = daily(predictions)
        times = [
            date.timestamp() for date in pd.DatetimeIndex(days.index).tz_localize("UTC") + NOON
        ]
        with self.named():
            for name in METRICS:
                for number, value in enumerate(days[name]):
                    self.writer.add_scalar(f"test/{name}", value, number, times[number])
            rank_ic = days["rank_ic"]
            for number, value in enumerate(rank_ic.fillna(0.0).cumsum()):
                self.writer.add_scalar("test/rank_ic_cumulated", value, number, times[number])
            if rank_ic.notna().any():
                self.writer.add_histogram("test/rank_ic_by_date", rank_ic.dropna().to_numpy())
            scored = predictions.valid
            self.writer.add_pr_curve(
                "test/up", predictions.up[scored], predictions.probability[scored]
            )

    def hyper_parameters(
        self, settings: Mapping[str, str | float | bool], metrics: Mapping[str, float]
    ) -> None:
        final = {f"final/{name}": value for name, value in metrics.items()}
        with self.named():
            self.writer.add_hparams(dict(settings), final, run_name=".")

    @contextmanager
    def named(self) -> Iterator[None]:
        """Adds the folder to errors of the disk."""
        try:
            yield
        except OSError as error:
            raise atomic.not_written(self.folder, error) from error


def _left_to_the_main_thread(arguments: threading.ExceptHookArgs) -> None:
    """The next call raises the error of the writer's thread, so it is not printed as well."""
    if not issubclass(arguments.exc_type, OSError):
        threading.__excepthook__(arguments)
