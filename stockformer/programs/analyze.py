"""Look at a run, or at many: in short on the terminal, and with figures as one HTML file.

    python analyze.py                    the newest run of outputs/ and multirun/ in this folder
    python analyze.py run=FOLDER         that run; of a sweep's folder or outputs the leaderboard
    python analyze.py output=FILE.html   the page there, not in report.html or leaderboard.html

The page opens in any browser and needs no network. evaluate.py evaluates a model again.
"""

from collections.abc import Iterable
from typing import Any

from stockformer.commands.plain_command import Words, plain_command

VALID = {"run": "FOLDER", "output": "FILE.html"}


def analyze(words: Words, overrides: list[str]) -> Iterable[Any]:
    from stockformer.commands import analyze as command  # noqa: PLC0415 (pandas, after the checks)

    return command.analyze(words)


main = plain_command(__doc__, VALID, analyze)
