"""What a search asks Optuna for, and which unfinished trials are its own to take up."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial, TrialState
from runs.small_run import forked

from stockformer.runs import atomic
from stockformer.runs.folder import RunDir
from stockformer.sweeps.folder import SweepDir, SweepRecord
from stockformer.sweeps.jobs import Outcome
from stockformer.sweeps.search import Search, SearchSettings, distribution, study_url

RECORD = SweepRecord(["search=optuna"], ["rank_ic"], finished=False)
SPACES = {
    "a=interval(0.1,0.9)": ("float", 0.1, 0.9, False, None),
    "a=tag(log, interval(1e-4, 1e-2))": ("float", 1e-4, 1e-2, True, None),
    "a=int(interval(1,8))": ("int", 1, 8, False, 1),
    "a=int(tag(log, interval(1, 64)))": ("int", 1, 64, True, 1),
    "a=range(8,33,8)": ("int", 8, 32, False, 8),
    "a=range(0.0,0.5,0.1)": ("float", 0.0, 0.4, False, 0.1),
}


def sweep_of(word: str) -> optuna.distributions.BaseDistribution:
    return distribution(OverridesParser.create().parse_override(word))


@pytest.mark.parametrize("word", SPACES)
def test_the_grammar_of_search_spaces(word: str) -> None:
    kind, low, high, log, step = SPACES[word]
    found = sweep_of(word)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = [study.ask({"a": found}).params["a"] for _ in range(300)]
    assert all(isinstance(value, int if kind == "int" else float) for value in values)
    assert low <= min(values) <= max(values) <= high
    if step is not None:
        places = [(value - low) / step for value in values]
        assert places == pytest.approx([round(place) for place in places])
        assert {round(place) for place in places} >= {0, round((high - low) / step)}
    half = math.sqrt(low * high) if log else (low + high) / 2
    below = sum((value < half) + (value <= half) for value in values) / 2
    assert 0.4 < below / len(values) < 0.62


@pytest.mark.parametrize(
    ("word", "choices"),
    [
        ("a=choice(8,12,24)", (8, 12, 24)),
        ("a=1e-3,1e-4", (0.001, 0.0001)),
        ("model=stockformer,stockformer_small", ("stockformer", "stockformer_small")),
        ("a=0.1,0.25", (0.1, 0.25)),
        ("a=true,false", ("True", "False")),
    ],
)
def test_choices_are_taken_as_hydra_reads_them(word: str, choices: tuple[object, ...]) -> None:
    found = sweep_of(word)
    assert isinstance(found, optuna.distributions.CategoricalDistribution)
    assert found.choices == choices


def test_a_space_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no search between -1\.0 and 1\.0"):
        sweep_of("a=tag(log, interval(-1.0, 1.0))")


@pytest.fixture
def search(tmp_path: Path) -> Callable[..., Search]:
    """`search("sweep", n_trials=3, storage=URL)`: a search whose controller has that folder."""

    def made(name: str = "sweep", fixed: str = "seed=1", **settings: object) -> Search:
        folder = SweepDir(tmp_path / name)
        given = {
            "objectives": ("rank_ic",),
            "n_trials": 3,
            "pruner": "none",
            "storage": study_url(folder),
            "study_name": "stockformer",
            "sampler": {"_target_": "optuna.samplers.RandomSampler", "seed": 0},
        }
        folder.path.mkdir(exist_ok=True)
        space = {"optimizer.lr": OverridesParser.create().parse_override("a=interval(0.1,0.9)")}
        return Search(folder, SearchSettings(**(given | settings)), [fixed], space)  # type: ignore[arg-type]

    return made


def test_a_job_has_its_trials_words(search: Callable[..., Search], tmp_path: Path) -> None:
    jobs = [search().next() for _ in range(1)]
    (job,) = jobs
    assert job is not None
    assert (job.number, job.folder) == (0, tmp_path / "sweep/0")
    assert job.words[0] == "seed=1"
    assert job.varied == job.words[1:]
    assert job.varied[0].startswith("optimizer.lr=0.")


def test_total_counts_over_all_starts(search: Callable[..., Search]) -> None:
    first = search()
    for _ in range(2):
        job = first.next()
        assert job is not None
        first.ended(job, Outcome("finished", values={"rank_ic": 0.1}))
    again = search()
    assert again.done == 2
    job = again.next()
    assert job is not None
    again.ended(job, Outcome("failed", "no"))
    assert again.next() is None
    assert again.done == again.total == 3
    assert search(n_trials=4).next() is not None


def test_an_undefined_metric_fails_the_trial_with_its_name(search: Callable[..., Search]) -> None:
    one = search()
    job = one.next()
    assert job is not None
    one.ended(job, Outcome("finished", values={"rank_ic": math.nan}))
    (trial,) = one.study.trials
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"] == "validation rank_ic is not defined"


def test_another_points_are_drawn_after_a_restart(search: Callable[..., Search]) -> None:
    """The sampler's seed is the same: unchanged it would draw the first point again."""
    points = []
    for _ in range(3):
        one = search()
        job = one.next()
        assert job is not None
        points.append(job.varied)
        one.ended(job, Outcome("failed", "no"))
    assert len(set(points)) == 3


