"""The quality report as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections import Counter
from html import escape
from importlib.resources import files

import numpy as np
import pandas as pd
from PIL import Image

from stockformer.data.reading.findings import ERROR, LEVELS, REPAIRED, WARNING
from stockformer.data.reading.quality import MISSING, NOT_LISTED, TRADED, Report

COLOURS = {NOT_LISTED: (225, 225, 225), MISSING: (240, 150, 60), TRADED: (36, 88, 124)}
MEANING = {NOT_LISTED: "not listed yet", MISSING: "missing or masked", TRADED: "traded"}
MAX_IMAGE = 1000  # pixels a side; beyond it every n-th row or column is drawn
LISTED_STOCKS = 40  # with the worst coverage
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # no script at all
STYLE = """
th, td, td:last-child { text-align: left; white-space: normal; }
img { width: 100%; min-height: 6em; image-rendering: pixelated; border: 1px solid var(--line); }
.verdict { padding: .6em .9em; border-left: 6px solid currentColor; font-size: 1.1em; }
.verdict { font-weight: 600; }
.caption { margin: .2em 0 .8em; font-size: .9em; color: var(--soft); }
.error { color: var(--bad); } .warning { color: var(--wait); }
.repaired, .usable { color: var(--good); }
.key { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1em; }
"""
"""After page.css, whose colours follow the reader's light or dark mode."""
COLUMNS = {
    "first": "first day traded",
    "last": "last day traded",
    "days": "days traded",
    "coverage": "traded since its listing",
    "cells": "cells (a stock on a day)",
    "what": "what was found",
}


def html(report: Report) -> str:
    """The page: verdict, facts, coverage, findings, calendar, and the stocks worst covered."""
    name, dates = escape(report.name), report.panel.dates
    style = (files("stockformer.reporting") / "page.css").read_text("utf-8")
    first, *rest = report.lines()
    shown = [line for line in rest if line.split(" - ")[0] not in LEVELS]
    kind, sentence = verdict(report)
    return "\n".join(
        [
            "<!doctype html><html lang='en'><meta charset='utf-8'>",
            "<meta name='viewport' content='width=device-width, initial-scale=1'>",
            f"<meta http-equiv='Content-Security-Policy' content=\"{POLICY}\">",
            f"<title>{name}: data quality</title><style>{style}{STYLE}</style>",
            f"<main><h1>Data quality: {name}</h1>",
            f"<p class='verdict {kind}'>{escape(sentence)}</p>",
            f"<p>{escape(first)}</p>",
            *(f"<p>{escape(line)}</p>" for line in shown),
            "<h2>Coverage</h2>",
            f"<img alt='Coverage by stock and date' src='{_image(_by_coverage(report))}'>",
            _caption(
                f"{dates[0]} (left) to {dates[-1]} (right); one line a stock, the worst covered "
                "at the top. Good: one colour, with late listings at the left. A vertical line is "
                "a day on which many stocks are missing, a horizontal one a stock with gaps.",
                _legend(),
            ),
            "<h2>Findings</h2>",
            _findings(report, "Findings"),
            _caption(
                "Good: none. An error refuses the data, a warning is for you to judge, and what "
                "was repaired is not in the data any more."
            ),
            "<h2>Weekend sessions and long breaks</h2>",
            _table(report.sessions, "Weekend sessions and long breaks"),
            _caption("Good: only those that the exchange's own calendar has."),
            "<h2>Stocks with the worst coverage</h2>",
            _table(report.stocks[:LISTED_STOCKS], "Stocks with the worst coverage"),
            _caption(
                "Good: close to 100 %. A stock that is traded on few days has returns over several "
                "days, which are left out."
            ),
            "</main></html>",
        ]
    )


def verdict(report: Report) -> tuple[str, str]:
    """Whether the data can be used, and why not: error, warning or usable, and the sentence."""
    numbers: dict[str, Counter[str]] = {level: Counter() for level in LEVELS}
    for finding in report.panel.findings:
        numbers[finding.level][finding.check] += finding.count
    for level, answer, todo in (
        (ERROR, "Not usable", "correct these first"),
        (WARNING, "Usable with warnings", "look at these before you trust a result"),
    ):
        found = numbers[level]
        if found:
            checks = ", ".join(f"{check} ({count:,})" for check, count in found.most_common(5))
            more = f" and {len(found) - 5} more checks" if len(found) > 5 else ""
            return level, f"{answer}: {checks}{more}; {todo}."
    if report.panel.notes:
        return WARNING, f"Usable with warnings: {'; '.join(report.panel.notes)}."
    repaired = sum(numbers[REPAIRED].values())
    done = f" {repaired:,} cells were repaired." if repaired else ""
    return "usable", f"Usable: no check found an error or a reason for a warning.{done}"


def _caption(text: str, markup: str = "") -> str:
    return f"<p class='caption'>{escape(text)}{markup}</p>"


def _legend() -> str:
    return "".join(
        f"<span class='key' style='background: rgb{colour}'></span>{MEANING[state]}"
        for state, colour in COLOURS.items()
    )


def _by_coverage(report: Report) -> np.ndarray:
    """The states (N, T), stocks in the order of the report."""
    position = {ticker: i for i, ticker in enumerate(report.panel.tickers.tolist())}
    return report.states.T[[position[ticker] for ticker in report.stocks.index]]


def _findings(report: Report, title: str) -> str:
    frame = pd.DataFrame(
        [
            {
                "level": f.level,
                "check": f.check,
                "ticker": f.ticker,
                "date": f.date,
                "cells": f.count,
                "what": str(f),
            }
            for f in report.panel.findings
        ]
    )
    return _table(frame, title, index=False)


def _table(frame: pd.DataFrame, title: str, index: bool = True) -> str:
    """Rows as HTML; names of levels become classes, and every text is escaped.

    title: its name for a screen reader.
    """
    if frame.empty:
        return "<p>none</p>"
    columns = frame.reset_index() if index else frame
    head = "".join(f"<th>{escape(COLUMNS.get(str(name), str(name)))}</th>" for name in columns)
    rows = []
    for values in columns.itertuples(index=False):
        level = next((v for v in values if v in LEVELS), "")
        cells = [f"{v:.1%}" if isinstance(v, float) else escape(str(v)) for v in values]
        rows.append(f"<tr class='{level}'>" + "".join(f"<td>{c}</td>" for c in cells))
    scroll = f"<div class='scroll' tabindex='0' role='group' aria-label='{escape(title)}'>"
    return f"{scroll}<table><tr>{head}{''.join(rows)}</table></div>"


def _image(states: np.ndarray) -> str:
    """A picture of small integers (rows, columns) as a PNG data address."""
    step = [-(-size // MAX_IMAGE) for size in states.shape]
    picture = Image.fromarray(np.ascontiguousarray(states[:: step[0], :: step[1]], np.uint8), "P")
    picture.putpalette([value for state in sorted(COLOURS) for value in COLOURS[state]])
    png = io.BytesIO()
    picture.save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
