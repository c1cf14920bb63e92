"""`python evaluate.py run=[RUN,RUN]`: runs on the same dates averaged, folds stitched."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reporting.run_folder import rewrite
from small_data import Phase5Files

from stockformer.evaluation.averaging import mean_forecast
from stockformer.evaluation.baselines import BaselineInputs, all_baselines
from stockformer.evaluation.predictions import Predictions, score
from stockformer.runs.recorded_run import predictions_from, read_run
from stockformer.sweeps.trials import read_trials

Command = Callable[..., tuple[int, str]]
ONE_EPOCH = ("trainer.max_epoch=1", "target=next_day")
FOLDS = (
    *("split=walk_forward", "split.first_train=5", "split.first_test=50"),
    *("split.test_days=10", "split.validation_days=10"),
)


def predictions(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions.parquet")


def evaluation(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_seeds_and_folds_are_averaged_then_stitched(
    train: Command, command: Command, phase5_files: Phase5Files, tmp_path: Path
) -> None:
    settings = (*ONE_EPOCH, *FOLDS, "split.fold=0,1", "seed=0,1", "hydra.sweep.dir=sweep")
    status, output = train("-m", *settings)
    assert status == 0, output
    assert f"all 2 folds as one: {tmp_path}/sweep/walk_forward" in output
    assert "the mean of 2 seeds x 2 folds, jobs 0 … 3 (4)\n" in output
    (more,) = [line for line in output.splitlines() if "more seeds:" in line]
    assert more.endswith("split.fold=0,1 seed=2,3,4")
    assert "different code" not in output
    written = tmp_path / "sweep/3/manifest.json"
    commit = json.loads(written.read_text())["git_commit"]
    rewrite(written, written.read_text().replace(commit, 5 * "89abcdef"))
    status, output = command("evaluate", "run=sweep", "into=whole")
    assert status == 0, output
    runs = [predictions(tmp_path / "sweep" / name) for name in "0123"]
    whole = predictions(tmp_path / "whole")
    key = ["signal_date", "step", "ticker"]
    both = pd.concat(runs).groupby(key)[["prediction", "probability"]].mean()
    ours = whole.set_index(key)[["prediction", "probability"]]
    pd.testing.assert_frame_equal(ours.sort_index(), both.sort_index())
    assert whole["signal_date"].nunique() == 20
    # The end of the sweep made the same of them, on every test day once.
    pd.testing.assert_frame_equal(predictions(tmp_path / "sweep/walk_forward"), whole)
    np.testing.assert_array_equal(pd.unique(whole["signal_date"]), phase5_files.dates[50:70])
    assert whole["ticker"].iloc[:7].tolist() == runs[0]["ticker"].iloc[:7].tolist()
    # The baselines of each fold learn from its own training days.
    judged, parts = (evaluation(tmp_path / name) for name in ("whole", "sweep/0"))
    other = evaluation(tmp_path / "sweep/2")
    # All but the last: the constant that fits best fits the whole.
    for row, one, two in zip(judged["table"][1:-1], parts["table"][1:-1], other["table"][1:-1]):
        assert row["mae"] == pytest.approx((one["mae"] + two["mae"]) / 2), row["name"]
    rank_ic = score(predictions_from(whole))["rank_ic"]
    assert judged["model"]["rank_ic"] == pytest.approx(rank_ic)
    assert judged["epoch"] is None
    assert judged["backtest"]["figures"]["base"]["n_dates"] == 20
    run = read_run(tmp_path / "whole")
    assert run.headline in output
    assert "ensemble: the mean of 2 runs on each of 2 folds" in output
    assert re.search("runs of different code: commits .*89abcde", output)
    assert (tmp_path / "whole/report.html").exists()
    manifest = json.loads((tmp_path / "whole/manifest.json").read_text())
    assert manifest["kind"] == "ensemble"
    assert len(manifest["ensemble_of"]) == manifest["runs"] == 4
    # It is no run to be taken into another ensemble.
    status, output = command("evaluate", "run=whole,sweep/0")
    assert (status, "whole (an ensemble)" in output) == (1, True)


def test_the_baselines_of_a_fold_are_fitted_once_for_all_configurations(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    def counted(part: Predictions, history: BaselineInputs) -> dict[str, Predictions]:
        fitted.append(part.signal_dates[0])
        return all_baselines(part, history)

    monkeypatch.setattr("stockformer.runs.ensemble.all_baselines", counted)
    varied = ("split.fold=0,1", "optimizer.lr=1e-3,1e-4", "hydra.sweep.dir=sweep")
    status, output = train("-m", *ONE_EPOCH, *FOLDS, *varied)
    assert status == 0, output
    assert len(fitted) == len(set(fitted)) == 2
    found = read_trials(tmp_path / "sweep").settings["optimizer.lr"]
    assert found[["walk_forward_0", "walk_forward_1"]].tolist() == ["0.0001", "0.001"]
    for name in ("0", "1", "walk_forward_1"):  # the ensemble without its runs, which stay there
        shutil.copytree(tmp_path / "sweep" / name, tmp_path / "other" / name)
    found = read_trials(tmp_path / "other").settings["optimizer.lr"]
    assert found["walk_forward_1"] == "-"
    one, other = (evaluation(tmp_path / f"sweep/walk_forward_{n}") for n in range(2))
    assert one["model"] != other["model"]
    baselines = (each["table"][1:] for each in (one, other))  # the first row is the model
    for row, again in zip(*baselines, strict=True):
        assert (row["name"], row["mae"]) == (again["name"], again["mae"])


def test_an_average_is_a_run_that_is_found_as_the_newest(
    train: Command, command: Command, tmp_path: Path
) -> None:
    train("-m", *ONE_EPOCH, "seed=0,1", "hydra.sweep.dir=sweep", "target.median_class=true")
    status, output = command("evaluate", "run=sweep/0,sweep/1")
    assert status == 0, output
    (folder,) = (tmp_path / "outputs").glob("*/*-ensemble")
    status, output = command("analyze")
    assert f"report: {folder.relative_to(tmp_path)}/report.html" in output
    # The class is the median's, not the sign's.
    whole = predictions(folder)
    assert (whole["up"] != (whole["label"] > 0)).any()
    np.testing.assert_array_equal(whole["up"], predictions(tmp_path / "sweep/0")["up"])


def test_a_gap_between_folds_is_named_and_not_traded_through(
    train: Command, command: Command, tmp_path: Path
) -> None:
    train("-m", *ONE_EPOCH, *FOLDS, "split.fold=0,2", "hydra.sweep.dir=sweep")
    status, output = command("evaluate", "run=sweep", "into=whole")
    assert status == 0, output
    folds = [pd.unique(predictions(tmp_path / "sweep" / name)["signal_date"]) for name in "01"]
    last, first = (str(date)[:10] for date in (folds[0][-1], folds[1][0]))
    said = f"gap in the test dates: no forecast on 10 market days between {last} and {first}"
    assert said in output
    days = evaluation(tmp_path / "whole")["backtest"]["daily"]["date"]
    assert len(days) == 20
    equity = pd.read_csv(tmp_path / "whole/equity.csv", index_col="date")
    assert equity["n_held"].iloc[9] == 0


def test_runs_of_other_settings_are_averaged_with_a_note(
    train: Command, command: Command, tmp_path: Path
) -> None:
    train("-m", *ONE_EPOCH, "optimizer.lr=1e-3,1e-4", "seed=0,1", "hydra.sweep.dir=sweep")
    status, output = command("evaluate", "run=[sweep/0,sweep/1,sweep/2]", "into=whole")
    assert status == 0, output
    assert (
        "note: ensemble of 2 configurations with equal weights (Stockformer 2 runs, Stockformer "
        "1 run); they differ in optimizer.lr\n"
    ) in output
    # Two seeds of one configuration and one of the other: each configuration counts the same.
    runs = [predictions_from(predictions(tmp_path / "sweep" / name)) for name in "012"]
    forecasts = np.stack([run.prediction for run in runs])
    expected = mean_forecast(forecasts, ["a", "a", "b"])
    whole = predictions_from(predictions(tmp_path / "whole"))
    np.testing.assert_array_equal(whole.prediction, expected)
    ups = [run.probability for run in runs]
    np.testing.assert_allclose(whole.probability, (ups[0] + ups[1]) / 4 + ups[2] / 2)


def test_models_and_neutralised_forecasts_that_differ_are_named_by_group(
    train: Command, command: Command, tmp_path: Path
) -> None:
    neutral = ("neutralise.components=2", "neutralise.days=20")
    for name, words in {"one": neutral, "other": ("model=mlp",)}.items():
        status, output = train(*ONE_EPOCH, *words, f"hydra.run.dir={name}")
        assert status == 0, output
    status, output = command("evaluate", "run=[one,other]", "into=both")
    assert status == 0, output
    (note,) = [line for line in output.splitlines() if "2 configurations" in line]
    assert "(Stockformer 1 run, MLP 1 run); they differ in model, neutralise" in note
    assert "without exposure" not in output  # half of the forecast has it
    assert "without exposure to 2 principal" in (tmp_path / "one/train.log").read_text()
    status, output = command("evaluate", "run=both")
    assert (status, "both: an ensemble, which has no weights of its own" in output) == (1, True)


def test_what_does_not_go_together_is_named(
    train: Command, command: Command, tmp_path: Path
) -> None:
    def run(name: str, *settings: str) -> None:
        assert train(*ONE_EPOCH, *settings, f"hydra.run.dir={name}")[0] == 0

    run("a", *FOLDS)
    run("b", *FOLDS, "seed=1")
    run("next", *FOLDS, "split.fold=1")
    run("across", *FOLDS, "split.first_test=55")
    run("excess", *FOLDS, "target.excess=true")
    train(*ONE_EPOCH, "optimizer.lr=1e30", "hydra.run.dir=failed")
    for names, reason in (
        ("a", "run=[a]: 1 runs found, two are needed"),
        (f"a,{tmp_path}/a", f"run=[a,{tmp_path}/a]: 1 runs found, two are needed"),
        ("a,across", "a (2023-03-13 to 2023-03-24) and across (2023-03-20 to 2023-03-31) share 5"),
        ("a,b,next", "not as many runs on all dates: 2 on 2023-03-13 to 2023-03-24 (a, b); 1 on "),
        ("a,excess", "the targets of excess are not those of a's configuration"),
        ("a,failed", "not finished runs: failed (failed, no test predictions)"),
        ("a,nowhere", "nowhere: no such folder"),
    ):
        status, output = command("evaluate", f"run=[{names}]", "into=whole")
        assert status == 1, names
        assert reason in output, output
        assert "Traceback" not in output
    assert not (tmp_path / "whole").exists()


def test_runs_on_other_data_do_not_go_together(
    train: Command, command: Command, phase5_files
) -> None:
    train(*ONE_EPOCH, "hydra.run.dir=a")
    phase5_files.returns[5, 5] = 0.01
    phase5_files.write()
    train(*ONE_EPOCH, "hydra.run.dir=b")
    status, output = command("evaluate", "run=a,b")
    assert (status, "b has read other data than a" in output) == (1, True)
