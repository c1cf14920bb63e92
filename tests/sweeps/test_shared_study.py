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
from optuna.trial import TrialState
from sweeps import postgresql, quick_runs

from stockformer.sweeps.search import with_driver

pytest.importorskip("psycopg2", reason="the extra postgresql is not installed")


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    if postgresql.programs() is None:
        pytest.skip("no PostgreSQL server (apt-get install postgresql)")
    with postgresql.server() as url:
        yield url


@pytest.mark.parametrize(
    ("workers", "trials"), [(2, 6), pytest.param(4, 40, marks=pytest.mark.full)]
)
def test_workers_share_a_study_and_one_is_killed(
    database: str, tmp_path: Path, workers: int, trials: int
) -> None:
    name = f"of_{workers}"
    log = tmp_path / "log"
    words = [
        *("-m", "search=optuna", "report=false", f"hydra.sweeper.n_trials={trials}"),
        *(f"hydra.sweeper.storage={database}", f"hydra.sweeper.study_name={name}"),
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, quick_runs.__file__, *words, f"hydra.sweep.dir={tmp_path}/{worker}"],
            env={**os.environ, "QUICK_SECONDS": "0.5", "QUICK_LOG": str(log)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for worker in range(workers)
    ]
    end = time.monotonic() + 60
    while not (tmp_path / "0").is_dir() or not list((tmp_path / "0").glob("*/status.json")):
        assert time.monotonic() < end
        time.sleep(0.01)
    processes[0].kill()  # in the middle of a trial
    outputs = [process.communicate()[0] for process in processes]
    assert processes[0].returncode == -signal.SIGKILL
    assert {process.returncode for process in processes[1:]} == {0}, outputs
    study = optuna.load_study(study_name=name, storage=with_driver(database))
    counted = [trial for trial in study.trials if "replaced" not in trial.user_attrs]
    assert Counter(trial.state for trial in counted) == {TrialState.COMPLETE: trials}, outputs
    replaced = [trial for trial in study.trials if "replaced" in trial.user_attrs]
    (killed,) = [t for t in replaced if t.user_attrs["reason"] == "killed; tried once more"]
    again = [t for t in counted if t.user_attrs["folder"] == killed.user_attrs["folder"]]
    assert [trial.params for trial in again] == [killed.params]
    ends = Counter(line for line in log.read_text().splitlines() if line.startswith("end"))
    assert set(ends.values()) == {1}
    assert len(ends) == trials
    assert len({tuple(trial.params.values()) for trial in counted}) == trials
