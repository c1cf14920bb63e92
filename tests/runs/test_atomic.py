"""Whatever moment a process dies at, the file found is the old one or the new one, whole."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs.small_run import captured, ended, forked
from torch import nn

from stockformer.runs import atomic
from stockformer.runs.folder import RunDir
from stockformer.training.checkpoint import read_checkpoint, save_checkpoint
from stockformer.training.checkpoint_manager import CheckpointManager, TrainState
from stockformer.training.early_stopping import EarlyStopping

CRASHED = 77


class HalfWritten:
    """A file whose every write is made in two halves, with a moment between them."""

    def __init__(self, file: Any, moment: Callable[[], None]) -> None:
        self.file, self.moment = file, moment

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: bytes) -> None:
        for half in (data[: len(data) // 2], data[len(data) // 2 :]):
            self.file.write(half)
            self.file.flush()
            self.moment()


def crash_before_call(number: int) -> None:
    """End this process before its `number`-th call that opens, writes, syncs, renames, removes."""
    calls = 0

    def moment() -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            os._exit(CRASHED)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            moment()
            result = function(*arguments, **named)
            writes = arguments[1:2] in (("xb",), ("wb",))
            return HalfWritten(result, moment) if writes and hasattr(result, "write") else result

        return call

    os.fsync = counted(os.fsync)
    for name in ("open", "replace", "unlink"):
        setattr(Path, name, counted(getattr(Path, name)))


def crashes(folder: Path, write: Callable[[], object]) -> Iterator[int]:
    """Yield after `write` has crashed at each point there is, `folder` as it was before each."""
    before = folder.with_name("before")
    shutil.copytree(folder, before)
    for number in count(1):
        shutil.rmtree(folder)
        shutil.copytree(before, folder)

        def crash(number: int = number) -> None:
            crash_before_call(number)
            write()

        status, output = captured(crash)
        if status == 0:
            return
        assert status == CRASHED, output
        yield number


def save(path: Path, number: int) -> None:
    save_checkpoint(path, {"weight": torch.full((3, 2), float(number))}, {"number": number})


def number_in(path: Path) -> int:
    """Of a checkpoint that is whole. Raises ValueError where it is not."""
    tensors, facts = read_checkpoint(path)
    assert (tensors["weight"] == facts["number"]).all()
    return int(facts["number"])


def test_the_content_is_on_the_disk_before_its_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append(f"fsync {Path(f'/dev/fd/{descriptor}').resolve().name}")
        fsync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        calls.append(f"replace {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    atomic.write(tmp_path / "file", b"new")
    assert atomic.TEMPORARY.fullmatch(calls[0].removeprefix("fsync "))
    assert calls[1:] == ["replace file", f"fsync {tmp_path.name}"]


def test_a_checkpoint_is_old_or_new_at_every_crash_point(tmp_path: Path) -> None:
    path = tmp_path / "run" / "best.safetensors"
    save(path, 0)
    found = [number_in(path) for _ in crashes(path.parent, lambda: save(path, 1))]
    assert len(found) > 15
    assert set(found) == {0, 1}
    assert found == sorted(found)


def test_there_is_always_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunDir.claim(folder) as run:
        snapshots = snapshots_of(run)
        for epoch in (2, 3):  # the position is the next epoch's
            snapshots.save_epoch(position(epoch))
        found = []
        for _ in crashes(folder, lambda: snapshots.save_epoch(position(4))):
            _, facts = snapshots.newest()
            found.append(facts["train_state"]["epoch"])
            for path in run.epoch_checkpoints():
                read_checkpoint(path)
    assert len(found) > 40
    assert found == sorted(found)
    assert set(found) == {3, 4}


def test_a_run_is_readable_at_every_crash_point_of_its_settings(tmp_path: Path) -> None:
    """A resumed run writes its settings anew; killed there it can be resumed again."""
    folder = tmp_path / "run"
    old, new = ("a: 1", ["a=1"], {"a": 1}), ("a: 2", ["a=2"], {"a": 2})

    def write(settings: tuple[str, list[str], dict[str, int]]) -> None:
        run.write_config(*settings[:2])
        run.write_manifest(settings[2])

    with RunDir.claim(folder) as run:
        write(old)
        found = []
        for _ in crashes(folder, lambda: write(new)):
            found.append((*run.read_config(), run.read_manifest()))
    assert len(found) > 40
    assert {"a: 1", "a: 2"} == {config for config, _, _ in found}
    for config, words, manifest in found:
        assert config in (old[0], new[0])
        assert words in (old[1], new[1])
        assert manifest in (old[2], new[2])


def test_a_status_is_old_or_new_at_every_crash_point(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunDir.claim(folder) as run:
        found = {run.status()["state"] for _ in crashes(folder, lambda: run.end("finished", ""))}
    assert found == {"running", "finished"}


def killed_while_saving(path: Path, random: np.random.Generator) -> int:
    """Save 1, 2, 3, … in a child until it is killed; the number found."""

    def save_on() -> None:
        for number in count(number_in(path) + 1):
            save(path, number)

    before = number_in(path)
    child = forked(save_on, 1)
    while number_in(path) == before:  # on a busy machine the first save may take long
        time.sleep(0.001)
    time.sleep(random.uniform(0.0, 0.05))
    os.kill(child, signal.SIGKILL)
    assert ended(child) == 128 + signal.SIGKILL
    return number_in(path)


def test_a_checkpoint_is_read_whole_while_it_is_being_replaced(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save(path, 0)

    def save_on() -> None:
        for number in count(1):
            save(path, number)

    child = forked(save_on, 1)
    try:
        found = [0]
        while len(set(found)) < 20:
            found.append(number_in(path))
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child)
    assert found == sorted(found)


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.full)])
def test_no_checkpoint_is_unreadable_after_random_kills(tmp_path: Path, kills: int) -> None:
    path, random = tmp_path / "best.safetensors", np.random.default_rng(0)
    save(path, 0)
    found = [killed_while_saving(path, random) for _ in range(kills)]
    assert found == sorted(found)
    assert found[-1] >= kills  # they were killed while saving, not before


def snapshots_of(run: RunDir) -> CheckpointManager:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    return CheckpointManager(
        run=run,
        model=model,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
        stopping=EarlyStopping(patience=3, min_delta=0, higher_is_better=False),
        every=1,
        keep=1,
        facts={},
    )


def position(epoch: int) -> TrainState:
    return TrainState(micro_batch_size=4, requested_micro_batch_size=4, epoch=epoch)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_file_is_refused_by_name_and_left_closed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/hostname")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match=r"status\.json: cannot be read: (not a file|a link)"):
        atomic.read(path)
    assert len(os.listdir("/proc/self/fd")) == before
