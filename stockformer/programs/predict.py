"""Forecast a day with a trained model: ranks, probabilities, reasons, and the trades.

    python predict.py run=FOLDER                  the newest day of the data
    python predict.py run=FOLDER asof=2024-08-30  an earlier one, as the backtest saw it
    python predict.py run=SWEEP                   by the best of a sweep's runs
    python predict.py run=[FOLDER,FOLDER]         by their mean; into=FOLDER says where it goes
    ... holdings=FILE.csv                         and the trades from these (ticker,shares)
    ... cash=100000                               and this much money
    ... into=FOLDER                               where it goes, else FOLDER/forecasts/DATE
    ... paths.data_dir=FOLDER                     the data, if they have moved

Nothing is fitted. Days that the model was fitted on or selected by are refused.
"""

from collections.abc import Iterable
from typing import Any

from stockformer.commands.plain_command import Words, plain_command

VALID = {
    "run": "FOLDER or [FOLDER,FOLDER]",
    "asof": "DATE",
    "holdings": "FILE.csv",
    "cash": "AMOUNT",
    "into": "FOLDER",
}


def predict(words: Words, overrides: list[str]) -> Iterable[Any]:
    from stockformer.commands import predict as command  # noqa: PLC0415 (torch, after the checks)

    return command.predict(words, overrides)


main = plain_command(__doc__, VALID, predict, overrides=True)
