"""`python evaluate.py run=RUN`: the same to the bit, or elsewhere with nothing fitted anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reporting.run_folder import rewrite
from small_data import Phase5Files

from stockformer.runs.reevaluation import folder_name

Command = Callable[..., tuple[int, str]]
FITTED = ("processors=robust", "target=next_day_zscore", "split=ratio")


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "report.html" and "evaluations" not in path.parts
    }


@pytest.mark.parametrize("settings", [(), FITTED, ("graph=learned", "graph.scale=0.3")])
def test_the_recorded_metrics_come_out_again(
    trained: Callable[..., None], command: Command, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    trained(tmp_path / "run", *settings)
    before = contents(tmp_path / "run")
    status, output = command("evaluate", "run=run")
    assert status == 0, output
    assert "reproduced bit for bit: all 16 recorded test metrics and" in output
    assert contents(tmp_path / "run") == before


def test_what_moved_the_forecasts_is_computed_on_demand(
    trained: Callable[..., None], command: Command, tmp_path: Path
) -> None:
    trained(tmp_path / "run")
    before = contents(tmp_path / "run")
    status, output = command("evaluate", "run=run", "importance=true")
    assert status == 0, output
    written = contents(tmp_path / "run")
    found = json.loads(written.pop(tmp_path / "run/importance.json"))
    assert written == before
    assert [each["name"] for each in found["inputs"]] == [*Phase5Files.factors, "past returns"]
    recorded = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert found["rank_ic"] == pytest.approx(recorded["model"]["rank_ic"])
    page = (tmp_path / "run/report.html").read_text()
    assert "Drop of the rank IC" in page
    command("evaluate", "run=run", "importance=true")
    assert (
        contents(tmp_path / "run")[tmp_path / "run/importance.json"] == json.dumps(found).encode()
    )


def test_importance_is_of_one_run_and_true_or_false(command: Command, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    status, output = command("evaluate", "run=[a,b]", "importance=true")
    assert status == 1
    assert "importance=true: is computed for one run" in output
    status, output = command("evaluate", "run=run", "importance=yes")
    assert status == 1
    assert "importance=yes: true or false" in output


def test_the_same_data_elsewhere_are_the_same(
    train: Command, command: Command, tmp_path: Path, phase5_files: Phase5Files
) -> None:
    assert train("hydra.run.dir=run", "graph=file")[0] == 0
    phase5_files.data_dir.rename(tmp_path / "moved")
    moved = ("run=run", "paths.data_dir=moved", "trainer.device=cpu")
    status, output = command("evaluate", *moved)
    assert status == 0, output
    assert "reproduced bit for bit" in output
    assert not (tmp_path / "run/evaluations").exists()


def test_other_numbers_are_reported(
    train: Command, command: Command, tmp_path: Path, phase5_files: Phase5Files
) -> None:
    train("hydra.run.dir=run")
    phase5_files.returns[-3, 2] += 1e-9
    phase5_files.write()
    status, output = command("evaluate", "run=run")
    assert status == 1
    assert "run: not reproduced: " in output
    assert "recorded, " in output
    assert "Changed since then: the data" in output
    file = tmp_path / "run/predictions.parquet"
    phase5_files.returns[-3, 2] -= 1e-9
    phase5_files.write()
    frame = pd.read_parquet(file)
    frame.loc[3, "prediction"] = np.nextafter(frame.loc[3, "prediction"], 1)
    frame.to_parquet(file)
    output = command("evaluate", "run=run")[1]
    assert (
        "predictions.parquet: damaged or changed: its digest is not the one in SHA256SUMS" in output
    )
    assert "not reproduced" not in output
    rewrite(file, file.read_bytes())
    assert "single predictions do not" in command("evaluate", "run=run")[1]


def test_elsewhere_nothing_is_fitted_anew(
    trained: Callable[..., None], command: Command, tmp_path: Path
) -> None:
    trained(tmp_path / "run", *FITTED)
    run, before = tmp_path / "run", contents(tmp_path / "run")
    changes = ("split.train=0.3", "split.test=0.5")
    status, output = command("evaluate", "run=run", *changes)
    assert status == 0, output
    assert contents(run) == before
    (folder,) = (run / "evaluations").iterdir()
    assert folder.name == "split.train=0.3,split.test=0.5"
    manifests = [json.loads((place / "manifest.json").read_text()) for place in (run, folder)]
    for key in ("processors", "target_scale", "factor_names", "graph_last_date", "tickers"):
        assert manifests[0][key] == manifests[1][key], key
    assert [manifest["kind"] for manifest in manifests] == ["run", "evaluation"]
    own, other = (pd.read_parquet(place / "predictions.parquet") for place in (run, folder))
    shared = other[other["signal_date"].isin(own["signal_date"])].reset_index(drop=True)
    assert len(other) > len(shared) == len(own)
    pd.testing.assert_frame_equal(shared, own, rtol=1e-5)  # other batches round otherwise


def test_days_the_model_was_fitted_on_are_named_by_date(
    trained: Callable[..., None], command: Command, tmp_path: Path
) -> None:
    trained(tmp_path / "run", *FITTED)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    _, output = command("evaluate", "run=run", "split.train=0.3", "split.test=0.5")
    folder = tmp_path / "run/evaluations/split.train=0.3,split.test=0.5"
    evaluation = json.loads((folder / "evaluation.json").read_text())
    last, dates = manifest["split"]["validation"]["last_target_date"], evaluation["daily"]
    known = [date for date in dates["signal_date"] if date < last]
    expected = (
        f"Not out of sample: {len(known)} of {len(dates['signal_date'])} test dates, {known[0]} to "
        f"{known[-1]}, are before {last}"
    )
    assert evaluation["verdict"].startswith(expected)
    assert expected in output
    _, output = command("evaluate", "run=run", "split.test=0.1", "into=later")
    assert "Not out of sample" not in output
    assert (tmp_path / "later/equity.csv").exists()
    status, output = command("evaluate", "run=run", "split.test=0.1", "into=later")
    assert (status, "name another folder with into=FOLDER" in output) == (1, True)


def test_another_data_set_of_the_same_stocks_and_factors(
    train: Command, command: Command, tmp_path: Path
) -> None:
    train("hydra.run.dir=run", "model=stockformer_small", "target=next_day")
    other = Phase5Files(tmp_path / "elsewhere")
    other.returns[60:] *= 1.5
    other.write()
    status, output = command(
        *("evaluate", "run=run", "dataset=nifty200_phase5"),
        f"paths.data_dir={other.data_dir}",
    )
    assert status == 0, output
    folder = tmp_path / "run/evaluations/dataset=nifty200_phase5"
    config = (folder / "config.yaml").read_text()
    assert "lookback: 5\n" in config  # the run's, not the data set's
    assert "horizon: 1\n" in config
    labels = [
        pd.read_parquet(p / "predictions.parquet")["label"] for p in (tmp_path / "run", folder)
    ]
    np.testing.assert_allclose(labels[1], labels[0] * 1.5)
    assert command("analyze", "run=run")[1].count("report: ") == 1


def other_stocks(files: Phase5Files) -> str:
    files.tickers = (*files.tickers[:6], "YYY")
    files.write()
    for name in files.factors:
        path = files.root / f"factors/{name}.csv"
        path.write_text(path.read_text().replace("ZZZ", "YYY"))
    return (
        "graph has 7 rows, one for each stock it was trained on; here are 7 stocks: "
        "1 missing ['ZZZ'], 1 unknown ['YYY']"
    )


def other_order_of_factors(files: Phase5Files) -> str:
    (files.root / "factors/selected_factors.txt").write_text("KLEN\nSTD5\nMA60")
    return "trained on other factors or another order: factor 1 was STD5, now KLEN"


def fewer_factors(files: Phase5Files) -> str:
    (files.root / "factors/selected_factors.txt").write_text("STD5\nMA60")
    return "fitted on other factors than the 2 here, which lack KLEN"


@pytest.mark.parametrize("break_it", [other_stocks, other_order_of_factors, fewer_factors])
def test_a_model_is_not_evaluated_on_data_it_does_not_fit(
    trained: Callable[..., None],
    command: Command,
    tmp_path: Path,
    break_it: Callable[[Phase5Files], str],
) -> None:
    trained(tmp_path / "run", *FITTED)
    other = Phase5Files(tmp_path / "elsewhere")
    reason = break_it(other)
    arguments = ("run=run", f"paths.data_dir={other.data_dir}")
    status, output = command("evaluate", *arguments)
    assert status == 1
    assert reason in output
    assert "Traceback" not in output
    assert not (tmp_path / "run/evaluations").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["model.width=16"], "model.width: a trained model is evaluated as it was trained"),
        (
            ["dataset.lookback=9"],
            "dataset.lookback: a trained model is evaluated as it was trained",
        ),
        (["trainer.max_epoch=1"], "trainer.max_epoch: a trained model"),
        (["split.fold=1"], "unknown key 'split.fold'"),
        (["split=rato"], "rato"),
        (["split.test=0.9"], "must leave days for validation"),
        (["backtest.top_k=7"], "together at most the 7 stocks"),
        (["split.test"], "argument 'split.test' not understood"),
        (["run=run"], "argument 'run=run' not understood"),
    ],
)
def test_a_change_that_cannot_be_is_refused(
    trained: Callable[..., None],
    command: Command,
    tmp_path: Path,
    arguments: list[str],
    reason: str,
) -> None:
    trained(tmp_path / "run", *FITTED)
    status, output = command("evaluate", "run=run", *arguments)
    assert status == 1
    assert reason in output
    assert "Traceback" not in output
    assert not (tmp_path / "run/evaluations").exists()


def test_a_run_that_was_not_finished_or_is_damaged_is_named(
    trained: Callable[..., None], command: Command, tmp_path: Path
) -> None:
    trained(tmp_path / "run", *FITTED)
    config = tmp_path / "run/config.yaml"
    good = config.read_text()
    for bad in (good.replace("seed: 0", "seeds: 0"), "[1, 2]", good.replace("data.splits", "os")):
        config.write_text(bad)
        status, output = command("evaluate", "run=run")
        assert status == 1
        assert "config.yaml" in output or "not a class this project builds" in output
        assert "Traceback" not in output
    config.write_text(good)
    (tmp_path / "run/checkpoints/best.safetensors").unlink()
    status, output = command("evaluate", "run=run")
    assert status == 1
    assert "best.safetensors" in output
    status, output = command("evaluate", "run=run", "into=there")
    assert (status, "into=: goes with a change" in output) == (1, True)


def test_the_name_of_an_evaluation_is_a_file_name() -> None:
    assert folder_name(["dataset=nifty200", "paths.data_dir=/a/b"]) == "dataset=nifty200"
    assert folder_name(["paths.data_dir=../x y"]) == "paths.data_dir=..-x-y"
    assert folder_name(["split.test=0.1", "trainer.device=cpu"]) == "split.test=0.1"
    assert len(folder_name(["dataset.source.path=" + "a/" * 200])) == 120
