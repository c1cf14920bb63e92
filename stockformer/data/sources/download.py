"""Download daily prices, one file a stock, into the layout that dataset=nifty200 reads.

    python -m stockformer.data.sources.download universe=nifty200 start=2022-01-01
    ... universe=FILE      a list of your own: a CSV with ticker, and optionally symbol, sector
    ... end=2024-08-30     the last day; else the newest complete session
    ... into=FOLDER        else the universe's folder in $STOCKFORMER_DATA, or in data
    ... tickers=AAA,BBB    only these of the universe

The same command again continues: it adds new sessions, and downloads what is missing. Prices come
from Yahoo Finance through yfinance (pip install 'stockformer[download]'). docs/data.md describes
the files and what is checked.
"""

from collections.abc import Iterable
from typing import Any

from stockformer.commands.plain_command import Words, plain_command

VALID = {
    "universe": "NAME or FILE",
    "start": "DATE",
    "end": "DATE",
    "into": "FOLDER",
    "tickers": "TICKER,TICKER",
}


def download(words: Words, _: list[str]) -> Iterable[Any]:
    from rich.text import Text  # noqa: PLC0415 (after the parsing, as all below)

    from stockformer.data.download import command  # noqa: PLC0415
    from stockformer.data.download.yahoo import Yahoo  # noqa: PLC0415
    from stockformer.runs.console import printable  # noqa: PLC0415

    try:
        for line in command.download(words, Yahoo):
            yield Text(printable(line))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(
            "interrupted; all files are whole. The same command continues"
        ) from stop


main = plain_command(__doc__, VALID, download)

if __name__ == "__main__":
    main()
