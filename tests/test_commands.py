"""Every command of README.md, CONTRIBUTING.md and docs/ is checked by the program it names.

A fenced block without a language, or of sh, holds commands, one a line; so does inline code that
begins with a program's name. Output belongs in a block marked `text`. Every command's words are
parsed by the real program's parser, and settings are composed and checked as train.py does it. A
command that no check knows fails. tests/test_pages.py also runs the commands of some pages.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from click import UsageError
from hydra._internal.utils import get_args_parser
from test_contributing import EXAMPLE, Example

from stockformer import weekly
from stockformer.commands.command import DEFAULT_EXPERIMENT, needs_default_experiment
from stockformer.commands.plain_command import parse
from stockformer.config import trust
from stockformer.config.overrides import check_command_line
from stockformer.data.download.command import read_request
from stockformer.data.sources import download
from stockformer.programs import analyze, evaluate, predict
from stockformer.runs.folder import MAY_CHANGE

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(
    r"`((?:(?:[A-Z_]+=\S+ )*)(?:python3?|torchrun|make|pip|ray|tensorboard|optuna-dashboard|"
    r"pre-commit|stockformer-\w+) [^`]+)`"
)
OF_COMMANDS = ("", "sh")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Programs of others, in exactly these words.
KNOWN = {
    "python3 -m venv .venv",
    "source .venv/bin/activate",
    "pre-commit install",
    "tensorboard --logdir outputs",
    "optuna-dashboard sqlite:///multirun/…/study.db",
}
KNOWN_WORDS = {shlex.join(w for w in shlex.split(line) if w != "…") for line in KNOWN}
# They need what a guide tells to add to the project first; the guide's own test adds and runs it.
ADDED = ("model=rnn", "optimizer=sgd", "dataset=close_table", "trainer.monitor=sign_accuracy")


@dataclass(frozen=True)
class Command:
    document: str
    text: str

    def words(self) -> list[str]:
        """Without assignments, comments, a file for the output and what is left out (…)."""
        words = shlex.split(self.text.partition(" > ")[0], comments=True)
        while words and ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        return [word for word in words if word not in ("…", "...")]


def commands_of(text: str, document: str = "") -> list[Command]:
    """The commands of a page, in its order, each once."""
    found: list[str] = []
    for language, block in FENCE.findall(text):
        if language in OF_COMMANDS:
            found += re.sub(r"\\\n\s*", "", block).splitlines()
    found += INLINE.findall(FENCE.sub("", text))
    commands = [Command(document, line.strip()) for line in found]
    return list(dict.fromkeys(command for command in commands if command.words()))


COMMANDS = [c for path in DOCUMENTS for c in commands_of(path.read_text(), path.name)]
ONCE = list({tuple(command.words()): command for command in COMMANDS}.values())


def check(words: Sequence[str], own_options: Path) -> None:
    """Raises ValueError, or SystemExit of the program's own parser, for what it would refuse."""
    program, *rest = words
    if program in ("python", "python3"):
        check_python(rest, own_options)
    elif program == "torchrun":
        from torch.distributed.run import parse_args

        arguments = parse_args(rest)
        check_python([arguments.training_script, *arguments.training_script_args], own_options)
    elif program.startswith("stockformer-") and program in PROJECT["scripts"]:
        check_program(program.removeprefix("stockformer-"), rest, own_options)
    elif program == "make":
        check_make(rest)
    elif program == "pip":
        check_pip(rest)
    elif program == "ray":
        check_ray(rest)
    else:
        raise ValueError(f"{program}: tell tests/test_commands.py how to check it")


def check_python(rest: Sequence[str], own_options: Path) -> None:
    name, *words = rest
    if name == "-m":
        module, *words = words
        if module.startswith("benchmarks."):
            check_benchmark(module, words)
        elif module == "pytest":
            if not all((ROOT / word).exists() for word in words):
                raise ValueError(f"pytest: no such file among {words}")
        elif module in ("stockformer.export", "stockformer.audit.lookahead"):
            check_program(module.rpartition(".")[2], words, own_options)
        elif module == "stockformer.data.sources.download":
            named, _ = parse(words, download.VALID, overrides=False)
            read_request(named, date.today())
        elif module == "stockformer.weekly":
            check_weekly(words, own_options)
        elif module != "stockformer.config.reference" or words:
            raise ValueError(f"python -m {module}: tell tests/test_commands.py how to check it")
    elif name.startswith("benchmarks/"):
        check_benchmark(name.removesuffix(".py").replace("/", "."), words)
    elif (ROOT / name).is_file() and "/" not in name:
        check_program(Path(name).stem, words, own_options)
    elif name not in {path.name for path in own_options.parent.glob("*.py")}:
        raise ValueError(f"python {name}: no such program")


def check_program(name: str, words: Sequence[str], own_options: Path) -> None:
    if name in ("train", "validate", "lookahead"):
        check_settings(list(words), own_options)
        return
    export = importlib.import_module("stockformer.export")
    programs = {"analyze": analyze, "evaluate": evaluate, "predict": predict, "export": export}
    _, overrides = parse(words, programs[name].VALID, overrides=name != "analyze")
    fold = ["split=walk_forward"] if any(w.startswith("split.fold=") for w in overrides) else []
    own = [word for word in overrides if not word.startswith("trust=")]
    check_command_line([*fold, *own], multirun=False)


