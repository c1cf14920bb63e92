"""Whole trainings on the simulated market: of nothing, no skill; of a leak, too good to be true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig
from small_data import composed

from stockformer.data.dataset import Dataset
from stockformer.data.panel import Panel
from stockformer.experiment import Experiment, prepare_dataset, read_panel
from stockformer.runs.folder import RunDir


@pytest.fixture
def config() -> DictConfig:
    lines = (
        "model=stockformer_small",
        "trainer.max_epoch=2",
        "trainer.device=cpu",
        "dataset.factors=[]",
        "model.dropout=0",
    )
    return composed(*lines, "dataset.source.days=400", "dataset.source.stocks=60", "graph=none")


def simulated(config: DictConfig) -> Panel:
    """The market with two factors that know nothing."""
    panel = read_panel(config)
    nothing = np.random.default_rng(0).normal(size=(*panel.returns.shape, 2)).astype(np.float32)
    return replace(panel.with_factors(nothing, ("FIRST", "SECOND")), oracle=None)


def verdict(config: DictConfig, data: Dataset, folder: Path) -> str:
    with RunDir.claim(folder) as run:
        Experiment(config, data).train(run, [])
    return str(json.loads(run.evaluation_file.read_text())["verdict"])


def test_a_model_fed_shuffled_targets_shows_no_skill(config: DictConfig, tmp_path: Path) -> None:
    panel = simulated(config)
    shuffled = np.random.default_rng(1).permuted(panel.returns, axis=1)
    data = prepare_dataset(config, replace(panel, returns=shuffled))
    said = verdict(config, data, tmp_path / "run")
    assert said.startswith("The model shows no skill in ranking (rank IC ")


def test_a_model_fed_the_label_is_too_good_to_be_true(config: DictConfig, tmp_path: Path) -> None:
    panel = simulated(config)
    panel.factors[:-1, :, 0] = np.nan_to_num(panel.returns[1:])  # tomorrow's return
    said = verdict(config, prepare_dataset(config, panel), tmp_path / "run")
    assert said.startswith("Too good to be true: a rank IC of 0.")
    assert "leak of the label" in said
    assert "Likely leak in the data: ridge alone has a rank IC of 1.000" in said
    assert "Likely leak in the data: factor FIRST, its rank IC with the return 1 day later" in said
    assert "factor SECOND" not in said
