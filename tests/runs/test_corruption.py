"""What is damaged is noticed by name, and a run goes on from what is not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from runs.small_run import Clock, SmallRuns, Stopped, differences
from safetensors.torch import save_file

from stockformer.runs import atomic
from stockformer.runs.folder import RunDir
from stockformer.runs.resume import continued
from stockformer.training.checkpoint import read_checkpoint


@pytest.fixture(scope="module")
def stopped(small: SmallRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted in its third epoch."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        clock.stop_at(48)
        with pytest.raises(Stopped):
            small.run(folder)
    assert read_checkpoint(RunDir(folder).checkpoint("last"))[1]["train_state"]["epoch"] == 3
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> RunDir:
    """A copy of it to be damaged."""
    return RunDir(Path(shutil.copytree(stopped, tmp_path / "run")))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def forget(path: Path) -> None:
    atomic.digest_file(path).unlink()


def swap(path: Path) -> None:
    """With another of the run, digest and all."""
    other = path.with_name("best.safetensors")
    shutil.copy(other, path)
    atomic.digest_file(path).write_text(atomic.digest_file(other).read_text())


@pytest.mark.parametrize("damage", [flip, cut, empty, remove, forget, swap])
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before_it(
    small: SmallRuns, whole: Path, run: RunDir, damage: Callable[[Path], None]
) -> None:
    damage(run.checkpoint("last"))
    small.run(run.path)
    said = run.log_file.read_text()
    if damage is not remove:
        assert "last.safetensors" in said
        assert "trying the previous checkpoint" in said
    assert "resumed after step 0 of epoch 2" in said
    assert not differences(whole, run.path)


def test_a_run_without_a_sound_checkpoint_is_refused(small: SmallRuns, run: RunDir) -> None:
    flip(run.checkpoint("last"))
    cut(run.checkpoint("previous"))
    with pytest.raises(ValueError, match="no valid checkpoint to resume from; start a new run"):
        small.run(run.path)


def test_a_run_whose_best_checkpoint_is_damaged_is_refused(small: SmallRuns, run: RunDir) -> None:
    flip(run.checkpoint("best"))
    with pytest.raises(ValueError, match=r"best\.safetensors: damaged"):
        small.run(run.path)


@pytest.mark.parametrize("name", ["last", "previous", "best"])
def test_a_checkpoint_of_another_run_is_refused(
    small: SmallRuns, whole: Path, run: RunDir, name: str
) -> None:
    """With its digest; the same experiment even."""
    if name == "previous":
        flip(run.checkpoint("last"))
    for path in (RunDir(whole).checkpoint(name), run.checkpoint(name)):
        other = RunDir(whole).checkpoint(name)
        if path != other:
            shutil.copy(other, path)
            shutil.copy(atomic.digest_file(other), atomic.digest_file(path))
    with pytest.raises(ValueError, match=rf"{name}\.safetensors: is a checkpoint of another run"):
        small.run(run.path)


@pytest.mark.parametrize("damage", [flip, cut, empty, remove])
@pytest.mark.parametrize("name", ["config.yaml", "overrides.json", "manifest.json"])
def test_damaged_settings_are_refused_by_name(
    small: SmallRuns, run: RunDir, name: str, damage: Callable[[Path], None]
) -> None:
    damage(run.path / name)

    def resume() -> None:
        continued(run.path, [])
        small.run(run.path)

    with pytest.raises(ValueError, match=rf"{name}: (damaged or changed|cannot be read)"):
        resume()


def test_a_damaged_status_is_refused_by_name(run: RunDir) -> None:
    for damage in (cut, empty):
        damage(run.status_file)
        with pytest.raises(ValueError, match=r"status\.json: cannot be read"):
            RunDir.reopen(run.path)


def test_no_flipped_bit_of_a_run_is_accepted(run: RunDir) -> None:
    """One in each of 40 places of each file that is read again."""
    flipped = 0

    def read(path: Path) -> None:
        if path in files:
            run.read_config()
            run.read_manifest()
        else:
            read_checkpoint(path)

    files = [run.config_file, run.overrides_file, run.manifest_file]
    for path in [*files, *(run.checkpoint(name) for name in ("best", "last", "previous"))]:
        data = path.read_bytes()
        for place in range(0, len(data), max(1, len(data) // 40)):
            path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
            with pytest.raises(ValueError, match=re.escape(path.name)):
                read(path)
            flipped += 1
        path.write_bytes(data)
    assert flipped >= 240


def test_a_run_on_other_data_is_refused(small: SmallRuns, run: RunDir) -> None:
    manifest = json.loads(run.manifest_file.read_text())
    manifest["files"] = dict.fromkeys(manifest["files"], "0" * 64)
    run.write_manifest(manifest)
    with pytest.raises(ValueError, match="not the file that this run started with"):
        small.run(run.path)


def test_a_file_of_weights_that_is_no_checkpoint_is_refused(run: RunDir) -> None:
    path = run.checkpoint("last")
    tensors, _ = read_checkpoint(path)
    save_file(tensors, path)
    atomic.write_checked(path, path.read_bytes())
    with pytest.raises(ValueError, match=r"last\.safetensors: not a checkpoint of this project"):
        read_checkpoint(path)
