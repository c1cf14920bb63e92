"""A page: sections of tables, figures and text, as one self-contained HTML file."""

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


@dataclass(frozen=True)
class Text:
    """A long text, shown verbatim and collapsed."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """The content under one heading, in this order.

    pairs: the data of the page's comparison of two rows, as JSON. explorer: those of its explorer
    (`explorer_section`). details: tables that come after the figures. links: addresses by title.
    """

    title: str
    lead: str = ""
    tables: Sequence[Table] = ()
    remarks: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    pairs: str = ""
    explorer: str = ""
    details: Sequence[Table] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    texts: Sequence[Text] = ()

    def pairs_json(self) -> Markup:
        return for_script(self.pairs)

    def explorer_json(self) -> Markup:
        return for_script(self.explorer)


@dataclass(frozen=True)
class Page:
    """kind and name: the page's subject; state: one that the style sheet has a mark for."""

    kind: str
    name: str
    headline: str
    subtitle: str
    state: str
    sections: Sequence[Section]

    @property
    def has_board(self) -> bool:
        """Whether a table can be sorted or filtered."""
        return any(table.board for section in self.sections for table in section.tables)

    @property
    def has_explorer(self) -> bool:
        return any(section.explorer for section in self.sections)

    @property
    def has_plots(self) -> bool:
        return any(section.plots or section.explorer for section in self.sections)

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
        return template.render(page=self, plotly=Markup(get_plotlyjs()))

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


def for_script(json: str) -> Markup:
    return Markup(json.replace("<", "\\u003c").replace("&", "\\u0026"))
