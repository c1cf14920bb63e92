"""A run's checkpoints: the complete state for an exact resume, and how to find it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from stockformer.runs import atomic
from stockformer.runs.folder import RunDir
from stockformer.runs.typed_json import ANY_FLOAT, Form, require
from stockformer.training.checkpoint import (
    FITTED,
    TRAINING,
    keep_copy,
    read_checkpoint,
    save_checkpoint,
    weights,
)
from stockformer.training.early_stopping import EarlyStopping
from stockformer.training.state import (
    RANDOM,
    load_optimizer_state,
    optimizer_state,
    random_state,
    require_alike,
    set_random_state,
)

log = logging.getLogger(__name__)

IN_TENSORS = ("sums", "counts", "random")
STATE: Form = {
    "epoch": int,
    "train_state": {
        **dict.fromkeys(
            ("micro_batch_size", "requested_micro_batch_size", "epoch", "step", "skipped"), int
        ),
        "seconds": ANY_FLOAT,
        "best": (ANY_FLOAT, None),
        "history": [{str: ANY_FLOAT}],
    },
    "optimizer": {"groups": [{str: object}], "plain": {str: ANY_FLOAT}},
    "scheduler": {str: object},
    "stopping": {str: ANY_FLOAT},
}
"""The facts of a checkpoint that training can resume from."""


@dataclass
class TrainState:
    """Progress of a training: `step` steps of `epoch` are done.

    sums, counts (K,): of the epoch's losses, kept on the device. random: every generator's state.
    """

    micro_batch_size: int
    requested_micro_batch_size: int  # the configured size
    epoch: int = 1
    step: int = 0
    seconds: float = 0.0  # time of these steps
    skipped: int = 0  # steps of the whole run that were skipped as not finite
    best: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)  # the rows of metrics.csv
    sums: Tensor = field(default_factory=lambda: torch.zeros(1))
    counts: Tensor = field(default_factory=lambda: torch.zeros(1))
    random: dict[str, Tensor] = field(default_factory=random_state)

    def add_step(self, sums: Tensor, counts: Tensor) -> None:
        """Count a step, with its sums and counts; the previous sums may be on another device."""
        if self.sums.shape not in ((1,), sums.shape):
            raise ValueError("the checkpoint to resume from holds the sums of another loss")
        self.sums = self.sums.to(sums.device) + sums
        self.counts = self.counts.to(counts.device) + counts
        self.step += 1
        self.random = random_state()

    def next_epoch(self) -> None:
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.sums, self.counts = torch.zeros(1), torch.zeros(1)
        self.random = random_state()  # validation may have drawn random numbers

    def split(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors, by their names in a checkpoint, and the rest as JSON."""
        tensors = {f"{TRAINING}{name}": getattr(self, name) for name in ("sums", "counts")}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in IN_TENSORS}
        return tensors | self.random, plain

    @classmethod
    def join(cls, tensors: dict[str, Tensor], plain: dict[str, Any]) -> Self:
        """The inverse of `split`. Raises various errors for invalid content."""
        if (
            min(plain["micro_batch_size"], plain["requested_micro_batch_size"], plain["epoch"]) < 1
            or plain["step"] < 0
        ):
            raise ValueError("a state before the first step")
        return cls(
            **plain,
            sums=tensors[f"{TRAINING}sums"],
            counts=tensors[f"{TRAINING}counts"],
            random={name: t for name, t in tensors.items() if name.startswith(RANDOM)},
        )


