"""What a run left is read back as it was written, or refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reporting.run_folder import failed_run, finished_run, rewrite, some_predictions, summary

from stockformer.evaluation.record import EvaluationRecord
from stockformer.runs import recorded_run as run_reader


def test_a_finished_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    run = run_reader.read_run(finished_run(tmp_path / "run"))
    written = summary(some_predictions())
    assert run.evaluation is not None
    assert run.evaluation.verdict == run.headline == written.verdict
    assert run.evaluation.scores["mae"] == written.scores["mae"]
    assert list(run.evaluation.table.index) == [
        *("model", "zero_return", "reversal_1_day", "best_constant"),
    ]
    assert math.isnan(run.evaluation.table.loc["zero_return", "rank_ic"])
    assert run.evaluation.sentences == tuple(written.sentences)
    assert run.evaluation.backtest is not None
    assert written.backtest is not None
    assert run.evaluation.backtest.excess == written.backtest.excess
    pd.testing.assert_frame_equal(
        run.evaluation.validation, written.validation, check_freq=False, check_index_type=False
    )
    assert run.evaluation.oracle_rank_ic == 0.5
    assert run.metrics is not None
    assert list(run.metrics.index) == [1, 2, 3]
    assert run.manifest is not None
    assert run.manifest.facts == {
        "seed": 0,
        "device": "cpu",
        "dataset": "small & old",
        "data_hash": "f00d",
    }
    assert run.name.endswith("/run")


def test_an_interrupted_run_has_no_verdict(tmp_path: Path) -> None:
    status = failed_run(tmp_path / "run", ValueError("x")) / "status.json"
    rewrite(status, status.read_text().replace('"failed"', '"interrupted"'))
    run = run_reader.read_run(tmp_path / "run")
    assert run.headline.startswith("No verdict: the run was interrupted on ")


def test_predictions_survive_the_way_through_a_shuffled_table() -> None:
    predictions = some_predictions()
    again = run_reader.predictions_from(predictions.frame().sample(frac=1, random_state=0))
    assert list(again.tickers) == sorted(predictions.tickers)
    order = np.argsort(predictions.tickers)
    for name in ("prediction", "probability", "label", "up", "valid"):
        np.testing.assert_array_equal(getattr(again, name), getattr(predictions, name)[..., order])
    for name in ("signal_dates", "target_start", "target_end"):
        np.testing.assert_array_equal(getattr(again, name), getattr(predictions, name))


@pytest.mark.parametrize("rows", [slice(1, None), [0, 0, *range(2, 210)], slice(0)])
def test_predictions_with_a_cell_missing_or_doubled_are_refused(rows: slice | list[int]) -> None:
    frame = some_predictions().frame()
    with pytest.raises(ValueError, match="exactly one row"):
        run_reader.predictions_from(frame.iloc[rows])


def test_columns_nobody_knows_are_passed_over() -> None:
    data = summary(some_predictions()).to_json()
    for row in data["table"]:
        row["mood"] = "sunny"
    assert "mood" not in EvaluationRecord.from_json(data).table


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("status.json", "", "Expecting value"),
        (
            "status.json",
            '{"state": "asleep", "reason": "", "time": "", "process": 1}',
            "state is none of",
        ),
        ("config.yaml", b"\xff\xfe", "utf-8"),
        ("overrides.json", '{"a": 1}', "the whole is an object, expected a list"),
        ("manifest.json", "[]", "the whole is a list, expected an object"),
        ("manifest.json", '{"seed": 0}', "without .*git_commit"),
        ("metrics.csv", "", "No columns"),
        ("metrics.csv", "date,price\n1,2\n", "missing epoch"),
        ("metrics.csv", "epoch,train_loss,validation_loss,learning_rate\n1,2,3,oops\n", "oops"),
        ("metrics.csv", "epoch,train_loss,validation_loss,learning_rate\n", "no epoch"),
        ("evaluation.json", '{"version": 99', "delimiter"),
        ("evaluation.json", '{"version": 3}', "missing epoch"),
        ("predictions.parquet", b"PAR1 junk", "arquet"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong_and_what_to_do(
    tmp_path: Path, name: str, content: str | bytes, reason: str
) -> None:
    folder = finished_run(tmp_path / "run")
    if name == "status.json":
        (folder / name).write_text(str(content))  # an earlier version's, without a digest
    else:
        rewrite(folder / name, content)
    with pytest.raises(ValueError, match=reason) as error:
        run_reader.read_run(folder)
    said = str(error.value)
    assert str(folder / name) in said
    assert "run=FOLDER" in said
    assert "\n" not in said


def test_an_evaluation_of_version_3_is_read_as_one_of_today() -> None:
    data = summary(some_predictions()).to_json()
    settings = data["backtest"]["settings"]
    older = {
        name: value for name, value in settings.items() if name not in ("top_k", "risk_degree")
    }
    older |= {"k": settings["top_k"], "cash_share": settings["risk_degree"]}
    backtest = {name: value for name, value in data["backtest"].items() if name != "start_offsets"}
    backtest |= {"settings": older, "offsets": data["backtest"]["start_offsets"]}
    read = EvaluationRecord.from_json(data | {"version": 3, "backtest": backtest})
    assert read.to_json() == data


def test_an_evaluation_of_another_version_or_shape_is_refused(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    file = folder / "evaluation.json"
    data = json.loads(file.read_text())
    for change, reason in (
        ({"version": 2}, "version 2, but this code reads 4"),
        ({"table": [{"mae": 1}]}, r"missing table\[0\]\.name"),
        ({"targets": [{"value": 1}]}, r"missing targets\[0\]\.name"),
        ({"model": {"mae": "low"}}, r"model\.mae is 'low', expected a finite number"),
        ({"table": 3}, "table is 3, expected a list"),
    ):
        rewrite(file, json.dumps(data | change))
        with pytest.raises(ValueError, match=reason):
            run_reader.read_run(folder)


def test_predictions_that_no_model_could_make_are_refused(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    good = some_predictions()
    for name, value in (("probability", 1.5), ("prediction", np.inf)):
        frame = good.frame()
        frame.loc[frame["valid"], name] = value
        file = folder / "predictions.parquet"
        frame.to_parquet(file)
        rewrite(file, file.read_bytes())
        with pytest.raises(ValueError, match=rf"predictions\.parquet.*{name}"):
            run_reader.read_run(folder)
