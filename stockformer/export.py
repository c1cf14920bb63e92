"""Export a run's model as one file that needs neither this project nor its settings.

    python -m stockformer.export run=FOLDER              torch.export: RUN/export/model.pt2
    python -m stockformer.export run=FOLDER format=onnx  ONNX: RUN/export/model.onnx
    ... into=FOLDER                                      where it goes, else FOLDER/export
    ... paths.data_dir=FOLDER                            the data, if they have moved

The file is checked on every test day of the run. inputs.json beside it says what it must be given.
"""

from collections.abc import Iterable
from typing import Any

from stockformer.commands.plain_command import Words, plain_command

VALID = {"run": "FOLDER", "format": "torch or onnx", "into": "FOLDER"}


def export(words: Words, overrides: list[str]) -> Iterable[Any]:
    from stockformer.runs import export as command  # noqa: PLC0415 (torch, after the checks)

    return command.export(words, overrides)


main = plain_command(__doc__, VALID, export, overrides=True)

if __name__ == "__main__":
    main()
