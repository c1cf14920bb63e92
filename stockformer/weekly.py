"""Train a model each week, and replace the one in use only if the new one is better.

    python -m stockformer.weekly champion=FOLDER SETTINGS       a week, with train.py's settings
    ... download='universe=nifty200 start=2022-01-01'           first get the newest data
    ... test_days=60        days the two models are compared on; neither has seen them
    ... validation_days=20  days before, which select the new model's epoch
    ... min_days=20         fewest days for a decision
    ... alpha=0.01          level of the one-sided paired test that promotes

Validates the data and settings, trains a run in FOLDER/runs/DATE, from the weights of a former
champion where that has not seen the run's days, and compares it with the champion on the same days.
FOLDER/champion.json records each decision. Run the same week again after an interruption: what is
done is not repeated. docs/weekly.md
"""

from collections.abc import Iterable
from typing import Any

from stockformer.commands.plain_command import Words, plain_command

VALID = {
    "champion": "FOLDER",
    "download": "'WORDS'",
    "test_days": "NUMBER",
    "validation_days": "NUMBER",
    "min_days": "NUMBER",
    "alpha": "NUMBER",
}


def weekly(words: Words, overrides: list[str]) -> Iterable[Any]:
    from stockformer.commands import weekly as command  # noqa: PLC0415 (torch, after the checks)

    return command.weekly(words, overrides)


main = plain_command(__doc__, VALID, weekly, overrides=True)

if __name__ == "__main__":
    main()
