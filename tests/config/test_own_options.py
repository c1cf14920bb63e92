"""Options and classes of the user's own: config_dir= names the files, trust= the packages."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SMALL, Command

from stockformer.config import trust
from stockformer.config.overrides import check_command_line

DEMO = (*SMALL, "dataset=demo", "dataset.source.stocks=12", "dataset.source.days=260")
MODEL = """
from stockformer.models.stockformer import Stockformer

class Mine(Stockformer):
    "Of a package of the user."
"""
OPTION = """
defaults:
  - stockformer_small
_target_: mypackage.models.Mine
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of options, and a package beside it, in the current folder; nothing is trusted."""
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/mine.yaml").write_text(OPTION)
    (tmp_path / "mine/model/tiny.yaml").write_text("defaults: [stockformer_small]\nwidth: 6\n")
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage/__init__.py").write_text("")
    (tmp_path / "mypackage/models.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trust, "_trusted", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "mine"
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


def test_an_option_of_the_users_folder_is_chosen_recorded_and_resumed(
    command: Command, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word for word in DEMO if not word.startswith("model.width")]
    status, shown = command("train", "--config-dir", "mine", "model=tiny", *words, "--cfg", "job")
    assert status == 0
    assert "width: 6" in shown
    status, shown = command(
        "train", "--config-dir=mine", "model=tiny", *words, "model.heads=2", "hydra.run.dir=run"
    )
    assert status == 0, shown
    assert f"config_dir={own}" in json.loads(Path("run/overrides.json").read_text())
    (own.parent / "elsewhere").mkdir()
    monkeypatch.chdir(own.parent / "elsewhere")  # the recorded folder is absolute
    status, shown = command("train", "resume=../run", "trainer.max_epoch=3")
    assert status == 0, shown
    status, shown = command("evaluate", "run=../run")
    assert status == 0, shown
    own.rename(own.parent / "moved")
    status, shown = command("train", "resume=../run", "trainer.max_epoch=4")
    assert (status, shown.count("\n")) == (1, 0)
    assert f"config_dir={own}: no such folder" in shown
    status, shown = command(
        "train", "resume=../run", "--config-dir", "../moved", "trainer.max_epoch=4"
    )
    assert status == 0, shown


def test_the_jobs_of_a_sweep_know_the_folder(command: Command, own: Path) -> None:
    status, shown = command(
        *("train", "-m", "-cd", "mine", "model=tiny,stockformer_small", *DEMO[1:]),
        *("trainer.max_epoch=1", "hydra.sweep.dir=sweep", "hydra/launcher=processes"),
        "hydra.launcher.n_jobs=1",
    )
    assert status == 0, shown
    status, shown = command("train", "-m", "resume=sweep")
    assert "2 of 2 jobs are done already" in shown


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("model/stockformer.yaml", "width: 6\n", "with a name that conf/ does not have"),
        ("config.yaml", "seed: 1\n", "GROUP/NAME.yaml"),
        ("experiment/bad.yaml", "trust: [mypackage]\n", "ConfigKeyError"),  # no @package
        ("experiment/bad.yaml", "# @package _global_\ntrust: [mypackage]\n", "only the command"),
        ("experiment/bad.yaml", "# @package _global_\nmodel: {_target_: os.mkdir}\n", "os.mkdir"),
        ("experiment/bad.yaml", "# @package _global_\nhydra: {callbacks: {x: 1}}\n", "callbacks"),
        ("experiment/bad.yaml", "a: !!python/name:os.system\n", "a tag"),
        ("experiment/bad.yaml", "# @package _global_\ntags: ['${oc.env:HOME}']\n", "resolver"),
    ],
)
def test_a_file_of_the_users_folder_is_checked_like_ours(
    own: Path, name: str, text: str, says: str
) -> None:
    (own / name).parent.mkdir(exist_ok=True)
    (own / name).write_text(text)
    words = [f"config_dir={own}", "experiment=bad" if "bad" in name else "experiment=demo"]
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        check_command_line(words, multirun=False)
    assert says in str(error.value)


def test_a_link_out_of_the_users_folder_is_refused(own: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("width: 6\n")
    (own / "model/linked.yaml").symlink_to(tmp_path / "other.yaml")
    with pytest.raises(ValueError, match="a link that leads out of mine/"):
        check_command_line([f"config_dir={own}", "model=linked"], multirun=False)
    with pytest.raises(ValueError, match="no such folder"):
        check_command_line(["config_dir=nowhere"], multirun=False)


def test_a_class_of_the_user_is_built_only_if_the_command_line_trusts_its_package(
    command: Command, own: Path
) -> None:
    words = ["--config-dir", "mine", "model=mine", *DEMO[1:], "model.width=8", "hydra.run.dir=run"]
    status, shown = command("train", *words)
    assert status == 1
    assert "trust=[PACKAGE]" in shown
    assert "mypackage" not in sys.modules  # not even imported
    assert not Path("run").exists()
    status, shown = command("train", *words, "trust=[mypackage]")
    assert status == 0, shown
    assert type_of_model("mypackage.models") == "Mine"

    # What the run recorded does not trust anything by itself: it may be somebody else's.
    for again in (
        ("train", "resume=run", "trainer.max_epoch=3"),
        ("evaluate", "run=run"),
        ("predict", "run=run"),
    ):
        trust._trusted.clear()
        status, shown = command(*again)
        assert status == 1, again
        assert "only the command line can trust a package" in shown
        status, shown = command(*again, "trust=[mypackage]")
        assert status == 0, shown


def type_of_model(module: str) -> str:
    return str(sys.modules[module].Mine.__name__)


def test_data_are_prepared_again_when_trusted_code_changes(own: Path) -> None:
    trust.trust(["mypackage"])
    assert trust.trusted_code() == [own.parent / "mypackage"]


@pytest.mark.parametrize(
    ("packages", "says"),
    [
        ("os", "of your own"),
        ("subprocess", "of your own"),
        ("torch", "of your own"),
        ("mypackage.models", "without a dot"),
        ("../mypackage", "without a dot"),
        ("nowhere_to_be_found", "no such package"),
    ],
)
def test_only_a_package_of_the_user_can_be_trusted(
    command: Command, own: Path, packages: str, says: str
) -> None:
    status, shown = command("train", f"trust=[{packages}]", "--cfg", "job")
    assert status == 1
    assert says in shown
    assert not trust.trusted()
