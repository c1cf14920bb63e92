"""`python train.py` from the command line's own main, on a small data set in the real layout."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_data import Phase5Files
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stockformer.evaluation.backtest import Backtest, Settings, largest_imbalance
from stockformer.evaluation.comparison import label

Train = Callable[..., tuple[int, str]]


def run_folders(tmp_path: Path) -> list[Path]:
    return sorted(path.parent for path in tmp_path.glob("*/*/*/**/status.json"))


def test_a_run_leaves_everything_it_says_in_its_folder(train: Train, tmp_path: Path) -> None:
    status, output = train("tags=[first]")
    assert status == 0, output
    (folder,) = run_folders(tmp_path)
    assert folder.parents[1].name == "outputs"
    assert "that are not read: 128_corr_struc2vec_adjgat.npy, factors/other.csv" in output
    assert "cannot trigger within" in output
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    said = (folder / "train.log").read_text()
    assert all(line in said for line in output.splitlines() if line.startswith("epoch"))
    metrics = pd.read_csv(folder / "metrics.csv")
    assert list(metrics["epoch"]) == [1, 2]
    of_ten_stocks = ["validation_precision_at_k", "validation_top_k_excess"]  # there are seven
    assert metrics[of_ten_stocks].isna().all(axis=None)
    assert np.isfinite(metrics.drop(columns=of_ten_stocks).to_numpy()).all()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["factor_names"] == list(Phase5Files.factors)
    assert (
        manifest["split"]["train"]["last_target_date"]
        < manifest["split"]["validation"]["first_signal_date"]
    )
    assert manifest["tags"] == ["first"]
    assert len(manifest["files"]) == 7
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert {"train/loss", "validation/mae", "run/learning_rate"} <= set(events.Tags()["scalars"])
    tested = [event.value for event in events.Scalars("test/rank_ic")]
    assert len(tested) == manifest["split"]["test"]["samples"]
    signal_dates = json.loads((folder / "evaluation.json").read_text())["daily"]["signal_date"]
    for tag in ("test/rank_ic", "test/rank_ic_cumulated"):
        times = [datetime.fromtimestamp(event.wall_time, UTC) for event in events.Scalars(tag)]
        assert [f"{time:%Y-%m-%d}" for time in times] == signal_dates
    cumulated = events.Scalars("test/rank_ic_cumulated")[-1].value
    assert cumulated == pytest.approx(sum(tested), rel=1e-4)
    assert events.Tags()["histograms"] == ["test/rank_ic_by_date"]
    assert "test/up" in events.Tags()["tensors"]
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {
        f"{name}.safetensors{suffix}"
        for name in ("best", "last", "previous")
        for suffix in ("", ".sha256")
    }


def test_the_closing_table_compares_the_model_with_the_baselines(
    train: Train, tmp_path: Path
) -> None:
    _, output = train()
    (folder,) = run_folders(tmp_path)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    names = [row["name"] for row in evaluation["table"]]
    assert names[0] == "model"
    assert {"zero_return", "majority_class", "yesterday_class", "reversal_1_day"} < set(names)
    assert {"reversal_5_day", "momentum_20_day", "ridge", "lightgbm"} < set(names)
    assert {"training_mean", "always_up", "best_constant"} < set(names)
    assert all(f"\n{label(name).removeprefix('best ')[:13]}" in output for name in names)
    assert evaluation["verdict"] in output
    assert all(sentence in output for sentence in evaluation["sentences"])
    assert [t["name"] for t in evaluation["targets"]] == [
        "test MAE < 0.015",
        "test accuracy > 0.52",
    ]
    zero = next(row for row in evaluation["table"] if row["name"] == "zero_return")
    tidy = pd.read_parquet(folder / "predictions.parquet")
    assert zero["mae"] == pytest.approx(tidy["label"].abs().mean())
    assert evaluation["oracle_rank_ic"] is None
    assert output.rstrip().endswith(f"run folder: {folder}")


def test_the_ledger_balances_and_is_what_the_evaluation_tells(train: Train, tmp_path: Path) -> None:
    status, output = train("hydra.run.dir=run", "backtest.top_k=2", "backtest.capital=1e6")
    assert status == 0, output
    backtest = json.loads((tmp_path / "run/evaluation.json").read_text())["backtest"]
    tables = {
        name: pd.read_csv(tmp_path / f"run/{name}.csv", keep_default_na=False, parse_dates=["date"])
        for name in ("trades", "positions", "equity")
    }
    equity = tables["equity"]
    assert equity.columns[0] == "date"
    settings = Settings(**backtest["settings"])
    assert (settings.top_k, settings.n_drop, settings.capital) == (2, 1, 1e6)
    ledger = Backtest(settings, tables["trades"], tables["positions"], equity.set_index("date"))
    assert largest_imbalance(ledger) < 1e-9
    assert {"NA", "TRUE", "M&M"} & set(tables["trades"]["ticker"])
    base = backtest["figures"]["base"]
    assert base["total_return"] == pytest.approx(equity["account"].iloc[-1] / 1e6 - 1)
    assert backtest["daily"]["net_return"] == equity["net_return"].tolist()
    assert f"{base['total_return']:+.1%}; equal-weight universe" in output
    assert "closes made of cumulated returns" in output


def test_an_index_is_read_and_compared_with(
    train: Train, tmp_path: Path, phase5_files: Phase5Files
) -> None:
    index = pd.Series(range(100, 190), phase5_files.dates, name="Close")
    index.to_csv(tmp_path / "index.csv", index_label="date", date_format="%Y-%m-%d")
    assert train("backtest.index_file=index.csv", "hydra.run.dir=run")[0] == 0
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    dates = pd.DatetimeIndex(evaluation["backtest"]["daily"]["date"])
    earned = evaluation["backtest"]["benchmarks"]["index"]["total_return"]
    assert earned == pytest.approx(index[dates[-1]] / index[dates[0]] - 1)
    index.rename("price").to_csv(tmp_path / "index.csv", index_label="date")
    status, output = train("backtest.index_file=index.csv")
    assert (status, "index.csv: no column 'close', only price" in output) == (1, True)
    status, output = train("backtest.index_file=nowhere.csv")
    assert (status, "nowhere.csv: file not found" in output) == (1, True)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("backtest.top_k=7", "together at most the 7 stocks of the data set"),
        ("backtest.fill=open", "the data set has returns only; use close"),
        ("backtest.fill=high", "backtest.fill"),
        ("backtest.delay=-1", "backtest.delay=-1: must not be negative"),
        ("backtest.buy_cost=0.1", "leaves no cash for backtest.buy_cost, once doubled"),
        ("backtest.top_kk=3", "Did you mean 'backtest.top_k'?"),
    ],
)
def test_a_backtest_that_cannot_be_is_refused_before_training(
    train: Train, tmp_path: Path, setting: str, reason: str
) -> None:
    status, output = train(setting)
    assert status == 1
    assert reason in output
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("metrics.csv"))


def test_predictions_are_dated_and_labelled_by_what_happened(
    train: Train, tmp_path: Path, phase5_files: Phase5Files
) -> None:
    train()
    (folder,) = run_folders(tmp_path)
    tidy = pd.read_parquet(folder / "predictions.parquet")
    assert list(tidy.columns) == [
        *("signal_date", "target_start", "target_end", "ticker", "step"),
        *("prediction", "probability", "label", "up", "valid"),
    ]
    returns = phase5_files.frame(phase5_files.returns)
    for row in tidy.sample(50, random_state=0).itertuples():
        day = returns.index.get_loc(row.signal_date)
        assert row.target_start == returns.index[day + row.step - 1]
        assert row.target_end == returns.index[day + row.step]
        assert row.label == pytest.approx(returns.loc[row.target_end, row.ticker], abs=1e-12)
    wide = pd.read_csv(folder / "predictions/regression/prediction_step2.csv", index_col=0)
    second = tidy[tidy["step"] == 2].pivot(
        index="signal_date", columns="ticker", values="prediction"
    )
    np.testing.assert_allclose(wide.to_numpy(), second.to_numpy())
    assert sorted(wide.columns) == sorted(Phase5Files.tickers)
    assert {p.name for p in (folder / "predictions/classification").iterdir()} == {
        f"{name}_step{step}.csv" for name in ("probability", "label") for step in (1, 2)
    }


def test_the_same_seed_gives_the_same_bits_and_workers_change_nothing(
    train: Train, tmp_path: Path
) -> None:
    for setting in ("trainer.num_workers=0", "trainer.num_workers=0", "trainer.num_workers=2"):
        assert train(setting)[0] == 0
    assert train("seed=1")[0] == 0
    first, second, workers, other = (
        (f / "predictions.parquet").read_bytes() for f in run_folders(tmp_path)
    )
    assert first == second == workers != other
    timing = ["seconds", "samples_per_second", "peak_memory_mib"]
    tables = [pd.read_csv(f / "metrics.csv").drop(columns=timing) for f in run_folders(tmp_path)]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    pd.testing.assert_frame_equal(tables[0], tables[2], check_exact=True)


def test_a_sweep_runs_every_combination_in_a_numbered_folder(train: Train, tmp_path: Path) -> None:
    status, output = train("-m", "optimizer.lr=1e-3,1e-4", "trainer.batch_size=8,12")
    assert status == 0, output
    folders = run_folders(tmp_path)
    assert [f.name for f in folders] == ["0", "1", "2", "3"]
    assert all(f.parents[2].name == "multirun" for f in folders)
    overrides = [json.loads((f / "overrides.json").read_text()) for f in folders]
    assert overrides[3][-2:] == ["optimizer.lr=0.0001", "trainer.batch_size=12"]


def test_a_job_that_fails_leaves_the_others_running_and_the_status_says_so(
    train: Train, tmp_path: Path
) -> None:
    status, output = train("-m", "dataset.lookback=60,5")
    assert status == 1
    assert "too few for dataset.lookback=60" in output
    states = [json.loads((f / "status.json").read_text()) for f in run_folders(tmp_path)]
    assert [s["state"] for s in states] == ["failed", "finished"]
    assert "too few" in states[0]["reason"]


def test_a_search_goes_on_past_a_trial_that_fails_and_says_why(
    train: Train, tmp_path: Path
) -> None:
    status, output = train(
        *("-m", "search=optuna", "hydra.sweeper.n_trials=4", "trainer.max_epoch=1"),
        *("optimizer.lr=choice(1e-3,1e30)", "seed=2", "split=ratio"),
    )
    assert status == 1, output
    statuses = [json.loads((f / "status.json").read_text()) for f in run_folders(tmp_path)]
    reasons = [s["reason"] for s in statuses if s["state"] == "failed"]
    assert len(statuses) == 4
    assert 0 < len(reasons) < 4
    assert all("lower optimizer.lr" in reason for reason in reasons)
    assert "best by validation rank IC, " in output


def test_a_search_needs_m(train: Train, tmp_path: Path) -> None:
    status, output = train("search=optuna")
    assert (status, "a search needs -m, e.g. python train.py -m search" in output) == (1, True)
    assert not run_folders(tmp_path)


def test_a_taken_folder_is_refused_and_left_as_it_is(train: Train, tmp_path: Path) -> None:
    assert train("hydra.run.dir=mine")[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "mine").rglob("*") if p.is_file()}
    status, output = train("hydra.run.dir=mine", "seed=5")
    assert status == 1
    assert "is taken or not empty" in output
    assert {p: p.read_bytes() for p in (tmp_path / "mine").rglob("*") if p.is_file()} == before


def break_missing(files: Phase5Files) -> str:
    (files.root / "factors/KLEN.csv").unlink()
    return "KLEN.csv: file not found"


def break_folder(files: Phase5Files) -> str:
    files.root.rename(files.root.with_name("elsewhere"))
    return "data folder not found"


def break_shape(files: Phase5Files) -> str:
    np.savez(files.root / "flow.npz", result=files.returns[:, :5])
    return "flow.npz: shape (90, 5), expected (90, 7)"


def break_tickers(files: Phase5Files) -> str:
    path = files.root / "factors/STD5.csv"
    path.write_text(path.read_text().replace("ZZZ", "YYY"))
    return "STD5.csv: other tickers than the labels: 1 missing ['ZZZ'], 1 unknown ['YYY']"


def break_order(files: Phase5Files) -> str:
    label = files.frame(files.returns)[["B-B", "AAA", *files.tickers[2:]]]
    label.to_csv(files.root / "label.csv", date_format="%Y-%m-%d")
    return "differs from label.csv on 2023-01-03 for B-B: other tickers or dates?"


def break_dates(files: Phase5Files) -> str:
    path = files.root / "factors/STD5.csv"
    path.write_text(path.read_text().replace("2023-02-01", "2023-02-04"))
    return "STD5.csv: dates are not strictly increasing"


def break_key(files: Phase5Files) -> str:
    np.savez(files.root / "flow.npz", other=files.returns)
    return "flow.npz: cannot be read as a NumPy array: no array 'result' in it, only ['other']"


def break_pickle(files: Phase5Files) -> str:
    np.savez(files.root / "flow.npz", result=np.array([[object()]], dtype=object))
    return "flow.npz: cannot be read as a NumPy array"


def break_archive(files: Phase5Files) -> str:
    path = files.root / "flow.npz"
    path.write_bytes(path.read_bytes()[:200])
    return "flow.npz: "


def break_infinite(files: Phase5Files) -> str:
    path = files.root / "factors/MA60.csv"
    lines = path.read_text().splitlines()
    lines[10] = lines[10].split(",")[0] + ",inf" * 7
    path.write_text("\n".join(lines))
    return "MA60.csv: infinite value on 2023-01-13 for AAA"


def break_text(files: Phase5Files) -> str:
    path = files.root / "factors/MA60.csv"
    lines = path.read_text().splitlines()
    lines[10] = lines[10].split(",")[0] + ",oops" * 7
    path.write_text("\n".join(lines))
    return "MA60.csv: not a table of dates x tickers"


def break_label_among_factors(files: Phase5Files) -> str:
    (files.root / "factors/selected_factors.txt").write_text("STD5\nlabel\n")
    return "the label 'label' is listed among the factors"


def break_trend(files: Phase5Files) -> str:
    np.savez(files.root / "trend_indicator.npz", result=np.zeros((90, 7)))
    return "trend_indicator.npz: is not 1 exactly where the return is above 0"


BREAKS = [value for name, value in globals().items() if name.startswith("break_")]


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda f: f.__name__)
def test_bad_data_are_refused_by_file(
    train: Train, phase5_files: Phase5Files, break_it: Callable[[Phase5Files], str]
) -> None:
    expected = break_it(phase5_files)
    status, output = train()
    assert status == 1
    assert expected in output
    assert "Traceback" not in output


def test_all_bad_factor_files_are_named_at_once(train: Train, phase5_files: Phase5Files) -> None:
    (phase5_files.root / "factors/KLEN.csv").unlink()
    (phase5_files.root / "factors/MA60.csv").write_text("")
    output = train()[1]
    assert "KLEN.csv: file not found" in output
    assert "MA60.csv: the file is empty" in output


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (np.full((7, 8), np.nan), "56 values are not finite, first in row 0, column 0"),
        (np.zeros((7, 9)), "shape (7, 9), expected (7, 8) (stocks, model.width)"),
        (np.zeros((6, 8)), "shape (6, 8), expected (7, 8)"),
    ],
)
def test_a_bad_embedding_is_refused(
    train: Train, phase5_files: Phase5Files, embedding: np.ndarray, message: str
) -> None:
    np.save(phase5_files.root / "128_corr_struc2vec_adjgat.npy", embedding)
    status, output = train("graph=file")
    assert status == 1
    assert "128_corr_struc2vec_adjgat.npy: " in output
    assert message in output


@pytest.mark.parametrize(
    "arguments",
    [
        ("experiment=paper", "trainer.max_epoch=1"),
        ("experiment=debug", "trainer.max_epoch=3"),
        ("graph=learned",),
        ("graph=none", "loss.low_band_return=true"),
        ("split=ratio", "target=next_day", "trainer.monitor=rank_ic"),
        ("model.heads=2", "optimizer=adamw", "scheduler=cosine"),
        ("scheduler=constant", "trainer.monitor=loss"),
    ],
    ids=" ".join,
)
def test_every_switch_trains(train: Train, arguments: tuple[str, ...]) -> None:
    status, output = train(*arguments)
    assert status == 0, output


def test_debug_says_whether_it_overfitted_its_batch(train: Train) -> None:
    _, hopeless = train("experiment=debug", "trainer.max_epoch=1")
    assert "overfitted (at least 0.90): NO" in hopeless
    _, learnt = train(
        "experiment=debug", "trainer.max_epoch=100", "model.width=16", "optimizer.lr=0.02"
    )
    assert "overfitted (at least 0.90): yes" in learnt


def test_the_plateau_and_early_stopping_trigger_with_small_values(
    train: Train, tmp_path: Path
) -> None:
    status, output = train(
        *("trainer.max_epoch=12", "trainer.early_stopping.patience=4", "optimizer.lr=1e-6"),
        *("scheduler.patience=1", "scheduler.min_lr=0", "trainer.early_stopping.min_delta=1"),
    )
    assert status == 0
    assert "stopped: 4 epochs without a better mae" in output
    metrics = pd.read_csv(run_folders(tmp_path)[0] / "metrics.csv")
    assert len(metrics) == 5
    assert metrics["learning_rate"].iloc[-1] < 5e-7
    assert math.isclose(metrics["learning_rate"].iloc[0], 1e-6)


def test_a_loss_that_explodes_stops_with_epoch_step_and_dates(train: Train, tmp_path: Path) -> None:
    status, output = train("optimizer.lr=1e30", "trainer.max_epoch=5")
    assert status == 1
    assert "lower optimizer.lr" in output
    state = json.loads((run_folders(tmp_path)[0] / "status.json").read_text())
    assert state["state"] == "failed"
    assert "FloatingPointError" in state["reason"]
