"""Several controllers on one PostgreSQL study, one of them killed: nothing lost or run twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from sweeps import postgresql, quick_runs

from stockformer.sweeps.search import with_driver

pytest.importorskip("psycopg2", reason="the extra postgresql is not installed")


@pytest.fixture(scope="module")
def database() -> Iterator[postgresql.Server]:
    if postgresql.programs() is None:
        pytest.skip("no PostgreSQL server (apt-get install postgresql)")
    with postgresql.server() as server:
        yield server


def worker(*words: str, log: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, quick_runs.__file__, *words],
        env={**os.environ, "QUICK_SECONDS": "0.5", "QUICK_LOG": str(log)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def search(database: postgresql.Server, name: str, trials: int) -> list[str]:
    return [
        *("-m", "search=optuna", "report=false", f"hydra.sweeper.n_trials={trials}"),
        *(f"hydra.sweeper.storage={database.url}", f"hydra.sweeper.study_name={name}"),
    ]


def counted(database: postgresql.Server, name: str) -> list[FrozenTrial]:
    study = optuna.load_study(study_name=name, storage=with_driver(database.url))
    return [trial for trial in study.trials if "replaced" not in trial.user_attrs]


def wait_for_run(folder: Path) -> None:
    end = time.monotonic() + 60
    while not folder.is_dir() or not list(folder.glob("*/status.json")):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("workers", "trials"), [(2, 6), pytest.param(4, 40, marks=pytest.mark.full)]
)
def test_workers_share_a_study_and_one_is_killed(
    database: postgresql.Server, tmp_path: Path, workers: int, trials: int
) -> None:
    name, log = f"of_{workers}", tmp_path / "log"
    words = search(database, name, trials)
    processes = [worker(*words, f"hydra.sweep.dir={tmp_path}/{w}", log=log) for w in range(workers)]
    wait_for_run(tmp_path / "0")
    processes[0].kill()  # in the middle of a trial
    outputs = [process.communicate()[0] for process in processes]
    assert processes[0].returncode == -signal.SIGKILL
    assert {process.returncode for process in processes[1:]} == {0}, outputs
    study = optuna.load_study(study_name=name, storage=with_driver(database.url))
    trials_of_study = counted(database, name)
    states = Counter(trial.state for trial in trials_of_study)
    assert states == {TrialState.COMPLETE: trials}, outputs
    replaced = [trial for trial in study.trials if "replaced" in trial.user_attrs]
    (killed,) = [t for t in replaced if t.user_attrs["reason"] == "killed; tried once more"]
    again = [t for t in trials_of_study if t.user_attrs["folder"] == killed.user_attrs["folder"]]
    assert [trial.params for trial in again] == [killed.params]
    ends = Counter(line for line in log.read_text().splitlines() if line.startswith("end"))
    assert set(ends.values()) == {1}
    assert len(ends) == trials
    assert len({tuple(trial.params.values()) for trial in trials_of_study}) == trials


@pytest.mark.full
def test_a_database_that_goes_away_is_waited_for(
    database: postgresql.Server, tmp_path: Path
) -> None:
    """Or, in the middle of a statement, named in one line; the sweep continues all the same."""
    words, log = search(database, "away", 12), tmp_path / "log"
    processes = [worker(*words, f"hydra.sweep.dir={tmp_path}/{w}", log=log) for w in range(2)]
    for number in range(2):
        wait_for_run(tmp_path / str(number))
    database.stop()
    time.sleep(3)
    database.start()
    outputs = [process.communicate()[0] for process in processes]
    for number, (process, output) in enumerate(zip(processes, outputs)):
        assert "Traceback" not in output
        if process.returncode:
            assert "error: hydra.sweeper.storage=" in output
            assert "continue with python train.py -m resume=" in output
            again = worker("-m", f"resume={tmp_path}/{number}", log=log)
            said, _ = again.communicate()
            assert again.returncode == 0, (outputs, said)
        else:
            assert "does not answer, trying again" in output
    states = Counter(trial.state for trial in counted(database, "away"))
    assert states == {TrialState.COMPLETE: 12}, outputs
    ends = Counter(line for line in log.read_text().splitlines() if line.startswith("end"))
    assert set(ends.values()) == {1}
