"""Models that are fitted at once: what they learn from, what is chosen, and what a run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Command
from numpy.testing import assert_allclose
from omegaconf import DictConfig
from runs.small_run import differences
from scipy.stats import norm
from sklearn.linear_model import Ridge as SklearnRidge
from small_data import Phase5Files, composed

from benchmarks.speed import Size, random_batch
from stockformer.experiment import Experiment, read_dataset
from stockformer.interface import Batch
from stockformer.models import lightgbm, ridge
from stockformer.models.lightgbm import LightGBM
from stockformer.models.regression import boosted_trees
from stockformer.models.ridge import Ridge
from stockformer.runs.folder import RunDir
from stockformer.training.attribution import attribute
from stockformer.training.checkpoint import read_checkpoint
from stockformer.training.processes import Processes

SIZE = Size(batch=30, lookback=6, horizon=2, stocks=7, factors=4)
TREES: dict[str, Any] = {
    **{"seeds": 2, "choices": 3, "n_estimators": 6, "learning_rate": 0.3, "num_leaves": 4},
    **{"min_child_samples": 5, "colsample_bytree": 0.8, "subsample": 0.8, "reg_lambda": 1.0},
}
NAMES = ("ridge", "lightgbm")


def windows() -> Batch:
    """Windows whose target is the last factor of the day before, and noise."""
    torch.manual_seed(0)
    batch = random_batch(SIZE)
    batch.target.copy_(batch.factors[:, -2, :, -1][:, None] + 0.1 * torch.randn_like(batch.target))
    batch.up.copy_(batch.target > 0)
    batch.valid.copy_(torch.rand(batch.valid.shape) > 0.2)
    return batch


def trees(days: int = 2) -> LightGBM:
    return LightGBM(days=days, horizon=2, factors=4, **TREES)


def fitted(model: Ridge | LightGBM) -> Ridge | LightGBM:
    table = model.table([windows()])
    model.learn_distribution(table)
    for _ in model.candidates(table, seed=1):
        pass
    return model


def test_a_table_has_a_row_a_valid_cell_and_a_column_a_day_and_factor() -> None:
    batch = windows()
    table = trees(days=2).table([batch.rows(slice(10)), batch.rows(slice(10, None))])
    cells = batch.valid.any(dim=1).nonzero()
    assert len(table.inputs) == len(cells) < 30 * 7
    sample, stock = cells[100]
    expected = batch.factors[sample, -2:, stock].flatten()
    assert table.inputs[100].tolist() == expected.tolist()
    assert table.target[100].tolist() == batch.target[sample, :, stock].tolist()
    assert table.valid[100].tolist() == batch.valid[sample, :, stock].tolist()


def test_ridge_agrees_with_sklearn() -> None:
    model, batch = Ridge(days=2, penalties=[0.1, 2.0], horizon=2, factors=4), windows()
    batch.factors.mul_(torch.tensor([1.0, 10.0, 0.1, 1.0])).add_(3.0)
    table = model.table([batch])
    for penalty, _ in zip(model.penalties, model.candidates(table, seed=0), strict=True):
        for step in range(2):
            rows = table.valid[:, step]
            inputs, target = table.inputs[rows].astype(float), table.target[rows, step]
            scale = inputs.std(axis=0)
            expected = SklearnRidge(alpha=penalty * len(target)).fit(inputs / scale, target)
            ours = model.predict(torch.from_numpy(table.inputs)).numpy()[:, step]
            assert_allclose(ours, expected.predict(table.inputs / scale), atol=1e-4)


@pytest.mark.parametrize("model", [Ridge(days=2, penalties=[0.01], horizon=2, factors=4), trees()])
def test_a_forecast_learns_the_day_before_and_its_probability_follows(
    model: Ridge | LightGBM,
) -> None:
    batch = windows()
    untrained = model(batch)
    assert (untrained.returns == 0).all()
    forecast = fitted(model)(batch)
    for step in range(2):
        found = np.corrcoef(forecast.returns[:, step].flatten(), batch.target[:, step].flatten())
        assert found[0, 1] > 0.7
    table = model.table([batch])
    up, known = table.up[table.valid[:, 1], 1], table.target[table.valid[:, 1], 1]
    score = norm.ppf((up.sum() + 1) / (len(up) + 2)) + forecast.returns[:, 1] / known.std()
    probability = forecast.logits.softmax(-1)[:, 1, :, 1]
    assert_allclose(probability.numpy(), norm.cdf(score), atol=1e-5)


def test_trees_forecast_what_lightgbm_does(monkeypatch: pytest.MonkeyPatch) -> None:
    boosters = []

    def watched(*arguments: Any) -> Any:
        boosters.append(boosted_trees(*arguments))
        return boosters[-1]

    monkeypatch.setattr(lightgbm, "boosted_trees", watched)
    monkeypatch.setattr(lightgbm, "ROWS_AT_ONCE", 50)
    model, batch = trees(), windows()
    table = model.table([batch])
    for choice in model.candidates(table, seed=1):
        ours = model.predict(torch.from_numpy(table.inputs)).numpy()
        for step, both in enumerate((boosters[:2], boosters[2:])):
            used = int(choice.split()[0])
            theirs = np.mean([b.predict(table.inputs, num_iteration=used) for b in both], axis=0)
            assert_allclose(ours[:, step], theirs, rtol=0, atol=1e-6)
    assert choice == "6 trees"
    again = trees()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(batch).returns, model(batch).returns)


def test_a_threshold_in_half_the_bits_decides_the_same() -> None:
    near = np.float32(0.1)
    for number in (0.1, float(near), float(np.nextafter(near, 1)) - 1e-12):
        rounded = lightgbm.rounded_down(number)
        for x in (near, np.nextafter(near, np.float32(1)), np.nextafter(near, np.float32(-1))):
            assert (x <= np.float32(rounded)) == (float(x) <= number)


def test_a_circle_in_a_damaged_tree_ends() -> None:
    model = fitted(trees())
    model.below.zero_()
    assert model(windows()).returns.isfinite().all()


def test_the_parts_of_trees_add_up_to_the_forecast() -> None:
    model, one = fitted(trees()), windows().rows(slice(1))
    found = attribute(model, one, [2, 5], np.array([True, True]))
    forecast = model(one).returns[0].mean(dim=0)
    sums = found.factors.sum(axis=1)  # each is the forecast less the mean in training
    assert sums[0] - sums[1] == pytest.approx(float(forecast[2] - forecast[5]), abs=1e-6)
    assert np.abs(found.factors).argmax(axis=1).tolist() == [3, 3]
    assert not found.past_returns.any()


def config_of(files: Phase5Files, name: str, *lines: str) -> DictConfig:
    sizes = {"lightgbm": ["model.n_estimators=8", "model.min_child_samples=5", "model.choices=4"]}
    small = ("dataset.lookback=5", "trainer.device=cpu", "report=false", *sizes.get(name, []))
    return composed(
        "dataset=nifty200_phase5", f"model={name}", *small, *lines, data_dir=files.data_dir
    )


def run_of(config: DictConfig, folder: Path) -> float:
    experiment = Experiment(config, read_dataset(config))
    with (RunDir.reopen if folder.exists() else RunDir.claim)(folder) as run:
        return experiment.train(run, [])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("monitor", ["mae", "rank_ic"])
def test_the_validation_days_choose(
    phase5_files: Phase5Files,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    monitor: str,
) -> None:
    caplog.set_level("INFO", "stockformer")
    best = run_of(config_of(phase5_files, name, f"trainer.monitor={monitor}"), tmp_path / "run")
    lines = [line for line in caplog.messages if f": validation {monitor} " in line]
    values = [float(line.rpartition(" ")[2]) for line in lines]
    assert len({*values}) > 2
    assert best == pytest.approx((min if monitor == "mae" else max)(values), abs=1e-5)
    metrics = pd.read_csv(tmp_path / "run/metrics.csv")
    assert metrics[f"validation_{monitor}"].tolist() == [best]
    facts = read_checkpoint(tmp_path / "run/checkpoints/best.safetensors")[1]
    assert facts["validation"][monitor] == best


class Stopped(BaseException):
    pass


def stop(*_: object, **__: object) -> None:
    raise Stopped


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_fit_is_kept_and_an_unfinished_one_begins_again(
    phase5_files: Phase5Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config, whole = config_of(phase5_files, name), tmp_path / "whole"
    best = run_of(config, whole)
    for moment, owner in (("_fit", RunDir), ("_test", Experiment)):
        folder, method = tmp_path / moment, "write_metrics" if owner is RunDir else "test"
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, stop)
            with pytest.raises(Stopped):
                run_of(config, folder)
        with monkeypatch.context() as patch:
            if owner is Experiment:
                patch.setattr(lightgbm, "boosted_trees", stop)
                patch.setattr(ridge, "ridge_weights", stop)
            assert run_of(config, folder) == best
        assert not differences(whole, folder), moment


def test_several_processes_are_refused(phase5_files: Phase5Files, tmp_path: Path) -> None:
    config = config_of(phase5_files, "ridge")
    experiment = Experiment(config, read_dataset(config))
    experiment.processes = Processes(0, 2)
    with RunDir.claim(tmp_path / "run") as run, pytest.raises(ValueError, match="without torchrun"):
        experiment.tabular_trainer(experiment.model, run, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_reported_evaluated_and_used_as_any_other(
    command: Command, tmp_path: Path, name: str
) -> None:
    market = ["dataset.source.stocks=12", "dataset.source.days=260"]
    leaves = ["model.min_child_samples=20"] if name == "lightgbm" else []
    status, output = command(
        *("train", "experiment=demo", f"model={name}", *market, *leaves),
        *("trainer.device=cpu", "hydra.run.dir=run", "loss=squared", "trainer.monitor=loss"),
    )
    assert status == 0, output
    assert "fitted at once" in output
    assert "no effect" not in output  # the loss chooses among the candidates
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert evaluation["epoch"] == 1
    status, output = command("evaluate", "run=run")
    assert status == 0, output
    assert "reproduced bit for bit" in output
    status, output = command("predict", "run=run")
    assert status == 0, output
    status, output = command("train", "resume=run")
    assert (status, "nothing to do" in output) == (0, True)
    status, output = command("train", "init_from=run", f"model={name}", *market, "dataset=demo")
    assert status == 1
    assert "init_from=run: this model is fitted at once" in output


@pytest.mark.parametrize("name", NAMES)
def test_its_export_is_refused(phase5_files: Phase5Files, tmp_path: Path, name: str) -> None:
    from stockformer.runs.export import export

    config = config_of(phase5_files, name)
    with RunDir.claim(tmp_path / "run") as run:
        from stockformer.config.recorded import recorded

        run.write_config(recorded(config), [f"model={name}", "dataset=nifty200_phase5"])
        words = [f"model={name}", "dataset=nifty200_phase5"]
        Experiment(config, read_dataset(config)).train(run, words)
    with pytest.raises(ValueError, match="only models that torch trains are exported"):
        list(export({"run": str(tmp_path / "run")}, []))
