"""experiment=model_zoo: every model on one protocol from one sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command
from small_data import composed

from stockformer.config.schema import config_folder
from stockformer.sweeps.trials import Trials, read_trials

SMALL = ("dataset.source.stocks=14", "dataset.source.days=260", "report=false")
MODELS = [path.stem for path in (config_folder() / "model").glob("*.yaml")]


def swept(command: Command, folder: Path, *words: str) -> Trials:
    status, output = command("train", "-m", "experiment=model_zoo", "hydra.sweep.dir=sweep", *words)
    assert status == 0, output
    return read_trials(folder / "sweep")


def models_of(trials: Trials) -> dict[str, int]:
    """The seeds of each model."""
    return {
        trials.settings.loc[name, "model"]: configuration.seeds
        for name, configuration in trials.configurations.items()
    }


def test_one_sweep_ranks_models_of_both_kinds(command: Command, tmp_path: Path) -> None:
    chosen = ("model=ridge,lstm,master", "seed=0,1", "trainer.max_epoch=1")
    trials = swept(command, tmp_path, *SMALL, *chosen)
    assert models_of(trials) == {"ridge": 2, "lstm": 2, "master": 2}
    (group,) = trials.groups  # all tested on the same dates
    assert trials.objective == "rank_ic"
    assert trials.score.is_monotonic_decreasing
    assert len(group.configurations) == 3


@pytest.mark.parametrize(
    ("experiment", "left_out"),
    [("model_zoo", "stockformer"), ("nifty_zoo", "stockformer_small")],
)
def test_the_sweep_names_every_model_but_one_size(experiment: str, left_out: str) -> None:
    assert composed(f"experiment={experiment}").model._target_.startswith("stockformer.models.")
    text = (config_folder() / f"experiment/{experiment}.yaml").read_text()
    (line,) = [line for line in text.splitlines() if line.strip().startswith("model: ")]
    named = line.split(": ")[1].partition(" #")[0].split(",")
    assert sorted([*named, left_out]) == sorted(MODELS)


def test_a_key_that_one_of_the_models_lacks_is_refused(command: Command) -> None:
    status, output = command("train", "-m", "experiment=model_zoo", "model.width=8")
    assert status == 1
    assert "model.width" in output


@pytest.mark.full
def test_all_models_learn_the_demo_market(command: Command, tmp_path: Path) -> None:
    few = ("seed=0", "trainer.max_epoch=8", "report=false", "trainer.device=cpu")
    trials = swept(command, tmp_path, *few)
    assert set(models_of(trials)) == {*MODELS} - {"stockformer"}
    found = dict(
        zip(trials.settings["model"], trials.test["rank_ic"].reindex(trials.settings.index))
    )
    ridge = found.pop("ridge")  # a linear model of the signal day's factors finds little
    assert ridge > 0, found
    assert min(found.values()) > 0.03, found
