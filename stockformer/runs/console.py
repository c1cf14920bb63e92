"""Standard output and error that outlive their terminal, and show any text on any terminal."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# What the log draws with, for a terminal that is not UTF-8; other characters become \uXXXX.
IN_ASCII = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-", "\N{EN DASH}": "-"})
ERRORS = "stockformer.in_ascii"

# Control characters, marks of direction and other invisible ones, line separators, surrogates.
HARMFUL = ("Cc", "Cf", "Zl", "Zp", "Cs")
KEPT = "\n\t"


class ResilientFile(io.FileIO):
    """A standard stream's file, which becomes /dev/null once nothing can be written to it.

    A closed pipe, a terminal that has gone or a full disk behind a redirection must not end a run.
    """

    lost = ""  # why, from then on
    former: Any = (
        None  # the stream this stands for, which would close the number if it were dropped
    )

    def write(self, data: Any, /) -> int:
        try:
            written = super().write(data)
            if written is None:  # something else has set the terminal to refuse what it must queue
                os.set_blocking(self.fileno(), True)
                written = super().write(data)
            return written
        except OSError as error:
            self.lost = error.strerror or str(error)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # libraries in C write to the number
            os.close(nowhere)
            return len(data)


def make_streams_resilient() -> None:
    """From now on no write to standard output or error raises. Calling it again changes nothing.

    A stream that is closed becomes /dev/null: a file opened later would take its number, and what
    is printed would land in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None and (_resilient_file(stream) or not _is_file(stream, number)):
            continue  # a notebook's, or a test's, which has its own way
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.flush()
        file = ResilientFile(number, "w", closefd=False)
        file.former = stream
        encoding = "utf-8" if stream is None else stream.encoding
        text = io.TextIOWrapper(
            io.BufferedWriter(file), encoding=encoding, errors=ERRORS, line_buffering=True
        )
        setattr(sys, name, text)


def _resilient_file(stream: Any) -> ResilientFile | None:
    """The file behind a stream that `make_streams_resilient` made."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, ResilientFile) else None


def why_lost() -> str:
    """Why standard output goes nowhere; empty while it does not."""
    file = _resilient_file(sys.stdout)
    return file.lost if file else ""


def is_interactive() -> bool:
    """Whether standard output is a terminal that can redraw a line, e.g. for a progress bar."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def make_console() -> Console:
    """Standard output for rich text: without colour and bold where NO_COLOR is set.

    FORCE_COLOR colours also what is no terminal, unless it is 0.
    """
    from rich.console import Console  # noqa: PLC0415 (slow, not needed for an error)

    forced = os.environ.get("FORCE_COLOR")
    colours = None if os.environ.get("NO_COLOR") or forced in ("0", "false") else "auto"
    return Console(color_system=colours, highlight=False)  # type: ignore[arg-type]


def printable(text: str) -> str:
    """`text` with a ? for each character that would not show as itself; line ends and tabs stay.

    For text that may come from a file: escape sequences could hide or forge lines, set the
    terminal's title or fill its clipboard; marks of direction can make a line read as another.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join("?" if c not in KEPT and unicodedata.category(c) in HARMFUL else c for c in text)


def program(name: str) -> str:
    """How a program is started, in the way that this one was: `python train.py` in a checkout,
    `stockformer-train` of the installed package."""
    started = os.path.basename(sys.argv[0])
    return f"stockformer-{name}" if started.startswith("stockformer-") else f"python {name}.py"


def as_started(text: str) -> str:
    """A text with the programs' names of a checkout, with those that are there."""
    return re.sub(
        r"python (train|validate|evaluate|analyze|predict)\.py", lambda m: program(m[1]), text
    )


def human_time(seconds: float) -> str:
    """12 s, 3 min 20 s, 1 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def _is_file(stream: Any, number: int) -> bool:
    try:
        return bool(stream.fileno() == number)
    except (OSError, ValueError):
        return False


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(IN_ASCII)
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error(ERRORS, _in_ascii)
