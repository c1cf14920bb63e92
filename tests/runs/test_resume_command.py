"""`python train.py resume=`: which run, and what may be otherwise than before."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from runs.small_run import Clock, SmallRuns, Stopped, captured, train_main

from stockformer.config.recorded import read_config
from stockformer.runs import atomic
from stockformer.runs.folder import RunDir
from stockformer.runs.resume import continued, requested_run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stopped(small: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        clock = Clock(patch)
        clock.stop_at(30)
        with pytest.raises(Stopped):
            small.run(tmp_path / "stopped")
    return tmp_path / "stopped"


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "finished"))


def command(*words: str) -> tuple[int, str]:
    return captured(lambda: train_main([*words]))


def test_a_finished_run_is_left_alone_until_it_is_to_be_longer(finished: Path) -> None:
    status, output = command(f"resume={finished}")
    assert (status, "has finished: nothing to do" in output) == (0, True)
    status, output = command(f"resume={finished}", "trainer.max_epoch=4")
    assert status == 0, output
    assert len(pd.read_csv(finished / "metrics.csv")) == 4
    config, words = RunDir(finished).read_config()
    assert read_config(config).trainer.max_epoch == 4
    assert [word for word in words if "max_epoch" in word] == ["trainer.max_epoch=4"]
    assert not any("resume" in word for word in words)
    assert read_config(config).resume is None
    assert len(RunDir(finished).read_manifest()["resumed"]) == 1


def test_a_run_cannot_become_shorter_than_it_is(finished: Path) -> None:
    before = (finished / "config.yaml").read_text()
    status, output = command(f"resume={finished}", "trainer.max_epoch=1")
    assert status != 0
    assert "trainer.max_epoch=1: the run already has" in output
    assert (finished / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    "word", ["optimizer.lr=0.5", "seed=9", "trainer.batch_size=8", "model.width=8", "dataset=demo"]
)
def test_what_would_change_its_past_is_refused_by_name(stopped: Path, word: str) -> None:
    key = "dataset" if word == "dataset=demo" else word.partition("=")[0]
    with pytest.raises(ValueError, match=rf"{key}.*: was .* that would change completed epochs"):
        continued(stopped, [f"resume={stopped}", word])


def test_a_refused_setting_that_follows_another_names_it(stopped: Path) -> None:
    word = "scheduler.patience=${trainer.max_epoch}"
    with pytest.raises(ValueError, match=r"patience: follows \$\{trainer.max_epoch\}, was 0 when"):
        continued(stopped, [f"resume={stopped}", word])


def test_a_smaller_micro_batch_may_be_asked_for(stopped: Path) -> None:
    status, output = command(f"resume={stopped}", "trainer.micro_batch_size=5")
    assert status == 0, output
    sizes = pd.read_csv(stopped / "metrics.csv")["micro_batch_size"]
    assert sizes.iloc[0] == 16
    assert sizes.iloc[-1] == 5


def test_the_latest_is_the_unfinished_run_written_last(
    stopped: Path, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no unfinished run in outputs or multirun"):
        requested_run(["resume=latest"])
    for number, run in enumerate((stopped, stopped, finished)):
        shutil.copytree(run, tmp_path / f"outputs/day/{number}", copy_function=shutil.copy)
    broken = tmp_path / "outputs/day/3/status.json"  # killed as it began
    broken.parent.mkdir()
    broken.touch()
    assert requested_run(["seed=1", "resume=latest"]) == Path("outputs/day/1")
    assert requested_run(["++resume=latest"]) == Path("outputs/day/1")
    assert requested_run(["resume=null"]) is None
    assert requested_run(["seed=1"]) is None


def test_a_run_that_ends_while_it_is_looked_at_has_not_been_killed(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It records its end and lets go of its lock between the reading of the one and the other."""
    run = RunDir(Path(shutil.copytree(stopped, tmp_path / "outputs/day/1")))

    def ended_just_now(path: Path) -> bool:
        run.end("finished", "")
        return False

    for look in (run.killed, lambda: requested_run(["resume=latest"])):
        run.end("running", "")
        with monkeypatch.context() as patch, suppress(ValueError):
            patch.setattr(atomic, "is_locked", ended_just_now)
            assert not look()


def test_a_model_judged_elsewhere_is_no_run_to_go_on_with(stopped: Path, finished: Path) -> None:
    run = RunDir(finished)
    elsewhere = RunDir(Path("outputs/day/1/evaluations/fold"))
    RunDir.claim(elsewhere.path).__exit__(KeyError, KeyError(), None)
    elsewhere.write_config(*run.read_config())
    elsewhere.write_manifest(run.read_manifest() | {"kind": "evaluation"})
    with pytest.raises(ValueError, match="no unfinished run in outputs or multirun"):
        requested_run(["resume=latest"])
    before = {path: path.read_bytes() for path in elsewhere.path.iterdir() if path.is_file()}
    status, output = command(f"resume={elsewhere.path}", "trainer.max_epoch=9")
    assert (status, "an evaluation or an ensemble, not a training" in output) == (1, True), output
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=nowhere"], "nowhere is not a run folder: it has no status.json"),
        (["-m", "resume=nowhere"], "nowhere: no such folder"),
    ],
)
def test_a_resume_that_cannot_be_is_one_line(words: list[str], message: str) -> None:
    status, output = command(*words)
    assert status == 1
    assert output.startswith("error: ")
    assert message in output
    assert "Traceback" not in output


def test_a_run_that_kept_nothing_says_so(stopped: Path) -> None:
    shutil.rmtree(stopped / "checkpoints")
    status, output = command(f"resume={stopped}")
    assert status == 1
    assert "no valid checkpoint to resume from; start a new run" in output
    (stopped / "config.yaml").unlink()
    status, output = command(f"resume={stopped}")
    assert status == 1
    assert "config.yaml: cannot be read: No such file" in output
    assert "Traceback" not in output


def test_recorded_words_that_fit_no_more_are_one_line(stopped: Path) -> None:
    run = RunDir(stopped)
    config, words = run.read_config()
    run.write_config(config, [*words, "model=forgotten"])
    with pytest.raises(ValueError, match=r"overrides\.json: does not fit conf/ any more"):
        continued(stopped, [])
    assert json.loads(run.overrides_file.read_text())[-1] == "model=forgotten"
