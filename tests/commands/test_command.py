"""What every command answers before it does anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from stockformer import __version__
from stockformer.commands.command import describe

ROOT = Path(__file__).parents[2]
Command = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("program", ["train", "validate", "analyze"])
def test_the_version_is_ours(program: str, command: Command) -> None:
    status, output = command(program, "--version")
    assert status == 0
    assert re.fullmatch(
        rf"stockformer {re.escape(__version__)} \(torch \S+, Python \S+, Hydra \S+\)\n", output
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.max_epoch", "write trainer.max_epoch=VALUE"),
        ("+trainer.max_epoch", "write +trainer.max_epoch=VALUE"),
        ("model", "write model=VALUE"),
        ("nonsense", "write nonsense=VALUE"),
        ("outputs/run", "write outputs/run=VALUE"),
        ("hydra.run.dir", "write hydra.run.dir=VALUE"),
        ("resume", "write resume=FOLDER, or resume=latest"),
        ("resume=", "write resume=FOLDER, or resume=latest"),
    ],
)
@pytest.mark.parametrize("program", ["train", "validate"])
def test_a_key_without_a_value(program: str, word: str, message: str, command: Command) -> None:
    status, output = command(program, "seed=1", word)
    assert status == 1
    assert output.startswith(f"error: {word.partition('=')[0]}: has no value")
    assert message in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(shell: str, command: Command) -> None:
    status, output = command("train", "-sc", f"install={shell}")
    assert status == 0, output
    assert "complet" in output
    assert command("train", "-sc", f"uninstall={shell}")[0] == 0


def test_completion_in_a_real_shell(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
    python.chmod(0o755)
    program = """
eval "$(python train.py -sc install=bash)"
COMP_LINE="python train.py trainer.max_" COMP_CWORD=2 COMP_POINT=28 hydra_bash_completion
printf '%s\\n' "${COMPREPLY[@]}"
"""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["trainer.max_epoch="], done.stderr


@pytest.mark.parametrize("width", [60, 80, 132])
def test_the_tree_of_the_configuration_fits_the_terminal(width: int) -> None:
    path = "/a/long/path/with-hyphens/" + "x" * 20
    config = OmegaConf.create(
        {
            "dataset": {"name": "n", "one": path, "two": "b", "three": 3.5, "four": "four-four"},
            "seed": 1,
            "trainer": {f"setting_{number}": number for number in range(20)},
        }
    )
    text = describe(config, {"dataset": "ohlcv"}, width)
    lines = text.splitlines()
    longest = len(f"├─ {'':11}{'':18}one={path}")
    assert max(map(len, lines)) <= max(width, longest)
    words = text.replace("│", " ").split()
    assert f"one={path}" in words
    assert "four=four-four" in words
    assert [word for word in words if word.startswith("setting_")] == [
        f"setting_{number}={number}" for number in range(20)
    ]


@pytest.mark.parametrize("program", ["train", "validate"])
def test_help_says_how_completion_is_installed(program: str, command: Command) -> None:
    status, output = command(program, "--help")
    assert status == 0, output
    assert 'eval "$(python train.py -sc install=bash)"' in output
