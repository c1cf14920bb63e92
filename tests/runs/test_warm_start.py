"""A training starts from another run's weights, and not on days that the other has seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs.small_run import SmallRuns

from stockformer.experiment import Experiment, read_dataset
from stockformer.runs.folder import RunDir
from stockformer.runs.warm_start import start_from
from stockformer.training.checkpoint import read_checkpoint, weights

EARLY = ("split=ratio", "split.train=0.35", "split.test=0.5")
LATE = ("split=ratio", "split.train=0.7", "split.test=0.15")


def train(small: SmallRuns, folder: Path, *words: str) -> Path:
    config = small.config(*words, "trainer.max_epoch=1")
    with RunDir.claim(folder) as run:
        Experiment(config, read_dataset(config)).train(run, small.words(*words))
    return folder


@pytest.fixture(scope="module")
def early(small: SmallRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warm") / "early"
    return train(small, folder, *EARLY)


def test_the_weights_and_the_graph_are_the_other_runs(early: Path, small: SmallRuns) -> None:
    config = small.config(*LATE)
    experiment = Experiment(config, read_dataset(config))
    facts = start_from(early, experiment)
    tensors, recorded = read_checkpoint(early / "checkpoints" / "best.safetensors")
    assert facts["epoch"] == 1
    assert experiment.checkpoint_facts()["graph_last_date"] == recorded["graph_last_date"]
    for name, tensor in weights(tensors).items():
        assert torch.equal(experiment.model.state_dict()[name], tensor)


def test_a_run_says_where_it_started(early: Path, small: SmallRuns, tmp_path: Path) -> None:
    train(small, tmp_path / "late", *LATE, f"init_from={early}")
    manifest = json.loads((tmp_path / "late" / "manifest.json").read_text())
    assert manifest["init_from"]["run"] == str(early.resolve())


def test_days_that_the_other_run_has_seen_are_refused(early: Path, small: SmallRuns) -> None:
    config = small.config(*EARLY)
    with pytest.raises(ValueError, match=r"fitted and selected on days up to .* not be out of"):
        start_from(early, Experiment(config, read_dataset(config)))


def test_another_model_is_refused(early: Path, small: SmallRuns) -> None:
    config = small.config(*LATE, "model.width=8")
    with pytest.raises(ValueError, match="does not fit the model"):
        start_from(early, Experiment(config, read_dataset(config)))
