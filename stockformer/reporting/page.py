"""A page: sections of tables, figures and words, as one HTML file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from stockformer.reporting.tables import Table
from stockformer.runs import atomic


@dataclass(frozen=True)
class Plot:
    """A figure under its title; the caption says how to read it.

    follows: the figure has a trace a row of this table, hidden with it. least_width: in
    rem; where the screen is narrower, the figure is moved under the finger.
    """

    title: str
    figure: go.Figure
    caption: str = ""
    follows: str = ""
    least_width: int = 0

    def json(self) -> Markup:
        """For a script element, which only a `<` can end."""
        return for_script(self.figure.to_json())


@dataclass(frozen=True)
class Text:
    """Something long, word for word, folded away."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """What stands under one heading, in this order.

    pairs: the content of the page's chooser of two rows to compare, as JSON. details: tables that
    come after the figures. links: addresses by title.
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

    def pairs_json(self) -> Markup:
        return for_script(self.pairs)


@dataclass(frozen=True)
class Page:
    """kind and name: what the page is about; state: one that the style sheet has a mark for."""

    kind: str
    name: str
    headline: str
    subtitle: str
    state: str
    sections: Sequence[Section]

    @property
    def has_board(self) -> bool:
        """Whether there is anything to sort or filter."""
        return any(table.board for section in self.sections for table in section.tables)

    def html(self) -> str:
        """Whatever text comes from a run is escaped by the template."""
        environment = Environment(
            loader=PackageLoader("stockformer", "reporting"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        template = environment.get_template("page.html")
        return template.render(page=self, plotly=Markup(get_plotlyjs()))

    def write(self, path: Path) -> Path:
        """Write the page whole or not at all. Raises ValueError where it cannot be written."""
        require_html(path)
        html = self.html()
        try:
            if not path.parent.is_dir():
                raise FileNotFoundError(0, "no such folder")
            atomic.write(path, html.encode(errors="replace"))
        except OSError as error:
            reason = (error.__cause__ or error).args[1]
            raise ValueError(
                f"{path}: cannot be written ({reason}); name another place with output=FILE"
            ) from error
        return path


def require_html(path: Path) -> None:
    if path.suffix != ".html":
        raise ValueError(f"output={path}: must end in .html")


def address(target: Path, beside: Path) -> str:
    """A link's address of a file or folder, as seen from a page in `beside`."""
    path = Path(os.path.relpath(target.resolve(), beside.resolve()))
    return quote(path.as_posix()) + ("/" if target.is_dir() else "")


def for_script(json: str) -> Markup:
    return Markup(json.replace("<", "\\u003c"))
