"""A command goes on without its terminal, and prints on any."""

from __future__ import annotations

import errno
import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.text import Text

from stockformer.runs import console
from stockformer.runs.console import make_console, make_streams_resilient

ROOT = Path(__file__).parents[2]
Talk = Callable[..., tuple[int, str]]
# All that writes: print, the log, a progress bar, a table, a warning, a child, an exit.
TALK = """
import logging, os, sys, warnings
from stockformer.runs.logs import start_log
start_log()
from rich.progress import track
from rich.table import Table
from stockformer.runs.console import make_console
log = logging.getLogger("stockformer")
kept = logging.FileHandler(sys.argv[1], encoding="utf-8")
log.addHandler(kept)
for number in range(40):
    log.info("line %d ├─ é 中", number)
    print("printed", number, flush=True)
    warnings.warn(f"warned {number}")
    make_console().print(Table("a", "b"))
    os.system("echo a child")
for _ in track(range(3), console=make_console()):
    pass
log.info("the end")
sys.exit("error: ─ the message")
"""


@pytest.fixture
def talk(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """The status of a shell that starts a process which writes in every way, and what its log has.

    command: what the shell does with it, e.g. "exec $TALK | head".
    """
    program, kept = tmp_path / "talk.py", tmp_path / "log"
    program.write_text(TALK, encoding="utf-8")

    def call(command: str, stdout: int, **environment: str) -> tuple[int, str]:
        words = {"TALK": f"{sys.executable} {program} {kept}", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, **words, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stdout,
            timeout=60,
            check=False,
        )
        return done.returncode, kept.read_text(encoding="utf-8")

    return call


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def gone_terminal() -> int:
    """A terminal whose other end was closed: writes fail with EIO."""
    other, terminal = pty.openpty()
    os.close(other)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        os.write(terminal, b"x")
    return terminal


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("make", [closed_pipe, gone_terminal, full_disk])
def test_a_process_ends_as_it_would_though_nothing_can_be_printed(
    make: Callable[[], int], talk: Talk
) -> None:
    gone = make()
    status, kept = talk("exec $TALK", gone)
    os.close(gone)
    assert status == 1  # that of sys.exit with a message
    assert "line 39" in kept
    assert "the end" in kept
    assert kept.count("the terminal is gone") == 1


def test_a_reader_that_leaves(talk: Talk, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        status, kept = talk("$TALK | head -3; exit ${PIPESTATUS[0]}", out.fileno())
    shown = (tmp_path / "out").read_text()
    assert status == 1
    assert "BrokenPipe" not in shown
    assert "error: ─ the message" in shown
    assert "the end" in kept


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_never_taken_for_files_that_are_opened_later(
    closed: str, talk: Talk
) -> None:
    status, kept = talk(f"exec $TALK {closed}", subprocess.DEVNULL)
    assert status == 1
    assert "the end" in kept
    assert "printed" not in kept
    assert "a child" not in kept


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "cp1252:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda environment: " ".join(environment.values()),
)
def test_what_a_terminal_cannot_show_is_shown_in_ascii(
    environment: dict[str, str], talk: Talk, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("wb") as out:
        status, _ = talk("exec $TALK", out.fileno(), **environment)
    shown = (tmp_path / "out").read_bytes()
    assert status == 1
    assert rb"line 0 |- " in shown
    assert rb"\u4e2d" in shown  # a character there is no plain one for
    assert b"error: - the message" in shown
    assert b"Traceback" not in shown


def test_a_path_that_is_no_utf8_is_shown() -> None:
    text = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=console.ERRORS)
    text.write(os.fsdecode(b"/tmp/\xff"))
    text.flush()
    assert text.buffer.getvalue() == rb"/tmp/\udcff"  # type: ignore[attr-defined]


def test_a_terminal_that_does_not_wait_loses_nothing() -> None:
    """Another process may have set the terminal they share to refuse what it would queue."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    child = os.fork()
    if not child:
        os.dup2(writer, 1)
        sys.stdout = os.fdopen(1, "w")
        make_streams_resilient()
        sys.stdout.write("x" * 200_000)
        sys.stdout.flush()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        assert len(file.read()) == 200_000
    assert os.waitpid(child, 0)[1] == 0


def test_a_tests_or_a_notebooks_streams_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    make_streams_resilient()
    assert (sys.stdout, sys.stderr) == before


def shown(terminal: bool, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What bold red text comes out as."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", out)
    make_console().print(Text("text", style="bold red"))
    return out.getvalue().strip()


@pytest.mark.parametrize(
    ("terminal", "environment", "styled"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),  # empty: as if it were not set
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": "0"}, False),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {"FORCE_COLOR": "0"}, False),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "0"}, False),
    ],
)
def test_colours_and_bold(
    terminal: bool, environment: dict[str, str], styled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(terminal, monkeypatch, **environment)
    assert (text != "text") == styled
    assert "text" in text


def test_only_a_terminal_that_can_redraw_is_animated(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert not console.is_interactive()
    monkeypatch.setattr(out, "isatty", lambda: True)
    assert console.is_interactive()
    monkeypatch.setenv("TERM", "dumb")
    assert not console.is_interactive()
