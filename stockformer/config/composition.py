"""Allows only files of `conf/` and Hydra's own in a configuration.

A name of another file is refused before the file is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from stockformer.config.plain_yaml import MAX_YAML, require_plain_yaml
from stockformer.config.schema import CONFIG_NAME, config_folder

NAME = r"\w[\w.+-]*"
OPTION = re.compile(rf"{NAME}(/{NAME})*", re.ASCII)
"""An option of a group: the name of a file in its folder or below, never a path out of it."""


def require_option(group: str, value: Any) -> None:
    """Raises ValueError unless `value` names one option of `group`."""
    if value is not None and not (isinstance(value, str) and OPTION.fullmatch(value)):
        raise ValueError(
            f"{group}={value}: not the name of an option; an option is a file of conf/{group}, "
            "named without its folder and .yaml"
        )


def require_own_files() -> None:
    """Raises ValueError for a link from conf/ to outside, and for YAML that is not plain."""
    folder = config_folder()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(folder):
            raise ValueError(f"{path}: a link that leads out of conf/; copy the file instead")
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
