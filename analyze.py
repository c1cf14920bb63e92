"""Look at a run, or at many: in short on the terminal, and with figures as one HTML file.

    python analyze.py                    the newest run of outputs/ and multirun/ in this folder
    python analyze.py run=FOLDER         that run; of a sweep's folder or outputs the leaderboard
    python analyze.py output=FILE.html   the page there, not in report.html or leaderboard.html

    python analyze.py run=FOLDER evaluate=true               its model again: the same to the bit?
    python analyze.py run=FOLDER evaluate=true split.fold=1  elsewhere (dataset=, split=, ...)
    python analyze.py ensemble=FOLDER,FOLDER                 runs, or those of a sweep, as one
    ... into=FOLDER                                          where the new judgement goes

The page opens in any browser and needs no network.
"""

import sys
from pathlib import Path


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(__doc__)
        return
    # Help and a mistyped argument are answered before the libraries are there.
    from stockformer.reporting.arguments import parse  # noqa: PLC0415

    try:
        asked = parse(sys.argv[1:])
        from rich.console import Console  # noqa: PLC0415

        from stockformer.reporting import run_reader, terminal  # noqa: PLC0415

        folder = asked.run or (Path() if asked.ensemble else run_reader.newest_run(Path()))
        if asked.evaluate:
            from stockformer.reevaluation import reevaluate  # noqa: PLC0415 (torch, only here)

            folder = reevaluate(folder, asked.overrides, asked.into)
        elif asked.ensemble:
            from stockformer.ensemble import ensemble  # noqa: PLC0415

            folder = ensemble(asked.ensemble, asked.into)
        console = Console(highlight=False)
        for piece in terminal.analyse(folder, asked.output):
            console.print(piece, soft_wrap=not console.is_terminal)
    except (ValueError, OSError, ArithmeticError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
