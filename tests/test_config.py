"""Configurations are checked whole before data are read: what is refused, and how it is said."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object

from stockformer.config import CONFIG_NAME, allowed_target, check_command_line, config_folder

ROOT = Path(__file__).parents[1]
OPTIONS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in config_folder().glob("*/*.yaml")
    if path.parent.name != "hydra"
)
NEEDS = {"split=dates": ["split.validation_start=2024-01-01", "split.test_start=500"]}
REFUSED = {
    "trainer.max_epochs=3": "unknown key 'trainer.max_epochs'. Did you mean 'trainer.max_epoch'?",
    "+trainer.max_epochs=3": "Did you mean 'trainer.max_epoch'?",
    "++model.widht=3": "Did you mean 'model.width'?",
    "max_epoch=3": "Did you mean 'trainer.max_epoch'?",
    "datset=x": "Did you mean 'dataset'?",
    "trainer.max_epoch=abc": "trainer.max_epoch: Value 'abc'",
    "trainer.early_stopping.patience=1.5": "trainer.early_stopping.patience: Value '1.5'",
    "trainer.monitor=sharpe": "expected one of [mae, rank_ic, loss]",
    "trainer.batch_size=0": "trainer.batch_size=0: must be at least 1",
    "trainer.device=gpu": "trainer.device='gpu': must be auto, cpu, mps, cuda or cuda:N",
    "model.width=abc": "model.width='abc': must be a whole number, as in 128",
    "model.width=null": "model.width=None: must be a whole number",
    "model.heads=3": "model.width=128: must be a multiple of model.heads=3",
    "model={foo:1}": "model.foo",
    "model._target_=os.system": "model._target_='os.system': not a class this project builds",
    "dataset.source._target_=numpy.load": "dataset.source._target_='numpy.load'",
    "~model.width": "a key cannot be removed",
    "optimizer.lr=-1": "optimizer.lr=-1: must be above 0",
    "optimizer.lr=???": "optimizer.lr",
    "optimizer.lr=${no.such}": "optimizer.lr: Interpolation key 'no.such' not found",
    "split.test=0.5": "split.train + split.test",
    "dataset=nifty": "Available options in 'dataset': ",
    "seed": "seed",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_config_composes_and_its_targets_exist_with_these_keys(option: str) -> None:
    lines = [option, *NEEDS.get(option, [])]
    check_command_line(lines)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose(CONFIG_NAME, lines)
    groups = ("split", "graph", "model", "loss", "optimizer", "scheduler")
    nodes = [config[group] for group in groups]
    for node in [*nodes, config.dataset.source, *config.processors.values()]:
        assert allowed_target(node._target_)
        parameters = inspect.signature(get_object(node._target_)).parameters
        assert set(node) - {"_target_"} <= set(parameters)


@pytest.mark.parametrize("override", REFUSED)
def test_a_mistake_is_refused_by_name(override: str) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED[override])) as refusal:
        check_command_line([override])
    assert "\n" not in str(refusal.value)


def test_every_choice_of_a_sweep_is_checked() -> None:
    check_command_line(["trainer.batch_size=8,12", "optimizer.lr=1e-3,1e-4"])
    with pytest.raises(ValueError, match=r"trainer\.batch_size=0"):
        check_command_line(["trainer.batch_size=8,0", "optimizer.lr=1e-3,1e-4"])


def test_a_search_must_go_the_way_its_metric_gets_better() -> None:
    check_command_line(["search=optuna"])
    check_command_line(
        ["search=optuna", "trainer.monitor=rank_ic", "hydra.sweeper.direction=maximize"]
    )
    with pytest.raises(ValueError, match=r"rank_ic needs hydra\.sweeper\.direction=maximize"):
        check_command_line(["search=optuna", "trainer.monitor=rank_ic"])


def test_the_dataset_selects_split_and_target_and_the_command_line_wins() -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        chosen = compose(CONFIG_NAME, ["dataset=nifty200_phase5"])
        assert (chosen.split.context, chosen.target.horizon) == ("inside", 2)
        lines = ["dataset=nifty200_phase5", "split=ratio", "target=next_day"]
        overridden = compose(CONFIG_NAME, lines)
        assert (overridden.split.context, overridden.target.horizon) == ("across", 1)


def test_a_refusal_comes_before_torch_and_data_with_one_line_and_a_status(tmp_path: Path) -> None:
    program = (
        "import sys, runpy\n"
        "try:\n    runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
        "finally:\n    print('torch' in sys.modules, 'pandas' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "train.py"), "+trainer.max_epochs=3"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.split() == ["False", "False"]
    assert done.stderr.splitlines() == [
        "error: unknown key 'trainer.max_epochs'. Did you mean 'trainer.max_epoch'?"
    ]
    assert not list(tmp_path.iterdir())
