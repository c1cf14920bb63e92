"""Look at a run, or at many: in short on the terminal, and with figures as one HTML file.

    python analyze.py                    the newest run of outputs/ and multirun/ in this folder
    python analyze.py run=FOLDER         that run; of a sweep's folder or outputs the leaderboard
    python analyze.py output=FILE.html   the page there, not in report.html or leaderboard.html

    python analyze.py run=FOLDER evaluate=true               its model again: the same to the bit?
    python analyze.py run=FOLDER evaluate=true split.fold=1  elsewhere (dataset=, split=, ...)
    python analyze.py ensemble=FOLDER,FOLDER                 runs, or those of a sweep, as one
    ... into=FOLDER                                          where that goes

The page opens in any browser and needs no network.
"""

import sys

from stockformer.runs.console import animates, make_console, make_streams_last


def main() -> None:
    make_streams_last()
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(__doc__)
        return
    if "--version" in sys.argv[1:]:
        from stockformer.commands.command import version  # noqa: PLC0415

        sys.stdout.write(version())
        return
    # Help and a mistyped argument are answered before the libraries are there.
    from stockformer.commands.arguments import parse  # noqa: PLC0415

    try:
        asked = parse(sys.argv[1:])
        from stockformer.commands.analysis import analyse  # noqa: PLC0415

        console = make_console()
        for piece in analyse(asked):
            console.print(piece, soft_wrap=not animates())
    except (ValueError, OSError, FloatingPointError) as error:
        from stockformer.runs.console import printable  # noqa: PLC0415

        sys.exit(printable(f"error: {error}"))


if __name__ == "__main__":
    main()
