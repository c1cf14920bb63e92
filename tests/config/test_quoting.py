"""What is printed to be pasted is read back as what it was, whatever a folder is called."""

from __future__ import annotations

import itertools
import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from stockformer.commands.command import as_hydra_reads, path_quoted
from stockformer.config.quoting import as_path, pasteable, quoted, split_paths, unquoted
from stockformer.runs.resume import requested_run

NAMES = (
    *("plain", "with space", " led and trailed ", "größe", "中文", "naïve", "😀"),
    *("(brackets)", "[list]", "{map: 1}", "a,b", "a=b", "it's", "'quoted'", '"double"', "'"),
    *("back\\slash", "end\\", "\\'", "a\\\\'b", "$HOME", "${seed}", "$(touch x)", "`touch x`"),
    *("a;b", "a&b", "a|b", "<in>", "*", "?", "!history", "#comment", "~", "~user", "-m", "--help"),
    *("null", "latest", "true", "12", "1e5", "a:b", "%s", "@", "^", "tab\there", "line\nbreak"),
    *("+plus", "name=x,y", "???", "\udcff", "x" * 200),
)
PATHS = [Path("/runs") / name for name in NAMES] + [Path(name) for name in NAMES]


def pasted(word: str) -> list[str]:
    return shlex.split(f"python train.py {word}")[2:]


def value_of(word: str) -> str:
    """What a command is given for it."""
    (argument,) = pasted(word)
    return argument.partition("=")[2]


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_what_is_printed_can_be_pasted(path: Path) -> None:
    assert requested_run(pasted(pasteable("resume", path))) == path
    assert as_path(value_of(pasteable("run", path))) == path
    several = [path, Path("/other"), path]
    pasted_value = value_of(pasteable("run", *several))
    assert split_paths(pasted_value) == split_paths(f"[{pasted_value}]") == several


@pytest.mark.parametrize("path", [p for p in PATHS if str(p)[0] not in "'\"~"], ids=ascii)
def test_a_path_that_only_the_shell_has_unquoted_is_accepted_too(path: Path) -> None:
    """As tab completion leaves it: quoted for the shell, not for Hydra."""
    if str(path) not in ("null", "latest"):
        assert requested_run([f"resume={path}"]) == path
    assert as_path(str(path)) == path


@pytest.mark.parametrize("path", [p for p in PATHS if "${" not in str(p)], ids=ascii)
def test_hydra_reads_a_path_as_it_is_pasted(path: Path) -> None:
    """Of a new run's folder or of the data; what stands between ${ and } is Hydra's to replace."""
    parser = OverridesParser.create()
    for key in ("hydra.run.dir", "paths.data_dir", "++dataset.source.path", "backtest.index_file"):
        assert parser.parse_override(f"{key}={quoted(str(path))}").value() == str(path)
        read = parser.parse_override(path_quoted(f"{key}={path}", several=False))
        assert read.value() == str(path) or not path.is_absolute()


def test_commas_separate_the_values_of_a_sweep() -> None:
    words = ["paths.data_dir=/a,/b", "-m", "seed=1", "resume=/x"]
    assert as_hydra_reads(words) == ["-m", "paths.data_dir=/a,/b", "seed=1"]
    assert as_hydra_reads(words[:1]) == ["paths.data_dir='/a,/b'"]


def test_quotes_are_those_of_hydra() -> None:
    parser = OverridesParser.create()
    for length in range(1, 5):
        for letters in itertools.product("a\\'\"", repeat=length):
            value = "".join(letters)
            assert unquoted(quoted(value)) == value
            assert parser.parse_override(f"x={quoted(value)}").value() == value


def test_a_real_shell_reads_the_same() -> None:
    paths = [path for path in PATHS if "\n" not in str(path) and "\udcff" not in str(path)]
    words = " ".join(pasteable("resume", path) for path in paths)
    said = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {words}"], capture_output=True, text=True, check=True
    ).stdout
    assert [requested_run([word]) for word in said.splitlines()] == paths
