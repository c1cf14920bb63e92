"""The wheel: installed where there is no checkout, it trains, predicts, completes, and is composed
from by other Hydra programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

DEMO = (
    *("dataset.source.stocks=12", "dataset.source.days=260", "model.width=8", "model.layers=1"),
    *("trainer.max_epoch=1", "trainer.device=cpu", "dataset.lookback=5", "report=false"),
)
OTHER_PROGRAM = """
import hydra

@hydra.main(version_base=None, config_path=".", config_name="other")
def main(config):
    print(config.network._target_, config.loss._target_)

main()
"""
OTHER_CONFIG = """
defaults:
  - model@network: stockformer_small
  - loss: masked
  - _self_
hydra:
  searchpath: [pkg://stockformer.conf]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_script_of_the_pages_and_its_licence_are_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for file in ("plotly-basic.min.js", "plotly-basic.LICENSE"):
        assert f"stockformer/reporting/vendor/{file}" in names


class Installed:
    """The wheel in a virtual environment that has its dependencies, and no checkout."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        # Of a folder named in a .pth file no .pth file is read: an editable install is not found.
        (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        # Several, where the environment of the tests itself builds on another one.
        folders = [path for path in sys.path if Path(path).name == "site-packages"]
        (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in folders))
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet"]
        offline = ["--no-deps", "--no-index", "--ignore-installed", wheel]
        subprocess.run([*pip, *offline], check=True, capture_output=True)

    def run(self, program: str, *arguments: str, **variables: str) -> tuple[int, str]:
        """Status and output of a program of the environment, run in an empty folder."""
        (self.folder / "work").mkdir(exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.folder / "work",
            env=environment | {"NO_COLOR": "1"} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def tracked(folder: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", folder], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(listed.stdout.split())


def test_everything_the_programs_read_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    configs = {name.replace("conf/", "stockformer/conf/", 1) for name in tracked("conf")}
    assert names == tracked("stockformer") | configs


def test_the_demo_is_trained_and_a_day_forecast_from_the_installed_package(
    installed: Installed,
) -> None:
    _, shown = installed.run("python", "-c", "import stockformer; print(stockformer.__file__)")
    assert shown.startswith(str(installed.folder)), "the test would be one of the checkout"
    status, shown = installed.run("stockformer-train", *DEMO, "hydra.run.dir=run")
    assert status == 0, shown
    status, shown = installed.run("stockformer-predict", "run=run")
    assert status == 0, shown
    (page,) = (installed.folder / "work/run/forecasts").glob("*/forecast.html")
    assert "SIM001" in page.read_text("utf-8")
    status, shown = installed.run("stockformer-train", "modle.width=8")
    assert (status, shown.count("\n")) == (1, 1), "one line says what is wrong"


@pytest.mark.full
def test_every_program_of_the_installed_package_runs(installed: Installed) -> None:
    # A cosine could not be extended below.
    status, shown = installed.run(
        "stockformer-train", *DEMO, "scheduler=constant", "hydra.run.dir=all"
    )
    assert status == 0, shown
    for program in ("validate", "evaluate", "analyze", "predict"):
        words = DEMO[:-1] if program == "validate" else ["run=all"]
        status, shown = installed.run(f"stockformer-{program}", *words)
        assert status == 0, shown
        assert f"python {program}.py" not in shown
    status, shown = installed.run("stockformer-train", "resume=all", "trainer.max_epoch=2")
    assert status == 0, shown


def test_other_hydra_programs_compose_from_it(installed: Installed) -> None:
    (installed.folder / "work").mkdir(exist_ok=True)
    (installed.folder / "work/other.py").write_text(OTHER_PROGRAM)
    (installed.folder / "work/other.yaml").write_text(OTHER_CONFIG)
    status, shown = installed.run("python", "other.py", "hydra.output_subdir=null")
    assert status == 0, shown
    assert re.fullmatch(r"stockformer\.models\S+ stockformer\.training\.losses\S+", shown.strip())


def scripts() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return sorted(project["scripts"])


def test_a_script_a_program() -> None:
    programs = {f"stockformer-{path.stem}" for path in (ROOT / "stockformer/programs").glob("*.py")}
    assert set(scripts()) == programs - {"stockformer-__init__"} | {"stockformer-weekly"}


def test_bash_completes_the_settings(installed: Installed) -> None:
    """What bash asks when the tab key is pressed, through the function that it was given."""
    for script in scripts():
        if script not in ("stockformer-train", "stockformer-validate"):
            continue  # not Hydra's; --help lists their words
        pressed = (
            f'eval "$({script} -sc install=bash)"; COMP_WORDS=({script} model=stock); COMP_CWORD=1;'
            f' COMP_LINE="{script} model=stock"; COMP_POINT=${{#COMP_LINE}};'
            ' hydra_bash_completion; echo "${COMPREPLY[@]}"'
        )
        path = f"{installed.bin}:{os.environ['PATH']}"
        shown = subprocess.run(
            ["bash", "-c", pressed],
            cwd=installed.folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert {"model=stockformer", "model=stockformer_small"} <= set(shown.split())
