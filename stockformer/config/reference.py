"""The reference of all settings, from the files of conf/: every group, option and key.

    python -m stockformer.config.reference > docs/settings.md

A key's meaning and unit are the comment behind it; an option's are the comment at the top of its
file, a group's the comment behind it in the defaults of `conf/config.yaml`. What values are allowed
comes from the schema and the rules. A setting without a comment is an error.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from stockformer.config.overrides import SAMPLERS
from stockformer.config.rules import RULES
from stockformer.config.schema import CONFIG_NAME, Config, config_folder

HYDRA_GROUPS = {
    "hydra/launcher": "where the jobs of a sweep run; without it one after another",
    "hydra/sweeper": "the search of search=optuna; hydra/sweeper/sampler is one of "
    + ", ".join(SAMPLERS),
}
NOT_OPTIONS = ("hydra/help", "hydra/hydra_logging", "hydra/job_logging")
EMPHASIS = re.compile(r"[*<]|(?<!\w)_|_(?!\w)")  # what Markdown would take for its own
PAGE = re.compile(r"docs/(\w+\.md)")
GLOBAL = "# @package _global_"
HERE = "_here_"
INTRODUCTION = """# Every group and key

`python -m stockformer.config.reference` makes this page from `conf/`; a test compares them. Choose
an option with `group=option`, change a value with `dotted.key=value` ([how](configuration.md)).

