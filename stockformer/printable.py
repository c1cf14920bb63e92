"""Text that may come from a file, made fit for a terminal or a log.

Escape sequences could hide or forge lines, set the terminal's title or fill its clipboard; marks of
direction can make a line read as another.
"""

from __future__ import annotations

import logging
import unicodedata

# Control characters, marks of direction and other invisible ones, line separators, surrogates.
HARMFUL = ("Cc", "Cf", "Zl", "Zp", "Cs")
KEPT = "\n\t"


def printable(text: str) -> str:
    """`text` with a ? for each character that would not show as itself; line ends and tabs stay."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join("?" if c not in KEPT and unicodedata.category(c) in HARMFUL else c for c in text)


class PrintableFormatter(logging.Formatter):
    """A log's lines, whatever they were made of."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
