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
from omegaconf import OmegaConf

from stockformer.config.hydra_lines import VERSION_BASE
from stockformer.config.overrides import check_command_line
from stockformer.config.recorded import read_config, recorded
from stockformer.config.rules import allowed_target
from stockformer.config.schema import CONFIG_NAME, config_folder

ROOT = Path(__file__).parents[2]
OPTIONS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in config_folder().glob("*/*.yaml")
    if path.parent.name != "hydra"
)
NEEDS = {"split=dates": ["split.validation_start=2024-01-01", "split.test_start=500"]}
FACTS = {
    "dates",
    "lookback",
    "target_span",
    "factors",
    "stocks",
    "graph",
    "learn_graph",
    "wavelet",
    "params",
}
FACTS |= {"optimizer", "last_epoch", "amsgrad", "foreach", "maximize", "capturable", "fused"}
FACTS |= {"differentiable", "decoupled_weight_decay", "mode", "eps", "clip"}  # ranks: no clip
REFUSED = {
    "trainer.max_epochs=3": "unknown key 'trainer.max_epochs'. Did you mean 'trainer.max_epoch'?",
    "+trainer.max_epochs=3": "Did you mean 'trainer.max_epoch'?",
    "++model.widht=3": "Did you mean 'model.width'?",
    "trainer.max_epoch = 3": "not KEY=VALUE as Hydra reads it: no blanks around =",
    "dataset.source.delimiter=;": "in its own quotes, e.g. 'KEY=\"a;b\"'",
    "max_epoch=3": "Did you mean 'trainer.max_epoch'?",
    "datset=x": "Did you mean 'dataset'?",
    "trainer.max_epoch=abc": "trainer.max_epoch: Value 'abc'",
    "trainer.early_stopping.patience=1.5": "trainer.early_stopping.patience: Value '1.5'",
    "trainer.monitor=sharpe": "trainer.monitor='sharpe': must be one of loss, ",
    "trainer.batch_size=0": "trainer.batch_size=0: must be at least 1",
    "trainer.device=gpu": "trainer.device='gpu': must be auto, cpu, mps, cuda or cuda:N",
    "model.width=abc": "model.width='abc': must be a whole number, as in 128",
    "model.width=null": "model.width=None: must be a whole number",
    "model.wavelet=sym99": "model.wavelet='sym99': must be a discrete wavelet of PyWavelets",
    "optimizer.eps=0": "optimizer.eps=0: must be above 0",
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
    "optimizer.betas=[{_target_:os.mkdir,path:x},0.9]": "optimizer.betas",
    "++model={widht:3}": "Did you mean 'model.width'?",
    "+optimizer={foo:1}": "unknown key 'optimizer.foo'",
    "+split@model=ratio": "a group cannot be placed elsewhere",
    "graph=glob(*)": "glob(...) is not supported",
    "+hydra.callbacks.x={_target_:os.mkdir}": "of Hydra's keys only",
    "hydra/job_logging=default": "of Hydra's groups only",
    "hydra.launcher._target_=os.mkdir": "hydra.launcher._target_='os.mkdir'",
    "optimizer.lr=inf": "optimizer.lr=inf: must be a finite number",
    "optimizer.betas=[0.9]": "must be two numbers",
    "scheduler.factor=1.5": "scheduler.factor=1.5: must be a share",
    "loss.regression_weight=-1.0": "must not be negative",
    "seed=4294967296": "must be from 0",
    "trainer.batch_size=8,12": "several values are a sweep, which needs -m",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_config_composes_and_its_targets_exist_with_these_keys(option: str) -> None:
    lines = [option, *NEEDS.get(option, [])]
    check_command_line(lines, multirun=option.startswith("search="))
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
        config = compose(CONFIG_NAME, lines)
    groups = ("split", "graph", "model", "loss", "optimizer", "scheduler")
    nodes = [config[group] for group in groups]
    for node in [*nodes, config.dataset.source, *config.processors.values()]:
        assert allowed_target(node._target_)
        parameters = inspect.signature(get_object(node._target_)).parameters
        given, needed = set(node) - {"_target_"}, set(parameters)
        assert given <= needed
        assert needed - given <= FACTS


@pytest.mark.parametrize("override", REFUSED)
def test_a_mistake_is_refused_by_name(override: str) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED[override])) as refusal:
        check_command_line([override], multirun=False)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=tcn", "model.kernel=1"], "model.kernel=1: must be at least 2 days"),
        (["model=master", "model.temperature=0"], "model.temperature=0: must be above 0"),
        (["model=master", "model.heads=3"], "model.width=64: must be a multiple of model.heads=3"),
        (["model=stockmixer", "model.scales=[]"], "model.scales=[]: must be whole numbers"),
        (["model=stockmixer", "model.scales=[1,0]"], "model.scales=[1, 0]: must be whole numbers"),
        (["model=stockmixer", "model.scales=[1,99]"], "model.scales=99: more than dataset.lookb"),
        (["model=ridge", "model.days=99"], "model.days=99: more than dataset.lookback=10 days"),
        (["model=ridge", "model.penalties=[1,-1]"], "model.penalties=[1, -1]: must be numbers ab"),
        (
            ["neutralise.components=20", "neutralise.days=30"],
            "neutralise.components=20: at most half of 30 days",
        ),
        (["model=lightgbm", "model.num_leaves=1"], "model.num_leaves=1: must be at least 2"),
        (["model=lightgbm", "model.subsample=1.5"], "model.subsample=1.5: must be a share above 0"),
        (["model=lstm", "model.heads=2"], "unknown key 'model.heads'"),
    ],
    ids=str,
)
def test_a_models_own_keys_have_rules(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_command_line(words, multirun=False)


def test_every_choice_of_a_sweep_is_checked() -> None:
    check_command_line(["trainer.batch_size=8,12", "optimizer.lr=1e-3,1e-4"], multirun=True)
    with pytest.raises(ValueError, match=r"trainer\.batch_size=0"):
        check_command_line(["trainer.batch_size=8,0", "optimizer.lr=1e-3,1e-4"], multirun=True)


WRONG_SEARCHES = {
    "+hydra.sweeper.direction=maximize": "unknown key 'hydra.sweeper.direction'",
    "+hydra.sweeper.custom_search_space=os.mkdir": "key 'hydra.sweeper.custom_search_space'",
    "+hydra.sweeper.sampler.multivariat=true": "unknown key 'hydra.sweeper.sampler.multivariat'. "
    "Did you mean 'hydra.sweeper.sampler.multivariate'?",
    "+hydra.sweeper.params={model.widht: 'choice(8,16)'}": "unknown key 'model.widht'",
    "hydra.sweeper.n_trials=0": "hydra.sweeper.n_trials=0: must be a whole number of at least 1",
    "hydra.sweeper.objectives=[]": "name one or more",
    "hydra.sweeper.objectives=[rank_ic,turnovr]": "'turnovr' is not one of",
    "hydra.sweeper.pruner=best": "must be one of none, median, hyperband",
    "hydra.sweeper.pruner=median,hyperband": "one value at a time",
    "optimizer.lr=interval(-1,1)": "optimizer.lr=-1",
    "hydra/launcher=joblib": "not a launcher of this project",
    "hydra.launcher.n_jobs=2": "hydra.launcher.n_jobs=2: jobs that run one after another",
}


@pytest.mark.parametrize("override", WRONG_SEARCHES)
def test_a_search_that_cannot_be_is_refused_by_name(override: str) -> None:
    with pytest.raises(ValueError, match=re.escape(WRONG_SEARCHES[override])):
        check_command_line(["search=optuna", override], multirun=True)


def test_a_pruner_needs_the_monitored_metric_as_the_only_objective() -> None:
    words = ["search=optuna", "hydra.sweeper.pruner=median"]
    check_command_line(words, multirun=True)
    both = "hydra.sweeper.objectives=[rank_ic,turnover]"
    check_command_line(["search=optuna", both], multirun=True)
    with pytest.raises(ValueError, match=r"must be the only one of hydra\.sweeper\.objectives"):
        check_command_line([*words, both], multirun=True)


OTHER_SPLITS = {
    "split.train_days=abc": ["split=walk_forward"],
    "split.train_days=0": ["split=walk_forward"],
    "split.fold=-1": ["split=walk_forward"],
    "split.counted_by=targets": ["split=dates", *NEEDS["split=dates"]],
}


OF_OTHER_GROUPS = {
    "processors.scale.clip=-1": ["processors=zscore"],
    "processors.scale.kind=median": ["processors=rank"],
    "processors.winsorise.share=0.9": ["processors=robust"],
    "processors.select.count=0": ["processors=neutral"],
    "dataset.factors=[KMIDD]": ["dataset=ohlcv"],
    "dataset.source.quality.jump=-1": ["dataset=ohlcv"],
    "dataset.source.quality.min_coverage=2": ["dataset=features"],
    "dataset.source.quality.stale_days=0": ["dataset=ohlcv"],
}


@pytest.mark.parametrize("override", OF_OTHER_GROUPS)
def test_values_of_processors_and_data_are_refused_before_any_data_are_read(override: str) -> None:
    group, *_, key = override.partition("=")[0].split(".")
    with pytest.raises(ValueError, match=rf"{group}.*{key}"):
        check_command_line([*OF_OTHER_GROUPS[override], override], multirun=False)


@pytest.mark.parametrize("override", OTHER_SPLITS)
def test_the_values_of_other_splits_are_checked_too(override: str) -> None:
    with pytest.raises(ValueError, match=re.escape(override.split("=", 1)[0])):
        check_command_line([*OTHER_SPLITS[override], override], multirun=False)


def test_what_a_module_only_imports_is_not_built() -> None:
    from stockformer.config.build import build

    for name in ("stockformer.data.graph.Path", "stockformer.models.stockformer.nn"):
        with pytest.raises(ValueError, match="not a class this project builds"):
            build(OmegaConf.create({"_target_": name}))
    with pytest.raises(ValueError, match=r"stockformer\.models\.nope"):
        build(OmegaConf.create({"_target_": "stockformer.models.nope.Nope"}))


def test_the_dataset_selects_split_and_target_and_the_command_line_wins() -> None:
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
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


def test_a_run_recorded_before_a_key_existed_is_read_as_it_was() -> None:
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
        now = compose(CONFIG_NAME, ["dataset=ohlcv"])
    then = OmegaConf.create(recorded(now))
    del then.dataset["waived_factors"], then.dataset["project_targets"]
    then.dataset.source.columns.update(vwap="vwap", adjusted="adj close", amount="amount")
    dataset = read_config(OmegaConf.to_yaml(then)).dataset
    assert (dataset.waived_factors, dataset.project_targets) == ([], {})
    assert dataset.source.columns.adjusted == ["adj close"]
    named = OmegaConf.merge(now, {"dataset": {"source": {"columns": {"adjusted": "adj close"}}}})
    assert read_config(recorded(named)).dataset.source.columns.adjusted == "adj close"


def test_an_experiment_can_set_what_belongs_to_no_group() -> None:
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
        assert compose(CONFIG_NAME, ["experiment=debug"]).tags == ["debug"]
        assert compose(CONFIG_NAME, ["experiment=debug", "tags=[mine]"]).tags == ["mine"]
