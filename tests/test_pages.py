"""The commands of the quick start, the questions and the guide to extending are run.

They run on a small market, in a folder with what the pages assume: prices, a finished run, one that
was interrupted, and the package of the guide. Those that take longer are marked `full`.
"""

from __future__ import annotations

import importlib
import logging
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_commands import ADDED, KNOWN_WORDS, ROOT, Command, commands_of
from test_contributing import EXAMPLE, Example

from stockformer import experiment
from stockformer.config import trust
from stockformer.evaluation import metrics

PAGES = ("index.md", "faq.md", "extending.md")
TICKERS = [f"S{n:02}" for n in range(12)]
MARKET = ("dataset.source.stocks=12", "dataset.source.days=260")
SHORT = ("trainer.max_epoch=1", "report=false")
NEEDED = {"DATA_FOLDER": "reference data", "pip install": "a network"}
SLOW = ("validate.py", "lookahead", "search=optuna", "experiment=debug", "-m optimizer.lr")


def small(words: Sequence[str]) -> list[str]:
    """Settings that make a training small, where the command leaves them open."""
    if any(word.startswith("resume=") for word in words):
        return []
    keys = {word.partition("=")[0] for word in words}
    more = [word for word in SHORT if word.partition("=")[0] not in keys]
    trials = ["hydra.sweeper.n_trials=2"] if "search=optuna" in words else []
    return [*more, *(() if "dataset" in keys else MARKET), *trials]


def is_slow(command: Command) -> bool:
    """Of the questions, those that only change a setting of the demo are checked by name."""
    words = command.words()
    only_a_setting = command.document == "faq.md" and "train.py" in words
    return any(part in command.text for part in SLOW) or (
        only_a_setting and not any(part in command.text for part in ("FOLDER", "resume="))
    )


def listed() -> Iterator[object]:
    found: dict[tuple[str, ...], Command] = {}
    for page in PAGES:
        for command in commands_of((ROOT / "docs" / page).read_text(), page):
            found.setdefault(tuple(command.words()), command)
    for words, command in found.items():
        if " ".join(words) in KNOWN_WORDS or set(ADDED) & set(words):
            continue
        if any(part in command.text for part in NEEDED):
            continue
        marks = [pytest.mark.full] if is_slow(command) else []
        yield pytest.param(command, id=f"{command.document}: {command.text}", marks=marks)


def run(*words: str) -> int:
    """Call a program's own main in the current folder; its exit status."""
    program, *rest = words
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program, *rest])
        patch.setattr(trust, "_trusted", set())
        patch.setattr(sys, "path", [str(ROOT), *sys.path])
        logging.getLogger("stockformer").handlers.clear()
        try:
            if Path(program).is_file():
                runpy.run_path(program, run_name="__main__")
            else:
                importlib.import_module(program.removesuffix(".py")).main()
        except SystemExit as end:
            if isinstance(end.code, str):
                sys.stderr.write(end.code)
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def prices() -> dict[str, pd.DataFrame]:
    random = np.random.default_rng(5)
    dates = pd.bdate_range("2022-01-03", periods=160).astype(str)
    frames = {}
    for ticker in TICKERS:
        close = 100 * np.exp(random.normal(0, 0.02, len(dates)).cumsum())
        opened = close * np.exp(random.normal(0, 0.005, len(dates)))
        frames[ticker] = pd.DataFrame(
            {
                "date": dates,
                "open": opened,
                "high": np.maximum(opened, close) * 1.01,
                "low": np.minimum(opened, close) * 0.99,
                "close": close,
                "volume": random.integers(1_000, 9_000, len(dates)),
            }
        )
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the pages assume to be there; it is the current folder."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for found in EXAMPLE.finditer((ROOT / "docs/extending.md").read_text()):
            if found["anchor"] is None:
                Path(found["path"]).parent.mkdir(parents=True, exist_ok=True)
                Example(found["path"], found["text"], None, after=False).apply(folder)
        Path("prices").mkdir()
        frames = prices()
        for ticker, frame in frames.items():
            frame.to_csv(f"prices/{ticker}.csv", index=False)
        close = pd.DataFrame({t: f["close"].to_numpy() for t, f in frames.items()})
        close.set_index(frames[TICKERS[0]]["date"]).to_csv("close.csv")
        sectors = pd.DataFrame({"ticker": TICKERS, "sector": ["banks", "energy", "cars"] * 4})
        sectors.to_csv("sectors.csv", index=False)
        small_run = (*MARKET, *SHORT, "scheduler=plateau")  # one that can be trained for longer
        assert run("train.py", *small_run, "hydra.run.dir=outputs/day/finished") == 0
        known = pd.read_parquet("outputs/day/finished/predictions.parquet")["ticker"]
        held = pd.DataFrame({"ticker": sorted(known.unique())[:3], "shares": [10, 20, 30]})
        held.to_csv("held.csv", index=False)
        assert run("train.py", "--config-dir", "mine", "trust=[mypackage]", "model=mygru",
                   *small_run, "hydra.run.dir=outputs/day/mine") == 0  # fmt: skip
        with pytest.MonkeyPatch.context() as interrupting:
            interrupting.setattr(experiment, "record_evaluation", interrupt)
            assert run("train.py", "-m", "seed=1,2", *small_run) == 130
            assert run("train.py", *small_run) == 130
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("command", list(listed()))
def test_the_command_runs(
    command: Command, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in command.words() if word not in ("python", "-m")]
    if "-m" in command.words() and "train.py" in words:
        words.insert(1, "-m")
    own = "trust=[mypackage]" in words
    run_folder = "outputs/day/mine" if own else "outputs/day/finished"
    words = [w.replace("RUN", run_folder).replace("FOLDER", "prices") for w in words]
    if words[0] in ("train.py", "validate.py", "stockformer.audit.lookahead"):
        words += small(words)
    status = run(*words)
    captured = capfd.readouterr()
    assert status == 0, captured.out + captured.err


def test_the_metric_of_the_guide_is_an_entry_of_the_table(tmp_path: Path) -> None:
    text = (ROOT / "docs/extending.md").read_text()
    (found,) = [found for found in EXAMPLE.finditer(text) if found["anchor"] is not None]
    copy = tmp_path / found["path"]
    copy.parent.mkdir(parents=True)
    copy.write_text((ROOT / found["path"]).read_text())
    Example(found["path"], found["text"], found["anchor"], found["place"] == "after").apply(
        tmp_path
    )
    changed = runpy.run_path(str(copy))
    assert set(changed["METRICS"]) - set(metrics.METRICS) == {"sign_accuracy"}
    assert "sign_accuracy" in changed["MONITORS"]
    forecast = np.array([[[0.01, -0.02, 0.03]]])  # (S, H, N)
    cells = changed["Cells"](
        prediction=forecast,
        probability=np.full(forecast.shape, 0.5),
        label=forecast,
        up=np.array([[[True, True, True]]]),
        valid=np.array([[[True, True, True]]]),
        k=1,
        quantiles=2,
    )
    assert changed["METRICS"]["sign_accuracy"].daily(cells) == pytest.approx(2 / 3)
