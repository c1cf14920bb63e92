"""What TensorBoard is shown of a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from stockformer import atomic


class TensorBoard:
    """Scalars by epoch, the config as text, hyper-parameters with the final metrics."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def writer(self) -> SummaryWriter:
        """Made when there is something to write: of several processes one writes."""
        return SummaryWriter(str(self.folder))

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
                raise  # else the disk was full before, which `error` says
        finally:
            threading.excepthook = self.former_hook

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """`train_loss` is shown as train/loss, `validation_mae` as validation/mae."""
        with self.named():
            for name, value in values.items():
                part, _, rest = name.partition("_")
                tag = f"{part}/{rest}" if part in ("train", "validation") else f"run/{name}"
                self.writer.add_scalar(tag, value, epoch)
            self.writer.flush()  # a killed run's curves are there

    def text(self, name: str, text: str) -> None:
        with self.named():
            self.writer.add_text(name, f"```yaml\n{text}\n```")

    def hyper_parameters(
        self, settings: Mapping[str, str | float | bool], metrics: Mapping[str, float]
    ) -> None:
        final = {f"final/{name}": value for name, value in metrics.items()}
        with self.named():
            self.writer.add_hparams(dict(settings), final, run_name=".")

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors of the disk say where they happened."""
        try:
            yield
        except OSError as error:
            raise atomic.not_written(self.folder, error) from error


def _left_to_the_main_thread(arguments: threading.ExceptHookArgs) -> None:
    """The writer's thread hands its error to the next call here; it need not be printed as well."""
    if not issubclass(arguments.exc_type, OSError):
        threading.__excepthook__(arguments)