class CheckpointManager:
    """Writes and reads the checkpoints of one run.

    best: the weights of the best epoch. last: weights and state, to resume from; previous: the one
    before it. epoch-N: kept every `every` epochs (0: never), the newest `keep` of them. facts:
    needed to use the weights again.
    """

    def __init__(
        self,
        *,
        run: RunDir,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        stopping: EarlyStopping,
        every: int,
        keep: int,
        facts: dict[str, Any],
    ) -> None:
        self.run, self.model = run, model
        self.optimizer, self.scheduler, self.stopping = optimizer, scheduler, stopping
        self.every, self.keep, self.facts = every, keep, facts | {"run": run.id}

    def save_best(self, epoch: int, metrics: Mapping[str, float]) -> None:
        save_best(self.run, self.model, self.facts, epoch, metrics)

    def save_epoch(self, state: TrainState) -> None:
        """At an epoch's end: `epoch-N` if it is due, then `last`.

        `last` is written last: a run killed before it repeats the epoch and all of this.
        """
        epoch = state.epoch - 1
        if self.every and epoch % self.every == 0:
            self.save(self.run.checkpoint(f"epoch-{epoch}"), state)
            for old in self.run.epoch_checkpoints()[: -self.keep]:
                old.unlink()
                atomic.digest_file(old).unlink(missing_ok=True)
        last = self.run.checkpoint("last")
        keep_copy(last, self.run.checkpoint("previous"))
        self.save(last, state)

    def save(self, path: Path, state: TrainState) -> None:
        """Write a checkpoint to resume from at `state`."""
        tensors, plain = state.split()
        optimizer_tensors, optimizer = optimizer_state(self.optimizer)
        facts = self.facts | {
            "epoch": state.epoch - 1,  # the last complete epoch
            "train_state": plain,
            "optimizer": optimizer,
            "scheduler": self.scheduler.state_dict(),
            "stopping": vars(self.stopping),
        }
        tensors |= self.model.state_dict() | optimizer_tensors
        save_checkpoint(path, tensors, facts)

    def resume(self) -> TrainState:
        """Restore model, optimizer, scheduler and early stopping from `last`, else `previous`.

        Raises ValueError if there is no valid checkpoint.
        """
        tensors, facts = self.newest()
        where = f"{self.run.path}/checkpoints/{facts['name']}.safetensors"
        require(facts, STATE, where)
        if facts["train_state"]["best"] is not None:
            best = self.run.checkpoint("best")
            of_best = read_checkpoint(best)[1]  # without it the run could not be tested
            self.require_ours(best, of_best)
            require(of_best, FITTED, str(best))
        patience = self.stopping.patience
        try:
            self.model.load_state_dict(weights(tensors))
            load_optimizer_state(self.optimizer, tensors, facts["optimizer"])
            require_alike(self.scheduler.state_dict(), facts["scheduler"], "scheduler")
            self.scheduler.load_state_dict(facts["scheduler"])
            require_alike(vars(self.stopping), facts["stopping"], "stopping")
            vars(self.stopping).update(facts["stopping"] | {"patience": patience})
            state = TrainState.join(tensors, facts["train_state"])
            set_random_state(state.random)
        except torch.OutOfMemoryError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"{where}: not a state to resume from: {error}") from error
        except RuntimeError as error:  # torch's, of shapes and kinds
            reason = " ".join(str(error).split())
            raise ValueError(f"{where}: not a state to resume from: {reason}") from error
        return state

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        for name in ("last", "previous"):
            path = self.run.checkpoint(name)
            if not path.exists():
                continue
            try:
                tensors, facts = read_checkpoint(path)
            except ValueError as error:
                log.warning("%s; trying the previous checkpoint", error)
                continue
            self.require_ours(path, facts)
            return tensors, facts
        raise ValueError(f"{self.run.path}: no valid checkpoint to resume from; start a new run")

    def require_ours(self, path: Path, facts: Mapping[str, Any]) -> None:
        if facts.get("run") != self.facts["run"]:
            raise ValueError(f"{path}: is a checkpoint of another run, {facts.get('run')}")


def save_best(
    run: RunDir,
    model: nn.Module,
    facts: Mapping[str, Any],
    epoch: int,
    metrics: Mapping[str, float],
) -> None:
    """Write the run's checkpoint `best`. metrics: of the validation days."""
    facts = {**facts, "epoch": epoch, "validation": dict(metrics), "run": run.id}
    save_checkpoint(run.checkpoint("best"), model.state_dict(), facts)
