"""A run folder of somebody else's: no link is followed, no value surprises, no byte goes unseen."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reporting.run_folder import finished_run, rewrite
from rich.console import Console
from runs.small_run import SmallRuns, captured, train_main

from stockformer.config.overrides import check_command_line
from stockformer.config.plain_yaml import parse_yaml
from stockformer.config.recorded import read_config
from stockformer.data.reading.files import Folder
from stockformer.reporting import leaderboard, report, terminal
from stockformer.runs import atomic
from stockformer.runs.console import printable
from stockformer.runs.ensemble import members
from stockformer.runs.folder import RunDir
from stockformer.runs.recorded_run import read_run
from stockformer.runs.reevaluation import reevaluate
from stockformer.runs.resume import continued
from stockformer.sweeps.trials import read_trials
from stockformer.training.checkpoint import read_checkpoint, save_checkpoint

READ_BY_A_PAGE = (
    *("status.json", "config.yaml", "overrides.json", "manifest.json", "metrics.csv"),
    *("evaluation.json", "predictions.parquet", "trades.csv", "positions.csv", "equity.csv"),
    "SHA256SUMS",
)
WRITTEN = (
    *(*READ_BY_A_PAGE, "train.log", "lock", "report.html", "data_quality.html", "checkpoints"),
    *("tensorboard", "debug", "evaluations", "predictions", ".config.yaml.tmp", "anything"),
    *("checkpoints/last.safetensors", "checkpoints/last.safetensors.sha256", "tensorboard/events"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunDir:
    return RunDir(Path(shutil.copytree(finished, tmp_path / "run")))


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file and a folder of the user's that a link leads to; the test fails if they change."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "victim").write_text("precious")
    yield folder / "victim"
    assert (folder / "victim").read_text() == "precious"
    assert [path.name for path in folder.iterdir()] == ["victim"]


def commands(run: RunDir) -> list[Callable[[], object]]:
    """What reads a run folder, and what would write into it afterwards."""
    return [
        lambda: continued(run.path, []),
        lambda: RunDir.reopen(run.path),
        lambda: read_run(run.path),
        lambda: reevaluate(run.path, []),
    ]


@pytest.mark.parametrize("kind", ["file", "folder", "dangling", "pipe"])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_run_folder_with_a_link_is_refused_by_name(
    run: RunDir, victim: Path, name: str, kind: str
) -> None:
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"file": victim, "folder": victim.parent}.get(kind, victim / "nowhere"))
    for call in commands(run):
        with pytest.raises(ValueError, match=rf"{path.name}: .*(a link|neither|not a file|status)"):
            call()


def test_a_new_file_is_never_written_through_a_link(tmp_path: Path, victim: Path) -> None:
    for name in ("file", ".file.tmp"):
        (tmp_path / name).symlink_to(victim)
    atomic.write(tmp_path / "file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    (tmp_path / "other").symlink_to(victim)
    with pytest.raises(ValueError, match="a link, which is not followed"):
        atomic.open_to_append(tmp_path / "other")
    os.link(victim, tmp_path / "hard")
    with pytest.raises(ValueError, match="another name elsewhere"):
        atomic.open_to_append(tmp_path / "hard")
    (tmp_path / "hard").unlink()


def test_a_sweep_is_not_written_through_a_link(tmp_path: Path, victim: Path) -> None:
    words = [f"hydra.sweep.dir={tmp_path}/sweep", "seed=1,2"]
    (tmp_path / "sweep").mkdir()
    check_command_line(words, multirun=True)
    (tmp_path / "sweep" / "multirun.yaml").symlink_to(victim)
    with pytest.raises(ValueError, match=r"multirun\.yaml: a link, which no sweep creates"):
        check_command_line(words, multirun=True)
    check_command_line([*words, "hydra.sweep.dir=x/${hydra:job.name}"], multirun=True)


def test_pages_replace_a_link_and_leave_what_it_leads_to(
    run: RunDir, victim: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.symlink_to(victim)
    report.write_report(read_run(run.path), page)
    assert not page.is_symlink()
    board = tmp_path / leaderboard.FILE
    board.symlink_to(victim)
    leaderboard.write_leaderboard(read_trials(tmp_path), None)
    assert not board.is_symlink()


def changes(data: bytes, places: int) -> Iterator[bytes]:
    """Flipped bits in so many places; cut, emptied and lengthened."""
    for place in range(0, len(data), max(1, len(data) // places)):
        yield data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    yield data[: len(data) // 2]
    yield data[:-1]
    yield b""
    yield data + b"\n"


@pytest.mark.parametrize("places", [6, pytest.param(150, marks=pytest.mark.full)])
def test_every_changed_byte_a_page_reads_is_named_as_damaged(run: RunDir, places: int) -> None:
    """SHA256SUMS itself too: what is named then may be the file whose sum it was."""
    changed = 0
    for name in READ_BY_A_PAGE:
        path = run.path / name
        data = path.read_bytes()
        for other in changes(data, places):
            path.write_bytes(other)
            with pytest.raises(ValueError, match=r"damaged|cannot be read") as refusal:
                read_run(run.path)
            assert name == "SHA256SUMS" or name in str(refusal.value)
            changed += 1
        path.unlink()
        with pytest.raises(ValueError, match=r"damaged|status\.json is missing"):
            read_run(run.path)
        path.write_bytes(data)
        changed += 1
    read_run(run.path)
    sys.stdout.write(f"changed bytes: {changed}, all named as damaged\n")
    assert changed >= 11 * (places + 4)


def test_a_forged_result_is_shown_by_no_command(run: RunDir, tmp_path: Path) -> None:
    other = finished_run(tmp_path / "second")
    evaluation = json.loads(run.evaluation_file.read_text())
    run.evaluation_file.write_text(json.dumps(evaluation | {"verdict": "It beats everything."}))
    said = r"evaluation\.json: damaged or changed: its digest is not the one in SHA256SUMS"
    for call in (
        lambda: read_run(run.path),
        lambda: members([run.path, other]),
        lambda: reevaluate(run.path, []),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    trials = read_trials(tmp_path)
    assert list(trials.completed) == ["second"]
    assert "damaged" in trials.refused["run"]


def test_a_run_of_an_earlier_version_is_still_read(run: RunDir) -> None:
    """It did not list metrics.csv, and its status had no digest."""
    run._write_sums({name: s for name, s in run._sums().items() if name != "metrics.csv"})
    status = run.status()
    del status["sha256"]
    run.status_file.write_text(json.dumps(status))
    assert read_run(run.path).metrics is not None
    run.equity_file.write_text(run.equity_file.read_text().replace("0", "1", 1))
    with pytest.raises(ValueError, match=r"equity\.csv: damaged"):
        read_run(run.path)


def assert_one_line(error: ValueError) -> None:
    assert "\n" not in str(error)


WRONG: tuple[Any, ...] = (None, True, -1, 10**30, 1e308, "\x1b[2J", "", [], [[5]], {}, {"a": {}})


def mutations(value: Any) -> Iterator[Any]:
    """The value with each of its parts replaced by each thing of WRONG, and left out."""
    yield from WRONG
    parts = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for name, part in list(parts):
        inner = mutations(part) if isinstance(part, (dict, list)) else iter(WRONG)
        for other in inner:
            copy = value.copy()
            copy[name] = other
            yield copy
        copy = value.copy()
        del copy[name]
        yield copy


@pytest.mark.parametrize("every", [23, pytest.param(1, marks=pytest.mark.full)])
def test_no_value_of_a_runs_json_is_a_traceback(run: RunDir, every: int) -> None:
    """With the right digests: a page is shown, or one line says what is wrong."""
    refused, shown = 0, 0
    for name in ("status.json", "overrides.json", "manifest.json", "evaluation.json"):
        path = run.path / name
        good = path.read_bytes()
        for number, value in enumerate(mutations(json.loads(good))):
            if number % every:
                continue
            if name == "status.json" and isinstance(value, dict):
                rewrite(path, json.dumps(value))
            elif name == "status.json":
                path.write_text(json.dumps(value))
            else:
                rewrite(path, json.dumps(value))
            for call in (lambda: read_run(run.path), lambda: continued(run.path, [])):
                try:
                    recorded = call()
                except ValueError as error:
                    assert_one_line(error)
                    refused += 1
                    continue
                if recorded is not None and shown % 20 == 0:
                    list(terminal.summary(read_run(run.path)))
                    report.page(read_run(run.path), run.path)
                shown += 1
        path.write_bytes(good)
        rewrite(path, good)
    sys.stdout.write(f"values of JSON: {refused} refused, {shown} read, 0 tracebacks\n")
    assert refused > 100


@pytest.mark.parametrize("every", [41, pytest.param(3, marks=pytest.mark.full)])
def test_no_fact_of_a_checkpoint_is_a_traceback(
    small: SmallRuns, whole: Path, tmp_path: Path, every: int
) -> None:
    """With the right digest: it is gone on from, or one line says what is wrong."""
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    path = RunDir(folder).checkpoint("last")
    tensors, facts = read_checkpoint(path)
    state = {k: facts[k] for k in ("train_state", "optimizer", "scheduler", "stopping", "run")}
    experiment = small.experiment("trainer.max_epoch=4")
    refused = 0
    for number, value in enumerate(mutations(state)):
        if number % every or not isinstance(value, dict):
            continue
        others = {name: fact for name, fact in facts.items() if name not in state}
        save_checkpoint(path, tensors, {**others, **value})
        run = RunDir.follow(folder)
        trainer = experiment.trainer(run, None)  # type: ignore[arg-type]
        try:
            trainer.resume()
        except ValueError as error:
            assert_one_line(error)
            refused += 1
    sys.stdout.write(f"facts of checkpoints: {refused} refused, 0 tracebacks\n")
    assert refused > 10


def test_a_bomb_of_yaml_is_refused_at_once(run: RunDir) -> None:
    levels = "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
    )
    bombs = ("a: &a [1, 1]\n" + levels, "[" * 10_000, "a: {" * 100, "x" * (2 << 20))
    for bomb in bombs:
        with pytest.raises(ValueError, match=r"an alias|nested deeper|larger than|not YAML"):
            parse_yaml(bomb, "config.yaml")
        run.write_config(bomb, [])
        with pytest.raises(ValueError, match="recorded configuration"):
            read_config(bomb)
        read_run(run.path)  # shown word for word


def bomb(path: Path, method: int, size: int) -> None:
    """An archive whose array is said to be of 1,000 bytes."""
    data = io.BytesIO()
    np.save(data, np.zeros(size, np.int8))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("result.npy", data.getvalue())
    content = path.read_bytes()
    declared = (size + 128).to_bytes(4, "little")
    assert content.count(declared) >= 2
    path.write_bytes(content.replace(declared, (1000).to_bytes(4, "little")))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_lies_about_its_size_is_not_unpacked(tmp_path: Path, method: int) -> None:
    bomb(tmp_path / "flow.npz", method, 50 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"flow\.npz: "):
            Folder(tmp_path).array("flow.npz", "result")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\r", "\x7f", "\u202e", "\u2066", "\u2028"]
)
def test_no_command_to_the_terminal_is_printed(run: RunDir, text: str) -> None:
    evaluation = json.loads(run.evaluation_file.read_text())
    evaluation |= {"verdict": f"good{text}", "notes": [text], "targets": []}
    rewrite(run.evaluation_file, json.dumps(evaluation))
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=False, width=80)
    for piece in terminal.summary(read_run(run.path)):
        console.print(piece)
    assert text not in screen.getvalue()
    assert "good?" in screen.getvalue()
    assert printable("plain\ttext\nÅ中 ✓") == "plain\ttext\nÅ中 ✓"


def test_the_resume_of_a_planted_folder_is_one_line(
    whole: Path, tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "sesame")
    run = RunDir(Path(shutil.copytree(whole, tmp_path / "run")))
    config, words = run.read_config()
    recorded: dict[str, tuple[str, list[str]]] = {
        "names the environment": (config.replace("name: n", "name: ${oc.env:SECRET} #"), words),
        "in a word": (config, [*words, "tags=['${oc.env:SECRET}']"]),
        "creates": (config + "x: ${oc.create:{_target_:os.mkdir}}\n", words),
        "leads out": (config, [*words, "experiment=../../../x/envset"]),
        "a group elsewhere": (config, [*words, "+model@hydra.job.env_set=stockformer"]),
        "no text": (config, [5]),  # type: ignore[list-item]
        "no list": (config, {"a": 1}),  # type: ignore[dict-item]
    }
    for what, (text, lines) in recorded.items():
        run._write(run.config_file, text.encode())
        run._write(run.overrides_file, json.dumps(lines).encode())
        status, output = captured(lambda: train_main([f"resume={run.path}", "trainer.max_epoch=4"]))
        assert status == 1, what
        assert "error: " in output
        assert "sesame" not in output
        assert "Traceback" not in output
    run.write_config(config, words)
    (run.path / ".config.yaml.tmp").symlink_to(victim)
    status, output = captured(lambda: train_main([f"resume={run.path}", "trainer.max_epoch=4"]))
    assert (status, ".config.yaml.tmp: a link" in output) == (1, True)


def test_threads_that_would_crash_torch_are_refused(run: RunDir, whole: Path) -> None:
    run = RunDir(Path(shutil.copytree(whole, run.path.parent / "other")))
    for threads in (0, -1, 1025, 2**31):
        run.write_manifest(run.read_manifest() | {"threads": threads})
        with pytest.raises(ValueError, match=rf"manifest\.json: damaged: {threads} threads"):
            reevaluate(run.path, [])


def test_temporary_files_of_the_killed_are_removed_when_a_run_is_reopened(run: RunDir) -> None:
    left = run.path / f".{'0' * 16}.tmp"
    left.write_text("half")
    with contextlib.suppress(KeyError), RunDir.reopen(run.path):
        raise KeyError
    assert not left.exists()
