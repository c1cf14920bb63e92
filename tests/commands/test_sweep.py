"""A sweep runs what is missing, whatever happened before, and says what came of every job."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from runs.small_run import ended, forked
from sweeps import quick_runs
from sweeps.quick_runs import states

from stockformer.commands.sweep_results import warn_of_better_elsewhere
from stockformer.config.recorded import read_config
from stockformer.runs.folder import RunDir
from stockformer.sweeps.folder import Job, SweepDir
from stockformer.sweeps.jobs import Outcome

Quick = Callable[..., tuple[int, str]]
SEARCH = ("-m", "search=optuna", "trainer.max_epoch=3", "hydra.sweep.dir=sweep", "report=false")
PROCESSES = ("hydra/launcher=processes", "hydra.launcher.n_jobs=2", "hydra.launcher.threads=1")
FAULTS = {
    "exception": "failed: RuntimeError: a bug in a model",
    "nan": "failed: FloatingPointError: loss is not finite; lower optimizer.lr",
    "memory": "failed: MemoryError: out of memory; lower trainer.batch_size",
    "killed": "killed: killed by SIGKILL, perhaps by the system for lack of memory",
}


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quick:
    """`quick("-m", "seed=1,2", faults={"1": "nan"})`: status, output; in a copy of this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUICK_LOG", str(tmp_path / "log"))

    def call(*words: str, faults: dict[str, str] | None = None) -> tuple[int, str]:
        shown = ",".join(f"{job}={fault}" for job, fault in (faults or {}).items())
        monkeypatch.setenv("QUICK_FAULTS", shown)
        with tempfile.TemporaryFile("w+") as output:
            status = ended(started(words, output.fileno()))
            output.seek(0)
            return status, output.read()

    return call


def started(words: tuple[str, ...], output: int) -> int:
    """The process of a sweep: a copy of this one or, if it starts others, a new one, because a
    copy would take this one's children for its own."""
    if not starts_processes(words):
        return forked(lambda: command(words), output)
    program = [sys.executable, quick_runs.__file__, *words]
    return subprocess.Popen(program, stdout=output, stderr=output).pid


def starts_processes(words: tuple[str, ...]) -> bool:
    """A sweep that is continued does so where it was started so, and no launcher is named."""
    launchers = [word for word in words if word.startswith("hydra/launcher=")]
    for word in words:
        record = Path(word.removeprefix("resume="), "sweep.json")
        if word.startswith("resume=") and record.exists() and not launchers:
            return PROCESSES[0] in record.read_text()
    return PROCESSES[0] in launchers


def command(words: tuple[str, ...]) -> None:
    sys.argv = ["quick_runs.py", *words]
    quick_runs.main()


def counts(tmp_path: Path) -> Counter[str]:
    """How often each training was started and ended: `start 3`, `end 3`."""
    return Counter((tmp_path / "log").read_text().splitlines())


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name="stockformer", storage=f"sqlite:///{folder}/study.db")
    return study.get_trials()


