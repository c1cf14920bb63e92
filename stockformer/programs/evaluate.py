"""Evaluate a trained model again, elsewhere, or several as one; nothing is fitted.

    python evaluate.py run=FOLDER                on its own test days: the same to the bit?
    python evaluate.py run=FOLDER split.fold=1   elsewhere: dataset=, split=, backtest=, paths.*
    python evaluate.py run=[FOLDER,FOLDER]       as one: averaged on the same dates, else stitched
    python evaluate.py run=SWEEP                 likewise the runs of a sweep's folder
    ... importance=true                          also: what moved the forecasts of one run
    ... into=FOLDER                              where that goes
    ... output=FILE.html                         its page there, not in the folder

Ends with the closing table and the page, as analyze.py shows them.
"""

from collections.abc import Iterable
from typing import Any

from stockformer.commands.plain_command import Words, plain_command

VALID = {
    "run": "FOLDER or [FOLDER,FOLDER]",
    "importance": "true",
    "into": "FOLDER",
    "output": "FILE.html",
}


def evaluate(words: Words, overrides: list[str]) -> Iterable[Any]:
    from stockformer.commands import evaluate as command  # noqa: PLC0415 (torch, after the checks)

    return command.evaluate(words, overrides)


main = plain_command(__doc__, VALID, evaluate, overrides=True)
