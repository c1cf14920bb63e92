"""Look at a run: its verdict on the terminal, and a report with figures as one HTML file.

    python analyze.py                    the newest run of outputs/ and multirun/ in this folder
    python analyze.py run=FOLDER         that run
    python analyze.py output=FILE.html   the report there, not in report.html in the run's folder

The report opens in any browser and needs no network.
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

        from stockformer.reporting import report, run_reader, terminal  # noqa: PLC0415

        run = run_reader.read_run(asked.run or run_reader.newest_run(Path()))
        console = Console(highlight=False)
        for piece in terminal.summary(run):
            console.print(piece, soft_wrap=not console.is_terminal)
        path = report.write_report(run, asked.output)
        console.print(f"report: {path}", markup=False, soft_wrap=True)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