@pytest.fixture
def living(search: Callable[..., Search], tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """`living(STORAGE)`: the process of a controller that has asked for a trial, and works."""
    children = []

    def start(storage: str) -> int:
        reader, writer = os.pipe()

        def control() -> None:
            first = SweepDir(tmp_path / "first")
            first.claim(RECORD, resume=False)
            assert search("first", storage=storage).next() is not None
            os.write(writer, b"!")
            time.sleep(60)

        children.append(forked(control, writer))
        assert os.read(reader, 1)
        return children[0]

    yield start
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_the_trials_of_a_living_controller_are_left_to_it(
    search: Callable[..., Search], living: Callable[[str], int], tmp_path: Path
) -> None:
    """Two sweeps on one study: the second does not touch what the first is working on."""
    storage = f"sqlite:///{tmp_path}/shared.db"
    living(storage)
    second = search("second", storage=storage, n_trials=2)
    assert second.study.trials[0].state == TrialState.RUNNING
    job = second.next()
    assert job is not None
    assert (job.number, job.folder) == (1, tmp_path / "second/1")
    second.ended(job, Outcome("failed", "no"))
    assert second.next() is None
    assert (second.done, second.total) == (1, 2)


def test_at_the_end_the_trials_of_a_dead_controller_are_taken_up(
    search: Callable[..., Search], living: Callable[[str], int], tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path}/shared.db"
    child = living(storage)
    second = search("second", storage=storage, n_trials=2)
    job = second.next()
    assert job is not None
    second.ended(job, Outcome("failed", "no"))
    os.kill(child, signal.SIGKILL)
    while atomic.is_locked(tmp_path / "first/lock"):
        time.sleep(0.01)
    taken = second.next()
    assert taken is not None
    assert (taken.number, taken.folder) == (0, tmp_path / "first/0")


def test_a_trial_that_ends_while_the_outcomes_are_read_has_not_been_interrupted(
    search: Callable[..., Search], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its controller reports it and ends between the reading of its state and that of the lock."""
    storage = f"sqlite:///{tmp_path}/shared.db"
    one, other = (search(name, storage=storage, n_trials=1) for name in ("one", "other"))
    job = one.next()
    assert job is not None

    def ended_just_now(trial: object) -> bool:
        one.ended(job, Outcome("finished", "", 1.0, {"rank_ic": 0.1}))
        return True

    monkeypatch.setattr(other, "_is_abandoned", ended_just_now)
    ((_, outcome),) = other.outcomes({}).values()
    assert (outcome.state, outcome.values) == ("finished", {"rank_ic": 0.1})


def test_a_trial_that_is_taken_over_while_the_outcomes_are_read_has_not_failed(
    search: Callable[..., Search],
    living: Callable[[str], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another controller of the study has it tried again, between those two readings."""
    storage = f"sqlite:///{tmp_path}/shared.db"
    child = living(storage)
    other, second = (search(name, storage=storage, n_trials=1) for name in ("other", "second"))
    run = other.study.trials[0].user_attrs["folder"]
    os.waitpid(forked(lambda: RunDir.claim(Path(run)), 1), 0)  # as if it had been killed
    os.kill(child, signal.SIGKILL)
    while atomic.is_locked(tmp_path / "first/lock"):
        time.sleep(0.01)
    is_abandoned = other._is_abandoned

    def retried_just_now(trial: FrozenTrial) -> bool:
        monkeypatch.undo()
        job = second.next()
        assert job is not None
        assert str(job.folder) == run
        return is_abandoned(trial)

    monkeypatch.setattr(other, "_is_abandoned", retried_just_now)
    assert other.outcomes({}) == {}  # not "failed", which the replaced trial is to Optuna


def test_two_controllers_that_ask_at_once_do_not_run_more_than_n_trials(
    search: Callable[..., Search], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = f"sqlite:///{tmp_path}/shared.db"
    one, other = (search(name, storage=storage, n_trials=2) for name in ("one", "other"))
    started = other._started

    def before_the_other_asked(before: float = math.inf) -> int:
        return started(before) if before < math.inf else 0

    monkeypatch.setattr(other, "_started", before_the_other_asked)
    assert one.next() is not None
    assert one.next() is not None
    assert other.next() is None
    surplus = one.study.trials[2]
    assert (surplus.state, surplus.user_attrs["reason"]) == (
        TrialState.FAIL,
        "more than hydra.sweeper.n_trials=2",
    )
    assert len(one.outcomes({})) == 2
    assert one.study.trials[0].params != surplus.params  # though the seed is the same


def test_a_study_that_cannot_be_used_is_refused(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    search("one")
    with pytest.raises(ValueError, match="other objectives"):
        search("one", objectives=("mae",))
    with pytest.raises(ValueError, match=r"study_name=stockformer.*study of another search"):
        search("one", fixed="model.width=8")
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.storage=sqlite:///.*unable to open"):
        search("two", storage=f"sqlite:///{tmp_path}/nowhere/study.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to be one " * 30)
    with pytest.raises(ValueError, match="not a database"):
        search("two", storage=f"sqlite:///{tmp_path}/text.db")