- `${other.key}` as a default follows that key: set the other one. `???` must be given.
- A value that is not allowed is refused before any data are read, with the key and the rule.
"""


@dataclass(frozen=True)
class Key:
    """A key of one file: its name there, its value as written, and the comment behind it."""

    name: str
    default: str
    comment: str


@dataclass(frozen=True)
class Option:
    """A file of conf/: an option of a group, or keys that several options share.

    package: what its keys are below, "" for the top. based_on: the files it starts from, by name,
    with what their keys are below. selects: what it chooses of other groups.
    """

    name: str
    package: str
    comment: str
    target: str
    keys: tuple[Key, ...]
    based_on: Mapping[str, str]
    selects: tuple[str, ...] = field(default=())

    @property
    def group(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def shared(self) -> bool:
        """Whether it cannot be chosen itself: its keys are below what the options say."""
        return self.group.endswith("/shared")

    def full(self, key: Key) -> str:
        return f"{self.package}.{key.name}".lstrip(".")


def read_option(folder: Path, name: str) -> Option:
    """The file `name` below the folder, e.g. model/stockformer."""
    text = (folder / f"{name}.yaml").read_text()
    node = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(node, MappingNode)
    group = name.rpartition("/")[0]
    package = "" if text.startswith(GLOBAL) or name == CONFIG_NAME else group.replace("/", ".")
    defaults: list[str | dict[str, str]] = []
    if name != CONFIG_NAME:
        defaults = (yaml.safe_load(text) or {}).get("defaults", [])
    keys = tuple(_keys(node, text.splitlines()))
    return Option(
        name=name,
        package=package,
        comment=_head(text),
        target=next((key.default for key in keys if key.name == "_target_"), ""),
        keys=tuple(key for key in keys if not key.name.endswith("_target_")),
        based_on={
            f"{group}/{base.partition('@')[0]}": _below(package, base.partition("@")[2])
            for base in defaults
            if isinstance(base, str)
        },
        selects=tuple(
            f"{_selected(chosen, group)}={option}"
            for entry in defaults
            if isinstance(entry, dict)
            for chosen, option in entry.items()
        ),
    )


def options(folder: Path) -> list[Option]:
    """Every option that can be chosen, and the shared keys, in the order of the files' names."""
    names = [str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")]
    found = [
        read_option(folder, name) for name in sorted(names) if not name.startswith(NOT_OPTIONS)
    ]
    by_name, places = {option.name: option for option in found}, dict[str, str]()

    def place(option: Option, package: str) -> None:
        """Note where the keys of the shared files are that an option starts from."""
        for base, below in option.based_on.items():
            if by_name[base].shared:
                places[base] = package + below.removeprefix(option.package)
                place(by_name[base], places[base])

    for option in found:
        if not option.shared:
            place(option, option.package)
    return [
        dataclasses.replace(
            option,
            package=places[option.name],
            based_on={base: places[base] for base in option.based_on},
        )
        if option.shared
        else option
        for option in found
    ]


def group_meanings(folder: Path) -> dict[str, str]:
    """What each group of conf/config.yaml is, in the order there, and Hydra's."""
    lines = (folder / f"{CONFIG_NAME}.yaml").read_text().splitlines()
    written = (re.match(r"  - ([a-z]+): \w+ # (.+)", line) for line in lines)
    return {match[1]: match[2] for match in written if match} | HYDRA_GROUPS


def meanings(found: list[Option]) -> dict[tuple[str, str], str]:
    """The meaning of every key, by the option's name and the full key.

    It is the comment in the option's own file, else in one that it starts from, else, for an option
    that changes other groups, in theirs. Raises ValueError for keys without any.
    """
    by_name = {option.name: option for option in found}
    anywhere: dict[str, str] = {}
    general = sorted(found, key=lambda option: (not option.package, not option.shared))
    for option in general:
        for key in option.keys:
            if key.comment:
                anywhere.setdefault(option.full(key), key.comment)
    result, missing = {}, []
    for option in found:
        for key in option.keys:
            full = option.full(key)
            comment = key.comment or _inherited(option, full, by_name)
            if not comment and not option.package:
                comment = anywhere.get(full, "")
            if not comment:
                missing.append(f"conf/{option.name}.yaml: {key.name}")
            result[option.name, full] = comment
        if not option.comment and option.name != CONFIG_NAME:
            missing.append(f"conf/{option.name}.yaml: the file itself")
    if missing:
        raise ValueError(f"no comment with the meaning and unit: {', '.join(missing)}")
    return result


def allowed(key: str, default: str) -> str:
    """The values that the schema and the rules allow, in words; "" if any of the default's type."""
    kind = _schema().get(key)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(member.name for member in kind)
    if default in ("true", "false"):
        return "true, false"
    if key in RULES:
        return RULES[key][1].replace("must not be", "not").removeprefix("must be ")
    return ""


def reference(folder: Path) -> str:
    """The page. Raises ValueError for a setting without a comment."""
    found = options(folder)
    known = meanings(found)
    groups = group_meanings(folder)
    pieces = [INTRODUCTION]
    for group, meaning in groups.items():
        pieces.append(f"## {group}\n\n{_sentence(meaning)}\n")
        for option in found:
            if option.group in (group, f"{group}/shared"):
                pieces.append(_section(option, known))
    top = next(option for option in found if option.name == CONFIG_NAME)
    pieces.append("## Folders of runs\n")
    pieces.append(_table(top, known))
    return "\n".join(pieces)


def _section(option: Option, known: Mapping[tuple[str, str], str]) -> str:
    short = option.name.rpartition("/")[2]
    title = f"Shared: {short}" if option.shared else f"`{option.group}={short}`"
    facts = []
    if option.based_on:
        bases = ", ".join(f"`{base.rpartition('/')[2]}`" for base in option.based_on)
        facts.append(f"Starts from {bases}, whose other keys it has too.")
    if option.selects:
        facts.append("Selects " + ", ".join(f"`{choice}`" for choice in option.selects) + ".")
    if option.target:
        facts.append(f"Builds `{option.target}`.")
    text = " ".join([_sentence(option.comment), *facts])
    return f"### {title}\n\n{text}\n\n{_table(option, known)}"


def _table(option: Option, known: Mapping[tuple[str, str], str]) -> str:
    if not option.keys:
        return ""
    rows = ["| key | default | meaning and unit | allowed |", "| --- | --- | --- | --- |"]
    for key in option.keys:
        full = option.full(key)
        texts = known[option.name, full], allowed(full, key.default)
        cells = (f"`{full}`", f"`{key.default}`", *map(_text, texts))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _keys(node: MappingNode, lines: list[str], prefix: str = "", above: str = "") -> Iterator[Key]:
    """The leaves below a mapping. A block without comments of its own has the one above it."""
    for name, value in node.value:
        key, comment = f"{prefix}{name.value}", _comment(name, value, lines)
        if key in ("defaults", "hydra.output_subdir", "hydra.job.chdir"):
            continue
        if isinstance(value, MappingNode) and value.value and not value.flow_style:
            yield from _keys(value, lines, f"{key}.", comment)
        else:
            yield Key(key, _written(value), comment or above)


def _comment(name: Node, value: Node, lines: list[str]) -> str:
    """The comment behind the value, or behind the key of a block."""
    block = isinstance(value, CollectionNode) and not value.flow_style
    mark = name.end_mark if block else value.end_mark
    rest = lines[mark.line][mark.column :].lstrip(": ")
    return rest.removeprefix("# ") if rest.startswith("# ") else ""


def _written(value: Node) -> str:
    """The value as one writes it on one line."""
    if isinstance(value, ScalarNode):
        return f'"{value.value}"' if value.style else str(value.value)
    if isinstance(value, SequenceNode):
        return "[" + ", ".join(_written(each) for each in value.value) + "]"
    assert isinstance(value, MappingNode)
    pairs = (f"{name.value}: {_written(each)}" for name, each in value.value)
    return "{" + ", ".join(pairs) + "}"


def _head(text: str) -> str:
    """The comment lines at the top of a file, joined."""
    head: list[str] = []
    for line in text.splitlines():
        if line == GLOBAL:
            continue
        if not line.startswith("# "):
            break
        head.append(line.removeprefix("# "))
    return " ".join(head)


def _inherited(option: Option, full: str, by_name: Mapping[str, Option]) -> str:
    """The comment of the file that an option has this key from."""
    for name, package in option.based_on.items():
        base = by_name[name]
        for key in base.keys:
            if f"{package}.{key.name}".lstrip(".") == full and key.comment:
                return key.comment
        if found := _inherited(base, full, by_name):
            return found
    return ""


def _selected(chosen: str, group: str) -> str:
    """The group that an entry of the defaults chooses an option of."""
    name = chosen.removeprefix("override ").partition("@")[0]
    return name.removeprefix("/") if name.startswith("/") else f"{group}/{name}"


def _below(package: str, place: str) -> str:
    """What the keys of a file in the defaults are below: @PLACE, relative to the package."""
    return package if place in ("", HERE) else f"{package}.{place}"


def _schema() -> dict[str, typing.Any]:
    """The type of every typed key."""

    def walk(cls: type, prefix: str) -> Iterator[tuple[str, typing.Any]]:
        for name, kind in typing.get_type_hints(cls).items():
            if dataclasses.is_dataclass(kind):
                assert isinstance(kind, type)
                yield from walk(kind, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", kind

    return dict(walk(Config, ""))


def _sentence(text: str) -> str:
    ended = text if text.endswith((".", ".md")) else f"{text}."
    return _text(f"{ended[0].upper()}{ended[1:]}")


def _text(comment: str) -> str:
    """A comment as Markdown, with a link for each page that it names."""
    return PAGE.sub(r"[\1](\1)", EMPHASIS.sub(r"\\\g<0>", comment))


def main() -> None:
    sys.stdout.write(reference(config_folder()))


if __name__ == "__main__":
    main()