@pytest.mark.parametrize("number", [8, pytest.param(20, marks=pytest.mark.full)])
def test_a_search_with_four_bad_trials_in_processes(
    quick: Quick, tmp_path: Path, number: int
) -> None:
    """All others give results, these give reasons; they are done too: more of it is only more."""
    bad = dict(zip(range(1, number, number // 4), FAULTS))
    status, output = quick(
        *(*SEARCH, *PROCESSES, f"hydra.sweeper.n_trials={number}"),
        faults={str(job): fault for job, fault in bad.items()},
    )
    assert status == 1, output
    found = trials(tmp_path / "sweep")
    assert Counter(trial.state.name for trial in found) == {"COMPLETE": number - 4, "FAIL": 4}
    assert states(tmp_path / "sweep") == {"finished": number - 4, "failed": 3, "running": 1}
    end = output[output.index("state") :]
    for job, fault in bad.items():
        assert end.count(f"job {job} {FAULTS[fault]}") == 1, output
    assert end.count("log: ") == 4
    failed = {t.number: t.user_attrs["reason"] for t in found if t.state == TrialState.FAIL}
    assert list(failed) == list(bad)
    assert all(reason[:30] in FAULTS[bad[job]] for job, reason in failed.items())
    before = counts(tmp_path)
    status, output = quick("-m", "resume=sweep", "hydra/launcher=basic")
    assert (status, counts(tmp_path)) == (1, before), output
    status, output = quick(
        "-m", "resume=sweep", "hydra/launcher=basic", f"hydra.sweeper.n_trials={number + 2}"
    )
    assert f"{number} of {number + 2} jobs are done already" in output
    assert counts(tmp_path) - before == {
        f"{what} {job}": 1 for what in ("start", "end") for job in (number, number + 1)
    }
    points = {tuple(trial.params.values()) for trial in trials(tmp_path / "sweep")}
    assert len(points) == number + 2


GRID = ("-m", "optimizer.lr=1e-3,1e-4", "seed=0,1,2", "trainer.max_epoch=2", "report=false")


def test_a_grid_runs_again_what_failed_and_nothing_else(quick: Quick, tmp_path: Path) -> None:
    words = (*GRID, "hydra.sweep.dir=multirun/grid")
    bad = {"1": "exception", "2": "nan", "4": "memory"}
    status, output = quick(*words, faults=bad)
    assert status == 1, output
    assert "job 1 failed: RuntimeError: a bug in a model and more" in output
    assert states(tmp_path / "multirun/grid") == {"finished": 3, "failed": 3}
    rows = [line.split() for line in output.splitlines() if line.split()[-1:] == ["failed"]]
    assert [row[:3] for row in rows] == [
        ["1", "0.001", "1"],
        ["2", "0.001", "2"],
        ["4", "0.0001", "1"],
    ]
    assert "run what is missing or failed again with python train.py -m resume=" in output
    before = counts(tmp_path)
    status, output = quick("-m", "resume=latest")
    assert status == 0, output
    assert "3 of 6 jobs are done already" in output
    again = {f"{what} {job}": 1 for what in ("start", "end") for job in bad}
    assert counts(tmp_path) - before == again
    assert "-m resume=latest: no unfinished sweep" in quick("-m", "resume=latest")[1]
    # The same command goes on as well; another one must not take these runs for its own.
    assert quick(*words)[0] == 0
    status, output = quick("-m", "seed=0,1,2,3,4,5", "hydra.sweep.dir=multirun/grid")
    assert (status, "grid is not empty; nothing was changed" in output) == (1, True)
    assert counts(tmp_path) - before == again


def test_seeds_are_one_line_and_the_best_is_a_mean(quick: Quick, tmp_path: Path) -> None:
    status, output = quick(*GRID, "hydra.sweep.dir=sweep", "report=true")
    assert status == 0, output
    best = "best by validation rank IC, +0.1000 ± 0.0000: the mean of 3 seeds, jobs 0, 1, 2"
    assert best in output
    assert "as one:     python evaluate.py run=" in output
    assert (tmp_path / "sweep/leaderboard.html").exists()


def test_a_best_trial_is_one_command_from_more_seeds(quick: Quick, tmp_path: Path) -> None:
    status, output = quick(*SEARCH, "hydra.sweeper.n_trials=3")
    assert status == 0, output
    (words,) = [line for line in output.splitlines() if "more seeds: python train.py" in line]
    words = words.partition("train.py ")[2]
    status, output = quick(*words.split(), "hydra.sweep.dir=seeds", "report=false")
    assert status == 0, output
    best = max(trials(tmp_path / "sweep"), key=lambda trial: trial.value)
    for job in range(3):
        config = read_config(RunDir(tmp_path / f"seeds/{job}").read_config()[0])
        assert config.optimizer.lr == best.params["optimizer.lr"]
        assert config.trainer.batch_size == best.params["trainer.batch_size"]
        assert (config.trainer.monitor, config.seed) == ("rank_ic", job + 1)
    (words,) = [line for line in output.splitlines() if "as one:" in line]


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.full)])
@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_controller_killed_again_and_again_loses_nothing_and_repeats_nothing(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, processes: bool
) -> None:
    """kill -9 at any moment: every trial that was completed stays, and none is run twice."""
    monkeypatch.setenv("QUICK_SECONDS", "0.15")
    words = (*SEARCH, f"hydra.sweeper.n_trials={3 * kills}", *(PROCESSES if processes else ()))
    chance = random.Random(kills)
    for kill in range(kills):
        with (tmp_path / "output").open("a") as output:
            child = started(words, output.fileno())
        lines = len((tmp_path / "log").read_text().splitlines()) if kill else 0
        wait_for_lines(tmp_path / "log", lines + 1)
        time.sleep(chance.random() * 0.6)
        os.kill(child, signal.SIGKILL)
        assert ended(child) == 128 + signal.SIGKILL, (tmp_path / "output").read_text()
    status, output = quick("-m", "resume=sweep")
    found = trials(tmp_path / "sweep")
    counted = [trial for trial in found if "replaced" not in trial.user_attrs]
    assert len(counted) == 3 * kills, output
    assert all(trial.state.is_finished() for trial in found)
    # A training that was killed after its results were whole, before it noted its end, counts too.
    ends = {line: n for line, n in counts(tmp_path).items() if line.startswith("end")}
    assert set(ends.values()) == {1}
    completed = {Path(t.user_attrs["folder"]).name for t in found if t.state == TrialState.COMPLETE}
    assert {f"end {name}" for name in completed} >= ends.keys()
    finished = {Path(t.user_attrs["folder"]).name for t in counted} & completed
    for name in finished:
        assert RunDir(tmp_path / "sweep" / name).status()["state"] == "finished"
    twice = [t for t in counted if t.state == TrialState.FAIL]
    assert all(trial.user_attrs["reason"] == "killed 2 times" for trial in twice)
    assert status == (1 if twice else 0), output


