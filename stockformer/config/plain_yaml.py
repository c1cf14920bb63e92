"""YAML of plain values: nothing that runs code, expands without limit or reads the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

MAX_YAML = 1 << 20  # bytes; a whole configuration has some 5,000
DEEPEST_YAML = 32

REFERENCE = re.compile(r"\$\{\.*[A-Za-z_][\w.\[\]-]*\}")
OF_THE_ENVIRONMENT = re.compile(r"\$\{oc\.env:STOCKFORMER_(DATA|CACHE),\w+\}")


def parse_yaml(text: str, where: str) -> Any:
    """The values in YAML. Raises ValueError naming `where` for anything but plain values."""
    require_plain_yaml(text, where)
    try:
        return yaml.load(text, Loader=_loader())
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{where}: not YAML: {_line(error)}") from error


def require_plain_yaml(text: str, where: str) -> None:
    """Raises ValueError for tags, and for aliases, which can expand to any size.

    Only parser events are read; no objects are built.
    """
    if len(text) > MAX_YAML:
        raise ValueError(f"{where}: larger than {MAX_YAML >> 20} MiB, no configuration")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_loader()):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{where}: an alias (*{event.anchor}); write the value out")
            if tag := getattr(event, "tag", None):
                raise ValueError(f"{where}: a tag ({tag}); only plain values are read")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > DEEPEST_YAML:
                raise ValueError(f"{where}: nested deeper than {DEEPEST_YAML}")
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML: {_line(error)}") from error


def require_references(node: Any, key: str = "", also: re.Pattern[str] | None = None) -> None:
    """Raises ValueError for an interpolation in `node` (plain values) other than ${key}.

    OmegaConf's resolvers read the environment (oc.env) and build unchecked nodes (oc.create,
    oc.decode). also: another form that is accepted.
    """
    for place, text in _texts(node, key):
        rest = REFERENCE.sub("", OF_THE_ENVIRONMENT.sub("", text))
        if "${" in (also.sub("", rest) if also else rest):
            raise ValueError(
                f"{place}={text[:100]!r}: only ${{another.key}} is replaced by its value; write "
                "out the resolver's value, e.g. with $HOME in the shell"
            )


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, (list, tuple)):
        for position, value in enumerate(node):
            yield from _texts(value, f"{key}[{position}]")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _loader() -> Any:
    """libyaml's loader if available, which is ten times faster."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
