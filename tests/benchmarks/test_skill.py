"""benchmarks/skill.py on made runs, and its two formulas against simulations."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from reporting.run_folder import failed_run, finished_run, some_predictions

from benchmarks import skill
from stockformer.evaluation.predictions import daily
from stockformer.runs.recorded_run import read_run


def test_the_null_is_that_of_independent_orders() -> None:
    predictions = some_predictions(dates=200)
    null = skill.permutation_null(predictions)
    stocks = predictions.valid[:, 0].sum(axis=1)
    assert abs(null.mean()) < 4 * null.std() / len(null) ** 0.5
    assert null.std() == pytest.approx((1 / (stocks - 1)).mean() ** 0.5 / 200**0.5, rel=0.1)


def test_the_order_of_dates_and_the_true_forecasts_are_what_is_scored() -> None:
    predictions = some_predictions(dates=200).step(1)
    assert daily(predictions)["rank_ic"].mean() > skill.permutation_null(predictions).max() / 2


@pytest.mark.parametrize("trials", [2, 10, 60])
def test_the_best_of_noise_is_the_expected_largest_of_normal_means(trials: int) -> None:
    drawn = np.random.default_rng(0).standard_normal((20_000, trials)).max(axis=1)
    assert skill.best_of_noise(trials, 0.5) == pytest.approx(0.5 * drawn.mean(), rel=0.12)
    assert skill.best_of_noise(1, 0.5) == 0


def test_the_runs_are_judged_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (finished_run(tmp_path / str(n), seed=n) for n in range(2))
    tried = tmp_path / "tried.csv"
    protocols = ["NIFTY-WF", "NASDAQ-1026", "NIFTY-WF", "NIFTY-WF"]
    pd.DataFrame({"protocol": protocols}).to_csv(tried)
    drawn = tmp_path / "drawn.svg"
    words = [f"the <best>={one}", str(other), "--tried", str(tried), "--picture", str(drawn)]
    monkeypatch.setattr(sys, "argv", ["skill.py", *words])
    skill.main()
    output = capsys.readouterr().out
    assert output.count("rank IC") >= 4
    assert "best of 3 trials of noise" in output
    assert output.splitlines()[-1].startswith("  the first run leads by")
    assert output.startswith("the <best>\n")
    lines = ElementTree.parse(drawn).getroot().findall("{*}polyline")
    dates = len(daily(skill.finished(one)[0].step(1)))
    assert [len(line.attrib["points"].split()) for line in lines] == 2 * [dates + 1]
    assert "the &lt;best&gt;" in drawn.read_text()
    record = read_run(one).evaluation
    assert record is not None
    assert record.signal is not None
    assert record.backtest is not None
    assert record.backtest.waterfall is not None
    day_2, net = record.signal.decay["rank_ic"].loc[2], record.backtest.waterfall["net"].mean
    lasting, earned = (line for line in output.splitlines()[:12] if "day" in line.split(":")[0])
    assert f"{day_2:+.3f}" in lasting
    *parts, left = earned.partition("left: ")[2].split(", ")
    assert left.startswith(f"{1e4 * net:+.1f} (")
    assert sum(map(float, parts)) == pytest.approx(1e4 * net, abs=0.05 * (len(parts) + 1))
    monkeypatch.setattr(sys, "argv", ["skill.py", str(one), str(other), "--table"])
    skill.main()
    rows = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in rows[-2].split("|")[1:-1]]
    assert len({row.count("|") for row in rows}) == 1
    assert (cells[0], cells[6]) == (f"{tmp_path.name}/0", f"{day_2:+.3f}")
    assert cells[7].startswith(f"{1e4 * net:+.1f} (")


def test_a_run_without_predictions_is_named(tmp_path: Path) -> None:
    run = failed_run(tmp_path / "run", ValueError("no data"))
    with pytest.raises(SystemExit, match="run: no test predictions"):
        skill.finished(run)


def test_runs_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path / "lr=0.1")
    assert skill.named(str(run)) == (f"{tmp_path.name}/lr=0.1", run)
    assert skill.named(f"best={run}") == ("best", run)
    assert skill.named("best=elsewhere") == ("best", Path("elsewhere"))
    monkeypatch.setattr(sys, "argv", ["skill.py", str(run), str(run)])
    with pytest.raises(SystemExit, match=r"two runs are named .*name them, NAME=RUN"):
        skill.main()
