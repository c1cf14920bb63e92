"""A page: sections of tables, figures and text, as one self-contained HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stockformer.reporting.tables import Table
from stockformer.runs import atomic

PLOTLY = files("stockformer.reporting") / "vendor" / "plotly-basic.min.js"
"""Plotly's partial bundle with scatter, bar and pie, a quarter of the whole; docs/dependencies.md
has its version, the one whose figures the package plotly describes."""
NO_VALUE = "No value to draw."


@dataclass(frozen=True)
class Plot:
    """A figure with its title; the caption explains how to read it.

    follows: id of a table; the figure has one trace for each of its rows, hidden with the row.
    least_width: in rem; on a narrower screen the figure scrolls sideways.
    """

    title: str
    figure: go.Figure
    caption: str = ""
    follows: str = ""
    least_width: int = 0

    def json(self) -> Markup:
        """For a script element; `<` is escaped, because only it can end the element."""
        return for_script(self.figure.to_json())

    @property
    def height(self) -> int:
        """In pixels; the place is kept until the figure is drawn."""
        return int(self.figure.layout.height or 270)

    @property
    def missing(self) -> str:
        """What the page says instead of empty axes if no trace has a finite value."""
        return "" if any(map(_has_values, self.figure.data)) else NO_VALUE


@dataclass(frozen=True)
class Text:
    """A long text, shown verbatim and collapsed."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """The content under one heading, in this order.

    pairs: the data of the page's comparison of two rows, as JSON. details: tables that come after
    the figures. links: addresses by title. anchor: the section's address within the page; by
    default its number. panels: the figures are small and stand side by side. folded: the title
    under which tables and remarks that come last are collapsed, if there are any.
    """

    title: str
    lead: str = ""
    tables: Sequence[Table] = ()
    remarks: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    pairs: str = ""
    details: Sequence[Table] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    texts: Sequence[Text] = ()
    anchor: str = ""
    panels: bool = False
    folded: str = ""
    folded_tables: Sequence[Table] = ()
    folded_remarks: Sequence[str] = ()

    def pairs_json(self) -> Markup:
        return for_script(self.pairs)


@dataclass(frozen=True)
class Mark:
    """One item of the card or the strip at the head of a page.

    answer: good, bad, unsure or plain, which has no colour; word: the answer itself, so that colour
    is never alone.
    """

    title: str
    answer: str
    word: str
    text: str = ""

    @property
    def icon(self) -> str:
        return ICONS[self.answer]


ICONS = {"good": "\u2713", "bad": "\u2715", "unsure": "?", "plain": "\u2022"}


@dataclass(frozen=True)
class Page:
    """kind and name: the page's subject; state: one that the style sheet has a mark for.

    card: the answers to the page's main questions; strip: what their evidence rests on.
    """

    kind: str
    name: str
    headline: str
    subtitle: str
    state: str
    sections: Sequence[Section]
    card: Sequence[Mark] = ()
    strip: Sequence[Mark] = ()

    def anchor(self, number: int) -> str:
        """The address of the section of that number, counted from 1."""
        return self.sections[number - 1].anchor or f"section-{number}"

    @property
    def has_board(self) -> bool:
        """Whether a table can be sorted or filtered."""
        return any(table.board for section in self.sections for table in section.tables)

    @property
    def has_plots(self) -> bool:
        return any(section.plots for section in self.sections)

    def html(self) -> str:
        """The HTML; the template escapes all text that comes from a run."""
        environment = Environment(
            loader=PackageLoader("stockformer", "reporting"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        template = environment.get_template("page.html")
        return template.render(page=self, plotly=Markup(PLOTLY.read_text("utf-8")))

    def write(self, path: Path) -> Path:
        """Write the page completely or not at all. Raises ValueError if it cannot be written."""
        require_html(path)
        html = self.html()
        try:
            if not path.parent.is_dir():
                raise FileNotFoundError(0, "no such folder")
            atomic.write(path, html.encode(errors="replace"))
        except OSError as error:
            reason = (error.__cause__ or error).args[1]
            raise ValueError(
                f"{path}: cannot be written ({reason}); choose another file with output=FILE"
            ) from error
        return path


def require_html(path: Path) -> None:
    if path.suffix != ".html":
        raise ValueError(f"output={path}: must end in .html")


def address(target: Path, page_folder: Path) -> str:
    """The relative link to a file or folder from a page in the folder `page_folder`."""
    path = Path(os.path.relpath(target.resolve(), page_folder.resolve()))
    return quote(path.as_posix()) + ("/" if target.is_dir() else "")


def _has_values(trace: go.Figure) -> bool:
    """Whether both coordinates of a point of the trace are known."""
    if trace.x is None or trace.y is None:
        return False
    known = [~pd.isna(np.asarray(values)) for values in (trace.x, trace.y)]
    return bool(np.logical_and(*known).any())


def for_script(json: str) -> Markup:
    return Markup(json.replace("<", "\\u003c"))
