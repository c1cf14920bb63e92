"""Allows only files of `conf/`, of the user's `config_dir` and Hydra's own in a configuration.

A name of another file is refused before the file is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode

from stockformer.config.hydra_lines import VERSION_BASE
from stockformer.config.plain_yaml import MAX_YAML, require_plain_yaml
from stockformer.config.quoting import as_path
from stockformer.config.schema import CONFIG_NAME, config_folder

NAME = r"\w[\w.+-]*"
OPTION = re.compile(rf"{NAME}(/{NAME})*", re.ASCII)
"""An option of a group: the name of a file in its folder or below, never a path out of it."""


_config_dir: ContextVar[Path | None] = ContextVar("config_dir", default=None)


class ConfigDir(SearchPathPlugin):
    """Lets Hydra find the options in the user's folder, after those of conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if (folder := _config_dir.get()) is not None:
            search_path.append("config_dir", f"file://{folder}")


@contextmanager
def options_of(words: Sequence[str]) -> Iterator[None]:
    """Within it the options are those of conf/ and of the folder that config_dir= names in `words`.

    Raises ValueError if that is no folder, or holds what is never read.
    """
    Plugins.instance().register(ConfigDir)
    values = [word.partition("=")[2] for word in words if names_config_dir(word)]
    folder = as_path(values[-1]) if values and values[-1] not in ("", "null") else None
    if folder is not None and not folder.is_dir():
        raise ValueError(f"config_dir={folder}: no such folder")
    token = _config_dir.set(None if folder is None else folder.resolve())
    try:
        require_own_files()
        yield
    finally:
        _config_dir.reset(token)


@contextmanager
def composing(words: Sequence[str]) -> Iterator[None]:
    """Hydra ready to compose from `options_of(words)`."""
    with options_of(words), initialize_config_dir(str(config_folder()), **VERSION_BASE):
        yield


def names_config_dir(word: str) -> bool:
    """Whether a word of the command line is config_dir=..."""
    return word.lstrip("+").partition("=")[0] == "config_dir"


def config_folders() -> list[Path]:
    """conf/, and the user's folder if there is one."""
    return [config_folder(), *filter(None, [_config_dir.get()])]


def config_files() -> Iterator[Path]:
    for folder in config_folders():
        yield from sorted(folder.rglob("*.yaml"))


def is_group(name: str) -> bool:
    return any((folder / name).is_dir() for folder in config_folders())


def groups() -> list[str]:
    """The names of all groups."""
    return sorted({p.name for folder in config_folders() for p in folder.iterdir() if p.is_dir()})


def require_option(group: str, value: Any) -> None:
    """Raises ValueError unless `value` names one option of `group`."""
    if value is not None and not (isinstance(value, str) and OPTION.fullmatch(value)):
        raise ValueError(
            f"{group}={value}: not the name of an option; an option is a file of conf/{group}, "
            "named without its folder and .yaml"
        )


def require_own_files() -> None:
    """Raises ValueError for a link out of conf/ or config_dir, for YAML that is not plain, and for
    a file of config_dir that would never be read."""
    for folder in config_folders():
        _require_own_files(folder)
    for folder in config_folders()[1:]:
        for path in sorted(folder.rglob("*.yaml")):
            name = path.relative_to(folder)
            if (config_folder() / name).exists() or len(name.parts) == 1:
                raise ValueError(
                    f"{path}: options of your own are GROUP/NAME.yaml, with a name that conf/ does "
                    "not have; rename it"
                )


def _require_own_files(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(folder):
            raise ValueError(
                f"{path}: a link that leads out of {folder.name}/; copy the file instead"
            )
        if path.suffix == ".yaml" and path.is_file():
            if path.stat().st_size > MAX_YAML:
                raise ValueError(f"{path}: larger than {MAX_YAML >> 20} MiB, no configuration")
            text = path.read_text(errors="replace")
            if "!" in text or ("&" in text and "*" in text):
                require_plain_yaml(text, str(path))


def require_own_defaults(groups: Sequence[str]) -> None:
    """Raises ValueError if the options in `groups`, or files they name, are outside known roots.

    Hydra must be initialised. Only its defaults list is made; no values of the files are used.
    """
    loader = GlobalHydra.instance().config_loader()
    listed = loader.compute_defaults_list(CONFIG_NAME, list(groups), RunMode.RUN)
    for default in listed.defaults:
        if default.config_path is not None and not OPTION.fullmatch(default.config_path):
            raise ValueError(
                f"{default.config_path}: named in the defaults of {default.parent}; defaults are "
                "files of conf/, named by group and option"
            )