def wait_for_states(folder: Path, wanted: dict[str, int]) -> None:
    end = time.monotonic() + 120
    while states(folder) != wanted:
        assert time.monotonic() < end, states(folder)
        time.sleep(0.05)


def wait_for_lines(file: Path, number: int) -> None:
    end = time.monotonic() + 60
    while not file.exists() or len(file.read_text().splitlines()) < number:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_ctrl_c_reaches_each_process_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal tells the whole group; a second signal would end a job before it has saved."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUICK_SECONDS", "30")
    words = (*SEARCH, *PROCESSES, "hydra.sweeper.n_trials=4")
    child = subprocess.Popen(
        [sys.executable, quick_runs.__file__, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_states(tmp_path / "sweep", {"running": 2})
    time.sleep(0.2)  # they have installed their handlers
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait() == 128 + signal.SIGINT
    assert states(tmp_path / "sweep") == {"interrupted": 2}


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.full)]
)
def test_when_the_controller_ends_its_processes_end_and_keep_their_state(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("QUICK_SECONDS", "30")
    with (tmp_path / "output").open("w") as output:
        child = started((*SEARCH, *PROCESSES, "hydra.sweeper.n_trials=4"), output.fileno())
    wait_for_states(tmp_path / "sweep", {"running": 2})
    time.sleep(0.2)  # they have installed their handlers
    os.kill(child, number)
    assert ended(child) == 128 + number, (tmp_path / "output").read_text()
    if number == signal.SIGTERM:  # it waits for them
        assert states(tmp_path / "sweep") == {"interrupted": 2}
        assert "continue with python train.py -m resume=" in (tmp_path / "output").read_text()
    wait_for_states(tmp_path / "sweep", {"interrupted": 2})
    monkeypatch.setenv("QUICK_SECONDS", "0")
    status, output = quick("-m", "resume=sweep", "hydra/launcher=basic")
    assert status == 0, output
    assert states(tmp_path / "sweep") == {"finished": 4}  # the two went on in their folders
    assert Counter(t.state for t in trials(tmp_path / "sweep")) == {TrialState.COMPLETE: 4}


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_hopeless_trials_are_pruned_by_their_validation_curve(
    quick: Quick, tmp_path: Path, pruner: str
) -> None:
    status, output = quick(
        *SEARCH,
        "hydra.sweeper.n_trials=12",
        f"hydra.sweeper.pruner={pruner}",
        "trainer.max_epoch=9",
    )
    assert status == 0, output
    found = trials(tmp_path / "sweep")
    pruned = [trial for trial in found if trial.state == TrialState.PRUNED]
    assert 0 < len(pruned) < 12
    assert states(tmp_path / "sweep") == {"finished": 12 - len(pruned), "pruned": len(pruned)}
    assert output.count(f"pruned: {pruner} pruner, after epoch ") == len(pruned)
    best = max((t for t in found if t.state == TrialState.COMPLETE), key=lambda t: t.value)
    distance = [abs(math.log10(t.params["optimizer.lr"]) + 3) for t in (best, *pruned)]
    assert distance[0] < min(distance[1:])
    before = counts(tmp_path)
    assert quick("-m", "resume=sweep")[0] == 0
    assert counts(tmp_path) == before


def test_two_objectives_give_a_front(quick: Quick, tmp_path: Path) -> None:
    status, output = quick(
        *SEARCH,
        *("hydra.sweeper.n_trials=8", "hydra.sweeper.objectives=[rank_ic,turnover]"),
        *("hydra/sweeper/sampler=nsgaii", "report=true"),
    )
    assert status == 0, output
    study = optuna.load_study(
        study_name="stockformer", storage=f"sqlite:///{tmp_path}/sweep/study.db"
    )
    front = sorted(trial.number for trial in study.best_trials)
    (line,) = [line for line in output.splitlines() if line.startswith("Pareto front of")]
    assert sorted(int(n) for n in line.partition("jobs ")[2].split(", ")) == front
    page = (tmp_path / "sweep/leaderboard.html").read_text()
    assert f"{len(front)} of 8 configurations are on the front" in page
    assert "turnover a day" in page


def test_a_sweep_folder_has_one_controller(quick: Quick, tmp_path: Path) -> None:
    assert quick(*GRID, "hydra.sweep.dir=sweep")[0] == 0
    with SweepDir(tmp_path / "sweep") as sweep:
        sweep.claim(sweep.read(), resume=True)
        before = (tmp_path / "sweep/sweep.json").read_bytes()
        status, output = quick("-m", "resume=sweep")
    assert (status, "is in use by a process that is still running" in output) == (1, True)
    assert (tmp_path / "sweep/sweep.json").read_bytes() == before


WRONG = {
    ("resume=elsewhere",): "resume=elsewhere: no such folder",
    ("resume=sweep/0",): "0 is not a sweep's folder: it has no sweep.json; a single run is",
    ("hydra.sweeper.n_trials=3",): "hydra.sweeper.n_trials=3: a grid has no such setting",
    ("optimizer.lr=interval(1e-4,1e-2)",): "only a search, search=optuna, tries values",
    ("search=optuna", "optimizer.lr=interval(1e-2,1e-4)"): "optimizer.lr: no search between 0.01",
    (
        "search=optuna",
        "trainer.batch_size=interval(4,32)",
    ): "are int(interval(4, 32))",
    ("resume=sweep", "optimizer.lr=1"): "optimizer.lr=1: a resumed sweep may change",
    ("resume=sweep", "trainer.max_epoch=5"): "trainer.max_epoch=5: a resumed sweep may change",
    ("seed=1,2", "hydra.sweep.dir=foreign"): "foreign is not empty; nothing was changed",
    ("resume=sweep", "hydra/sweeper=optuna_search"): "hydra/sweeper=optuna_search: a resumed sweep",
    ("resume=sweep", "hydra.sweep.dir=x"): "hydra.sweep.dir=x: a resumed sweep may change",
    (
        "search=optuna",
        "seed=1,2",
        "hydra.sweep.dir=new",
    ): "seed: a search would choose",
    ("seed=1,2", "hydra.sweep.dir=foreign/thesis.tex"): "thesis.tex: a file, not a folder",
    ("resume=damaged",): "damaged/sweep.json: damaged or changed: its sha256 is another",
    (
        "search=optuna",
        "hydra.sweeper.storage=sqlite:///no/s.db",
        "hydra.sweep.dir=new",
    ): "unable to",
}


WITHOUT_M = {
    ("resume=sweep",): "sweep is a sweep's folder, not a run's: add -m",
    ("seed=1", "hydra/launcher=processes"): "hydra/launcher=processes: needs -m",
}


def test_what_cannot_be_resumed_is_named(quick: Quick, tmp_path: Path) -> None:
    assert quick(*GRID, "hydra.sweep.dir=sweep")[0] == 0
    shutil.copytree(tmp_path / "sweep", tmp_path / "damaged")
    record = tmp_path / "damaged/sweep.json"
    record.write_text(record.read_text().replace("1e-4", "1e-5"))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.tex").write_text("years of work")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words, reason in WRONG.items():
        status, output = quick("-m", *words)
        assert (status, reason in output, output.count("\n")) == (1, True, 1), output
    for words, reason in WITHOUT_M.items():
        status, output = quick(*words)
        assert (status, reason in output, output.count("\n")) == (1, True, 1), output
    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == before


def test_the_controller_says_how_far_it_is(quick: Quick, tmp_path: Path) -> None:
    status, output = quick(*GRID, "hydra.sweep.dir=sweep")
    assert status == 0, output
    assert "job 2 (3 of 6): optimizer.lr=0.001 seed=2" in output
    assert "; about " in output
    kept = (tmp_path / "sweep/sweep.log").read_text()
    assert "job 5 finished in" in kept


def test_a_better_trial_of_another_sweep_on_the_study_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def every(*rank_ics: float) -> dict[int, tuple[Job, Outcome]]:
        """The second job is another sweep's, the third has failed."""
        folders = [tmp_path / sweep for sweep in ("own/0", "other/1", "other/2")]
        outcomes = [Outcome("finished", "", 1.0, {"rank_ic": value}) for value in rank_ics]
        return {
            number: (Job(number=number, words=(), varied=(), folder=folder), outcome)
            for number, (folder, outcome) in enumerate(
                zip(folders, [*outcomes, Outcome("failed", "no")])
            )
        }

    own = SweepDir(tmp_path / "own")
    for values in ((0.2, 0.1), (0.1, math.nan), ()):
        warn_of_better_elsewhere(own, every(*values), "rank_ic")
    assert not caplog.text
    warn_of_better_elsewhere(own, every(0.1, 0.2), "rank_ic")
    assert "job 1, of another sweep on the study, has the best validation rank IC, +0.2000" in (
        caplog.text
    )
    assert str(tmp_path / "other/1") in caplog.text


def test_a_sweep_with_nothing_left_to_do_on_its_study_names_the_best_trial_of_another(
    quick: Quick, tmp_path: Path
) -> None:
    words = ["-m", "search=optuna", "hydra.sweeper.n_trials=2", "report=false"]
    words += [
        f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db",
        "hydra.sweeper.study_name=one",
    ]
    status, output = quick(*words, "hydra.sweep.dir=first")
    assert status == 0, output
    status, output = quick(*words, "hydra.sweep.dir=second")
    assert status == 0, output
    assert "2 of 2 jobs are done already" in output
    assert "of another sweep on the study, has the best validation rank IC" in output
    assert str(tmp_path / "first") in output
    assert "error" not in output
