"""What TensorBoard is shown of a run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Scalars by epoch, the config as text, hyper-parameters with the final metrics."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def writer(self) -> SummaryWriter:
        """Made when there is something to write: of several processes one writes."""
        return SummaryWriter(str(self.folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if "writer" in vars(self):
            self.writer.close()

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """`train_loss` is shown as train/loss, `validation_mae` as validation/mae."""
        for name, value in values.items():
            part, _, rest = name.partition("_")
            tag = f"{part}/{rest}" if part in ("train", "validation") else f"run/{name}"
            self.writer.add_scalar(tag, value, epoch)
        self.writer.flush()  # a killed run's curves are there

    def text(self, name: str, text: str) -> None:
        self.writer.add_text(name, f"```yaml\n{text}\n```")

    def hyper_parameters(
        self, settings: Mapping[str, str | float | bool], metrics: Mapping[str, float]
    ) -> None:
        final = {f"final/{name}": value for name, value in metrics.items()}
        self.writer.add_hparams(dict(settings), final, run_name=".")
