"""Every setting has a meaning and a unit, and docs/settings.md has them all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hydra import compose

from stockformer.config import reference
from stockformer.config.composition import composing
from stockformer.config.overrides import without_hydra
from stockformer.config.rules import RULES, flat
from stockformer.config.schema import CONFIG_NAME, config_folder

PAGE = Path(__file__).parents[2] / "docs/settings.md"
UNIT = re.compile(
    r"\b(no unit|number|share|shares|days?|rows?|steps|epochs|samples|checkpoints|steps|weight|"
    r"correlation|standard deviations?|fraction|return|basis points|currency|stocks|columns|"
    r"processes|processors|jobs|CPUs|minutes|seconds|times|trials|GB|improvement|dates|each process"
    r"|each job|features|neighbours)\b"
)
NUMBER = re.compile(r"[+-]?\d[\d.e+-]*")


def composed(*words: str) -> set[str]:
    with composing(words):
        config = without_hydra(compose(CONFIG_NAME, list(words), return_hydra_config=True))
    return {key for key in flat(config) if not key.endswith("_target_")}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == reference.reference(config_folder()), (
        "run: python -m stockformer.config.reference > docs/settings.md"
    )


@pytest.mark.parametrize(
    "option",
    [o for o in reference.options(config_folder()) if not o.shared and o.group.count("/") == 0],
    ids=lambda option: option.name,
)
def test_the_page_has_every_key_that_a_configuration_has(option: reference.Option) -> None:
    known = {
        key for line in PAGE.read_text().splitlines() for key in re.findall(r"^\| `(.+?)`", line)
    }
    words = [f"{option.group}={option.name.partition('/')[2]}"] if option.group else []
    if option.group == "split":
        words += (
            ["split.validation_start=1", "split.test_start=2"] if "dates" in option.name else []
        )
    mappings = {"dataset.project_targets"}
    keys = {next((m for m in mappings if k.startswith(f"{m}.")), k) for k in composed(*words)}
    assert not keys - known


def test_every_number_has_a_unit() -> None:
    found = reference.options(config_folder())
    meanings = reference.meanings(found)
    without = [
        f"conf/{option.name}.yaml: {key.name}: {meanings[option.name, option.full(key)]}"
        for option in found
        for key in option.keys
        if NUMBER.fullmatch(key.default)
        and not UNIT.search(meanings[option.name, option.full(key)])
    ]
    assert not without


def test_every_rule_is_of_a_key_of_the_page() -> None:
    text = PAGE.read_text()
    assert not [key for key in RULES if f"`{key}`" not in text]


def test_a_key_or_an_option_without_a_comment_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    shutil.copytree(config_folder(), folder)
    model = folder / "model/stockformer.yaml"
    lines = model.read_text().splitlines()[1:]  # without the comment at the top
    model.write_text("\n".join([*lines, "depth: 3"]))
    with pytest.raises(ValueError, match="no comment") as error:
        reference.reference(folder)
    assert (
        "conf/model/stockformer.yaml: depth, conf/model/stockformer.yaml: the file itself"
        in str(error.value)
    )


def test_values_are_shown_as_they_are_written() -> None:
    by_name = {option.name: option for option in reference.options(config_folder())}
    small = {key.name: key for key in by_name["model/stockformer_small"].keys}
    assert small["width"].default == "16"
    assert small["width"].comment == ""  # it is that of the file it starts from
    assert by_name["model/stockformer_small"].based_on == {"model/stockformer": "model"}
    files = by_name["dataset/shared/files"]
    assert [files.full(key) for key in files.keys][-1] == "dataset.source.universe.members_path"
    sectors = by_name["dataset/shared/sectors"]  # which that file starts from
    assert [sectors.full(key) for key in sectors.keys][-1] == "dataset.source.quality.stale_days"
    assert by_name["search/optuna"].selects[0] == "hydra/sweeper=optuna_search"
    assert reference.allowed("backtest.fill", "close") == "one of close, open"
    assert reference.allowed("seed", "0") == "from 0 to 2**32 - 1"
    assert reference.allowed("graph.scale", "0.1") == "above 0"
