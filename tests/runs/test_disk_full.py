"""A full or read-only disk: the last checkpoint stays whole, and one line says what is missing."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs.small_run import SmallRuns, captured, train_main

from stockformer.runs.folder import RunDir
from stockformer.training.checkpoint import read_checkpoint
from stockformer.training.tensorboard import TensorBoard

# Bytes a file may have: nothing fits, the status does, the settings, the log, all but a checkpoint.
SHORT = (5000,)
SIZES = (0, 300, 50_000, 1, 100, 200, 500, 800, 1200, 2000, 3000, 4000, 6000, 8000, 10_000)
SIZES = (*SIZES, 14_000, 18_000, 22_000, 26_000, 30_000, 35_000, 40_000, 45_000)


@pytest.fixture(scope="module")
def saved(small: SmallRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch, to be trained on."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    small.run(folder, "trainer.max_epoch=1")
    return folder


def train(*words: str, file_size: int = resource.RLIM_INFINITY) -> tuple[int, str]:
    """The command, in a process whose files may have `file_size` bytes."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        train_main([*words])

    return captured(limited)


def require_told(folder: Path, status: int, output: str) -> None:
    """One error line that names a file, no traceback, and no temporary file."""
    assert status == 1, output
    assert "Traceback" not in output
    assert "Exception ignored" not in output
    (line,) = (line for line in output.splitlines() if line.startswith("error:"))
    assert str(folder) in line
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    "size", [*SHORT, *(pytest.param(size, marks=pytest.mark.full) for size in SIZES)]
)
def test_the_last_checkpoint_outlives_a_full_disk(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(saved, tmp_path / "run"))
    before, _ = read_checkpoint(RunDir(folder).checkpoint("last"))
    words = (f"resume={folder}", "trainer.max_epoch=3")
    status, output = train(*words, file_size=size)
    require_told(folder, status, output)
    tensors, facts = read_checkpoint(RunDir(folder).checkpoint("last"))
    assert facts["epoch"] == 1
    assert all(tensor.equal(before[name]) for name, tensor in tensors.items())
    status, output = train(*words)
    assert status == 0, output


@pytest.mark.parametrize("size", [0, pytest.param(3000, marks=pytest.mark.full)])
def test_a_start_on_a_full_disk_is_refused(
    small: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    status, output = train(*small.words(f"hydra.run.dir={folder}"), file_size=size)
    require_told(folder, status, output)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_while_training(small: SmallRuns, saved: Path, disk: Path) -> None:
    """Every epoch's checkpoint is kept until there is no space."""
    folder = Path(shutil.copytree(saved, disk / "run"))
    words = (f"resume={folder}", "trainer.max_epoch=99", "trainer.keep_every=1", "trainer.keep=99")
    status, output = train(*words)
    require_told(folder, status, output)
    assert "No space left on device" in output
    run = RunDir(folder)
    for path in (run.checkpoint("best"), run.checkpoint("previous"), run.checkpoint("last")):
        assert read_checkpoint(path)[1]["epoch"] >= 1
    for path in run.epoch_checkpoints():
        read_checkpoint(path)


def test_a_read_only_disk_is_refused_and_left_as_it_is(
    small: SmallRuns, saved: Path, disk: Path
) -> None:
    folder = Path(shutil.copytree(saved, disk / "run"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for words in (
        [f"resume={folder}", "trainer.max_epoch=3"],
        small.words(f"hydra.run.dir={disk}/new"),
    ):
        status, output = train(*words)
        require_told(disk, status, output)
        assert "Read-only file system" in output
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert not (disk / "new").exists()


def test_the_curves_writer_fails_in_one_line_too(tmp_path: Path) -> None:
    """It writes in a thread of its own."""

    def write() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            with TensorBoard(tmp_path) as tensorboard:
                tensorboard.text("config", "x" * 5000)
                for epoch in range(100):
                    tensorboard.scalars(epoch, {"train_loss": 1.0})
        except OSError as error:
            sys.exit(f"error: {error}")

    require_told(tmp_path, *captured(write))
