"""A job takes up its own run and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from reporting.run_folder import finished_run

from stockformer.runs import atomic
from stockformer.runs.folder import RunDir
from stockformer.sweeps.folder import Job, SweepDir, SweepRecord, newest_unfinished
from stockformer.sweeps.jobs import Grid, require_same_settings

RECORD = SweepRecord(["seed=1,2"], ["rank_ic"], finished=False)


def job(folder: Path, *words: str) -> Job:
    return Job(number=0, words=words, varied=words, folder=folder)


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    """Its results would be taken for those of the job."""
    folder = finished_run(tmp_path / "0", overrides=["optimizer.lr=1", "trainer.num_workers=2"])
    run = RunDir(folder)
    require_same_settings(run, ["optimizer.lr=1", "hydra/launcher=processes"])
    require_same_settings(RunDir(tmp_path / "1"), ["optimizer.lr=2"])  # not started
    with pytest.raises(ValueError, match=r"0: holds a run with other settings \(optimizer\.lr=1"):
        require_same_settings(run, ["optimizer.lr=2"])
    with pytest.raises(ValueError, match="other settings"):
        Grid([job(folder, "optimizer.lr=1", "seed=3")], ["rank_ic"])


def test_the_newest_unfinished_sweep_is_not_finished_running_or_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("oldest", "finished", "damaged", "running")
    for name in names:
        (tmp_path / name).mkdir()
        SweepDir(tmp_path / name).write(RECORD)
    SweepDir(tmp_path / "finished").write(SweepRecord([], [], finished=True))
    (tmp_path / "damaged/sweep.json").write_text("{")
    monkeypatch.setattr(atomic, "is_locked", lambda path: path.parent.name == "running")
    assert newest_unfinished(tmp_path) == tmp_path / "oldest"

    def finished_just_now(path: Path) -> bool:
        if path.parent.name == "oldest":
            SweepDir(path.parent).write(SweepRecord([], [], finished=True))
        return path.parent.name == "running"

    monkeypatch.setattr(atomic, "is_locked", finished_just_now)
    with pytest.raises(ValueError, match="no unfinished sweep"):
        newest_unfinished(tmp_path)
