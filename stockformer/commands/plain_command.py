"""A command with a few named words, such as `python analyze.py run=FOLDER`: help, parse, print."""

from __future__ import annotations

import difflib
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stockformer.runs.console import (
    as_started,
    is_interactive,
    make_console,
    make_streams_resilient,
    printable,
)

MOVED = {
    "evaluate": "a model is evaluated again by python evaluate.py run=FOLDER",
    "ensemble": "runs are evaluated as one by python evaluate.py run=[FOLDER,FOLDER]",
}
"""Words of version 0.1."""

Words = dict[str, str]
Function = Callable[[Words, list[str]], Iterable[Any]]


def plain_command(
    usage: str, valid: Mapping[str, str], function: Function, overrides: bool = False
) -> Callable[[], None]:
    """A program that prints what `function(words, overrides)` yields.

    usage: for --help. valid: the words it takes, with a description of their value. overrides:
    whether other KEY=VALUE words are passed on. A user's mistake gives one line and status 1.
    """

    def main() -> None:
        make_streams_resilient()
        if {"-h", "--help"} & set(sys.argv[1:]):
            sys.stdout.write(as_started(usage))
            return
        if "--version" in sys.argv[1:]:
            from stockformer.commands.command import version  # noqa: PLC0415 (Hydra)

            sys.stdout.write(version())
            return
        try:
            words, others = parse(sys.argv[1:], valid, overrides)
            if others:
                from stockformer.config.trust import names_packages, trust_named  # noqa: PLC0415

                trust_named(others)
                others = [word for word in others if not names_packages(word)]
            console = make_console()
            for piece in function(words, others):
                console.print(piece, soft_wrap=not is_interactive())
        except (ValueError, OSError, FloatingPointError, MemoryError) as error:
            sys.exit(printable(f"error: {error}"))
        except KeyboardInterrupt as stop:  # it may say what is left
            sys.stderr.write(f"{stop}\n" if stop.args else "interrupted\n")
            sys.exit(128 + signal.SIGINT)

    return main


def parse(
    words: Sequence[str], valid: Mapping[str, str], overrides: bool
) -> tuple[Words, list[str]]:
    """The valid words by name, and the others.

    Raises ValueError for a word that is unknown, has no value, or occurs twice.
    """
    named: Words = {}
    others = []
    for word in words:
        name, _, value = word.partition("=")
        if name in valid and value and name not in named:
            named[name] = value
        elif overrides and name not in valid and value:
            if near := difflib.get_close_matches(name, valid, n=1, cutoff=0.8):
                raise ValueError(f"{word}: there is no {name!r}. Did you mean {near[0]!r}?")
            others.append(word)
        else:
            if name in MOVED:
                raise ValueError(as_started(f"{word}: {MOVED[name]}"))
            near = difflib.get_close_matches(name, valid, n=1)
            hint = f". Did you mean {near[0]!r}?" if near and near[0] != name else ""
            forms = ", ".join(f"{key}={kind}" for key, kind in valid.items())
            raise ValueError(
                f"argument {word!r} not understood; valid are, each once: {forms}{hint}"
            )
    return named, others