def check_weekly(words: Sequence[str], own_options: Path) -> None:
    named, settings = parse(words, weekly.VALID, overrides=True)
    check_settings(settings, own_options)
    if "download" in named:
        check_python(
            ["-m", "stockformer.data.sources.download", *named["download"].split()], own_options
        )


def check_settings(words: list[str], own_options: Path) -> None:
    """As train.py checks them; those of a resumed run must be ones that may change."""
    arguments = get_args_parser().parse_args(words)
    overrides = list(arguments.overrides)
    if arguments.config_dir or any(word.startswith("trust=") for word in overrides):
        overrides.append(f"config_dir={own_options}")
        trust.trust_named(overrides)
    if any(word.startswith("resume=") for word in overrides):
        changed = {word.partition("=")[0] for word in overrides if not word.startswith("hydra")}
        if unknown := changed - MAY_CHANGE - {"resume", "trust"}:
            raise ValueError(f"a resumed run cannot change {unknown}")
        return
    if needs_default_experiment(overrides):
        overrides.append(DEFAULT_EXPERIMENT)
    check_command_line(overrides, multirun=arguments.multirun)


def check_benchmark(module: str, words: Sequence[str]) -> None:
    """Its own parser, which ends before anything is measured."""

    class Parsed(Exception):
        pass

    real = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, *_: object) -> None:
        real(parser, list(words))
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        with pytest.raises(Parsed):
            importlib.import_module(module).main()


def check_make(targets: Sequence[str]) -> None:
    """A folder such as tests/ is a target to make, too, so the Makefile must declare it."""
    (declared,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if unknown := set(targets) - set(declared.split()):
        raise ValueError(f"make {' '.join(unknown)}: no such target")


def check_pip(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["install", "wheel"])
    parser.add_argument("-e", dest="editable")
    parser.add_argument("-c", dest="constraints")
    parser.add_argument("--no-deps", action="store_true")
    parser.add_argument("--wheel-dir")
    parser.add_argument("packages", nargs="*")
    arguments = parser.parse_args(list(words))
    if arguments.constraints and not (ROOT / arguments.constraints).is_file():
        raise ValueError(f"{arguments.constraints}: no such file")
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    for package in filter(None, [arguments.editable, *arguments.packages]):
        name, _, extra = package.rstrip("]").partition("[")
        if extra and extra not in PROJECT["optional-dependencies"]:
            raise ValueError(f"{package}: there is no extra {extra}")
        if name not in (".", "stockformer", "dist/*.whl") and name not in pins:
            raise ValueError(f"{package}: not as in constraints.txt")


def check_ray(words: Sequence[str]) -> None:
    scripts = pytest.importorskip("ray.scripts.scripts")
    name, *rest = words
    scripts.cli.commands[name].make_context(name, list(rest))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that docs/extending.md describes as new."""
    folder = tmp_path_factory.mktemp("own")
    text = (ROOT / "docs/extending.md").read_text()
    for found in EXAMPLE.finditer(text):
        if found["anchor"] is None:
            (folder / found["path"]).parent.mkdir(parents=True, exist_ok=True)
            Example(found["path"], found["text"], None, after=False).apply(folder)
    return folder


@pytest.fixture
def trusting(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with that package, which is forgotten afterwards."""
    monkeypatch.chdir(own)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(trust, "_trusted", set())
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("command", ONCE, ids=lambda c: f"{c.document}: {c.text}")
def test_the_program_accepts_the_command(command: Command, own: Path) -> None:
    words = command.words()
    if shlex.join(words) not in KNOWN_WORDS and not set(ADDED) & set(words):
        check(words, own / "mine")


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(
    "line",
    [
        "python train.py trainer.max_epochs=5",
        "python train.py seed=1,2",
        "python train.py --sweep seed=1",
        "python train.py --config-dir mine trust=[mypackage] model=mine",
        "python train.py resume=RUN model.width=8",
        "python trains.py",
        "python -m stockformer.train",
        "python -m benchmarks.demo --fast",
        "python evaluate.py runs=RUN",
        "python predict.py run=RUN asof",
        "python -m stockformer.export run=RUN backtest.topk=5",
        "torchrun --nproc-per-node 2 train.py model.widht=4",
        "make tests",
        "pip install torch==1.0.0",
        "pip install 'stockformer[cuda]'",
        "ray start --heads",
        "stockformer-sweep",
        "qlib run",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str, own: Path) -> None:
    with pytest.raises((ValueError, SystemExit, OSError, UsageError)):
        check(Command("", line).words(), own / "mine")


def test_commands_are_found_wherever_they_are_written() -> None:
    page = """`python train.py seed=1` and `trainer.oom`
```
python train.py \\
    seed=2    # a comment
OMP_NUM_THREADS=1 python analyze.py
```
```text
python is no command here
```
"""
    assert [command.words() for command in commands_of(page)] == [
        ["python", "train.py", "seed=2"],
        ["python", "analyze.py"],
        ["python", "train.py", "seed=1"],
    ]
