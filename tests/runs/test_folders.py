"""Two runs never share a folder; a run that is dead can be continued, one that lives cannot."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs.small_run import SmallRuns, captured, differences, ended, forked, train_main
from runs.test_signals import Child, sleep

from stockformer.runs.folder import RunDir

ROOT = Path(__file__).parents[2]
# Says at its end what a refused start had done; `sys.exit` comes through here.
REFUSAL = """
import sys
sys.path.insert(0, {root!r})
opened = []
sys.addaudithook(lambda event, arguments: event == "open" and opened.append(str(arguments[0])))
import train
try:
    train.main()
finally:
    read = any({data!r} in path for path in opened)
    sys.stderr.write(f"torch {{'torch' in sys.modules}} data {{read}}\\n")
"""


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_ten_claims_at_once_have_one_winner(tmp_path: Path) -> None:
    """All wait for the same moment; in the child, because the lock is a process's."""
    moment = time.time() + 0.5

    def claim() -> None:
        time.sleep(moment - time.time())
        try:
            with RunDir.claim(tmp_path / "run"):
                time.sleep(1)
        except ValueError as error:
            sys.exit(f"error: {error}")

    statuses = [ended(child) for child in [forked(claim, 1) for _ in range(10)]]
    assert sorted(statuses) == [0] + [1] * 9
    assert RunDir(tmp_path / "run").status()["state"] == "finished"


def start(words: list[str], folder: Path, code: str | None = None) -> subprocess.Popen[str]:
    program = ["-c", code] if code else [str(ROOT / "train.py")]
    return subprocess.Popen(
        [sys.executable, *program, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.full
def test_ten_simultaneous_starts_have_ten_folders(small: SmallRuns, tmp_path: Path) -> None:
    processes = [start(small.words("trainer.max_epoch=1"), tmp_path) for _ in range(10)]
    for process in processes:
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
    states = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/*/status.json")]
    assert [state["state"] for state in states] == ["finished"] * 10
    assert len({state["id"] for state in states}) == 10


@pytest.mark.full
def test_ten_simultaneous_starts_into_one_folder_have_one_run(
    small: SmallRuns, whole: Path, tmp_path: Path
) -> None:
    words = small.words(f"hydra.run.dir={tmp_path}/run")
    processes = [start(words, tmp_path) for _ in range(10)]
    errors = [process.communicate(timeout=400)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0] + [1] * 9
    refused = [text for text in errors if "error: run folder" in text]
    assert len(refused) == 9
    assert not differences(whole, tmp_path / "run")


def test_a_start_into_a_folder_in_use_is_refused_before_torch_or_data(
    small: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    child = Child("train", small.words(f"hydra.run.dir={folder}"), tmp_path / "output", sleep)
    before = content(folder)
    code = REFUSAL.format(root=str(ROOT), data=str(small.files.root))
    starts = {
        "is taken or not empty": small.words(f"hydra.run.dir={folder}", "seed=3"),
        "is in use by a process that is still running": [f"resume={folder}"],
    }
    processes = {said: start(words, tmp_path, code) for said, words in starts.items()}
    for said, process in processes.items():
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert said in errors
        assert "torch False data False" in errors
        assert "Traceback" not in errors
    assert content(folder) == before
    child.signal(signal.SIGKILL)


def test_another_process_may_have_had_our_number(tmp_path: Path) -> None:
    """As in a container that is started again after kill -9."""
    RunDir.claim(tmp_path / "run")._unlock()
    assert RunDir(tmp_path / "run").status()["process"] == os.getpid()
    assert not RunDir(tmp_path / "run").in_use()
    with RunDir.claim(tmp_path / "run") as again:
        assert again.in_use()


def test_a_run_that_was_killed_goes_on_though_its_loaders_processes_still_live(
    small: SmallRuns, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    words = small.words(f"hydra.run.dir={folder}", "trainer.num_workers=2")
    child = Child("validate", words, tmp_path / "output", sleep)
    status, _ = child.signal(signal.SIGKILL)
    assert status == 128 + signal.SIGKILL
    os.killpg(child.id, 0)  # they live for some seconds more
    assert RunDir(folder).status()["state"] == "running"
    assert not RunDir(folder).in_use()
    status, output = captured(lambda: train_main([f"resume={folder}"]))
    assert status == 0, output
    assert not differences(whole, folder)
