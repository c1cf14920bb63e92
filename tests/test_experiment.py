"""A run's objects together: what is evaluated, what is kept, and in which mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig
from small_data import Phase5Files, composed
from torch import Tensor

from stockformer.data.calendar import published_calendar, real_calendar
from stockformer.evaluation.predictions import score
from stockformer.experiment import Experiment, read_dataset
from stockformer.interface import Batch, Forecast
from stockformer.runs.folder import RunDir
from stockformer.training.checkpoint import load_checkpoint, read_checkpoint
from stockformer.training.evaluate import Evaluation, Evaluator


def config_of(files: Phase5Files, *lines: str) -> DictConfig:
    small = ("model.width=8", "model.layers=1", "dataset.lookback=5", "trainer.device=cpu")
    return composed("dataset=nifty200_phase5", *small, *lines, data_dir=files.data_dir)


def experiment_of(files: Phase5Files, *lines: str) -> Experiment:
    config = config_of(files, *lines)
    return Experiment(config, read_dataset(config))


def test_evaluating_the_best_checkpoint_again_gives_the_recorded_numbers(
    phase5_files: Phase5Files, tmp_path: Path
) -> None:
    lines = ("trainer.max_epoch=4", "optimizer.lr=0.01")
    with RunDir.claim(tmp_path / "run") as run:
        experiment_of(phase5_files, *lines).train(run, [])
    recorded = json.loads(run.evaluation_file.read_text())
    metrics = pd.read_csv(run.metrics_file, index_col="epoch")
    best = metrics["validation_mae"].idxmin()
    assert recorded["epoch"] == best
    again = experiment_of(phase5_files, *lines)
    load_checkpoint(run.checkpoint("best"), again.model, again.data.panel.factor_names)
    for part, expected in (
        ("test", recorded["model"]["mae"]),
        ("validation", metrics.loc[best, "validation_mae"]),
    ):
        result = again.evaluator.evaluate(again.model, again.loss, again.loader(part))
        assert result.metrics["mae"] == expected
    _, facts = read_checkpoint(run.checkpoint("last"))
    assert facts["epoch"] == 4


@pytest.mark.parametrize(("monitor", "best"), [("mae", 2), ("rank_ic", 3), ("loss", 1)])
def test_the_best_epoch_is_the_monitors(
    phase5_files: Phase5Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    monitor: str,
    best: int,
) -> None:
    script = iter(
        [
            {"loss": 0.1, "mae": 0.3, "rank_ic": -0.5},
            {"loss": 0.2, "mae": 0.1, "rank_ic": 0.1},
            {"loss": 0.3, "mae": 0.2, "rank_ic": 0.2},
        ]
    )
    experiment = experiment_of(
        phase5_files, "trainer.max_epoch=3", f"trainer.monitor={monitor}", "split=ratio"
    )
    evaluate = Evaluator.evaluate

    def scripted(*arguments: Any) -> Evaluation:
        evaluation = evaluate(*arguments)
        return Evaluation(evaluation.predictions, evaluation.metrics | next(script, {}))

    monkeypatch.setattr(Evaluator, "evaluate", scripted)
    with RunDir.claim(tmp_path / "run") as run:
        experiment.train(run, [])
    assert read_checkpoint(run.checkpoint("best"))[1]["epoch"] == best


def test_the_epoch_is_chosen_by_the_neutralised_forecasts(
    phase5_files: Phase5Files, tmp_path: Path
) -> None:
    words = ("trainer.max_epoch=1", "split=ratio", "trainer.monitor=rank_ic")
    experiment = experiment_of(phase5_files, *words, "neutralise.components=1")
    with RunDir.claim(tmp_path / "run") as run:
        experiment.train(run, [])
    recorded = pd.read_csv(run.metrics_file)["validation_rank_ic"].iloc[0]
    made = experiment.evaluate_part("validation").predictions
    assert recorded == pytest.approx(score(made)["rank_ic"])
    signals = np.searchsorted(experiment.data.panel.dates, made.signal_dates)
    exposures = experiment.neutraliser.exposures(int(signals[-1]))
    left = made.prediction[-1] - made.prediction[-1].mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(left @ exposures, 0, atol=1e-9)
    plain = experiment_of(phase5_files, *words)
    plain.model.load_state_dict(experiment.model.state_dict())
    assert plain.evaluate_part("validation").metrics["rank_ic"] != pytest.approx(recorded)
    with pytest.raises(ValueError, match=r"neutralise\.components=4: at most 3 with 7 stocks"):
        experiment_of(phase5_files, "neutralise.components=4")


def test_dropout_is_on_in_training_and_off_in_evaluation(
    phase5_files: Phase5Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_of(phase5_files, "trainer.max_epoch=2")
    modes: list[tuple[bool, bool]] = []
    forward = experiment.model.forward

    def watched(batch: Batch) -> Forecast:
        modes.append((experiment.model.training, torch.is_inference_mode_enabled()))
        return forward(batch)

    monkeypatch.setattr(experiment.model, "forward", watched)
    with RunDir.claim(tmp_path / "run") as run:
        experiment.train(run, [])
    epoch = [(True, False)] * len(experiment.loader("train"))
    epoch += [(False, True)] * len(experiment.loader("validation"))
    judged = len(experiment.loader("validation")) + len(experiment.loader("test"))
    assert modes == 2 * epoch + [(False, True)] * judged


def test_the_gradient_is_clipped_to_its_norm(phase5_files: Phase5Files, tmp_path: Path) -> None:
    norms = []
    experiment = experiment_of(
        phase5_files, "trainer.max_epoch=1", "trainer.gradient_clip_norm=0.001"
    )
    with RunDir.claim(tmp_path / "run") as run, pytest.MonkeyPatch.context() as patch:
        step = torch.optim.Adam.step

        def watched(optimizer: torch.optim.Adam, closure: Any = None) -> Any:
            grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
            norms.append(torch.stack([g.norm() for g in grads if g is not None]).norm().item())
            return step(optimizer, closure)

        patch.setattr(torch.optim.Adam, "step", watched)
        experiment.train(run, [])
    assert norms == pytest.approx([0.001] * len(norms), rel=1e-2)


def test_a_forecast_is_told_as_a_return(phase5_files: Phase5Files) -> None:
    experiment = experiment_of(phase5_files, "target.transform=zscore")
    unit = experiment.data.targets.scale
    assert unit == pytest.approx(0.02, rel=0.2)
    forecast = np.random.default_rng(0).normal(size=(2, 2, 7))
    predictions = experiment.evaluator.predictions(np.array([70, 71]), forecast, forecast)
    np.testing.assert_allclose(predictions.prediction, forecast * unit)
    expected = phase5_files.returns[71:73]
    np.testing.assert_allclose(predictions.label[0], expected, atol=1e-12)


def test_predictions_that_are_not_finite_name_their_date(phase5_files: Phase5Files) -> None:
    experiment = experiment_of(phase5_files)
    forecast = np.zeros((2, 2, 7))
    forecast[1, 0, 3] = np.nan
    with pytest.raises(FloatingPointError, match=r"not finite on 1 dates, first 2023-04-11"):
        experiment.evaluator.predictions(np.array([70, 71]), forecast, forecast)


@pytest.mark.parametrize(
    ("name", "calendar"), [("real", real_calendar), ("published", published_calendar)]
)
def test_the_calendar_is_the_configured_one(
    phase5_files: Phase5Files, name: str, calendar: Any
) -> None:
    data = read_dataset(config_of(phase5_files, f"dataset.calendar={name}"))
    found, dates = data.windows.calendar.numpy(), data.panel.dates
    assert np.array_equal(found[: len(dates)], calendar(dates))
    assert len(found) == len(dates) + data.targets.span  # the newest day has target days too


def test_a_graph_is_fitted_only_for_a_model_that_takes_it(phase5_files: Phase5Files) -> None:
    with_graph = experiment_of(phase5_files, "graph=spectral")
    assert with_graph.embedding.values.shape == (7, 8)
    assert with_graph.embedding.last_date != "none"
    without = experiment_of(phase5_files, "graph=spectral", "model=lstm")
    assert without.embedding.values.shape == (7, 0)
    assert without.embedding.last_date == "none"


def test_a_model_is_two_files(phase5_files: Phase5Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the README promises: a module that takes only the facts it names."""
    import stockformer.models.wavelet as module

    class Mine(torch.nn.Module):
        def __init__(self, *, width: int, horizon: int, factors: int) -> None:
            super().__init__()
            self.horizon = horizon
            self.layer = torch.nn.Linear(factors, 1 + 2)

        def forward(self, batch: Batch) -> Forecast:
            out: Tensor = self.layer(batch.factors[:, -1])[:, None]
            out = out.expand(-1, self.horizon, -1, -1)
            return Forecast(returns=out[..., 0], logits=out[..., 1:])

    Mine.__module__ = module.__name__
    monkeypatch.setattr(module, "Mine", Mine, raising=False)
    config = config_of(phase5_files)
    config.model = {"_target_": f"{module.__name__}.Mine", "width": 4, "horizon": 2}
    experiment = Experiment(config, read_dataset(config))
    batch = next(iter(experiment.loader("train")))
    assert experiment.model(batch).returns.shape == batch.target.shape
    experiment.config.model = {**config.model, "typo": 1}
    with pytest.raises(ValueError, match=r"keys disagree: .*typo"):
        experiment.build_model()
