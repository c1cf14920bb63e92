"""Runs side by side: sorted by validation, compared as the statistics say, nothing unsaid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reporting.run_folder import finished_run, leave_out, rewrite, sweep

from stockformer.evaluation.statistics import deflated_sharpe_ratio, paired_comparison, sharpe_ratio
from stockformer.reporting import leaderboard
from stockformer.sweeps import selection, trials


@pytest.fixture(scope="module")
def some_trials(tmp_path_factory: pytest.TempPathFactory) -> trials.Trials:
    return trials.read_trials(sweep(tmp_path_factory.mktemp("sweep")))


def test_runs_are_sorted_by_the_validation_metric_they_were_selected_by(
    some_trials: trials.Trials,
) -> None:
    assert some_trials.monitor == "rank_ic"
    assert list(some_trials.completed) == ["1", "0", "2"]  # the last has none
    for frame in (some_trials.settings, some_trials.validation, some_trials.test):
        assert list(frame.index) == ["1", "0", "2"]
    np.testing.assert_allclose(some_trials.score, [0.05, 0.02, np.nan])


def test_an_error_is_better_when_it_is_lower(tmp_path: Path) -> None:
    for name, mae in (("a", 0.03), ("b", 0.01), ("c", 0.02)):
        folder = finished_run(tmp_path / name)
        config = folder / "config.yaml"
        rewrite(config, config.read_text().replace("monitor: rank_ic", "monitor: mae"))
        metrics = folder / "metrics.csv"
        rewrite(metrics, metrics.read_text().replace("0.02", str(mae)))
    assert list(trials.read_trials(tmp_path).completed) == ["b", "c", "a"]


def test_only_what_differs_is_a_setting(some_trials: trials.Trials) -> None:
    assert list(some_trials.settings) == ["optimizer.lr"]
    assert list(some_trials.settings["optimizer.lr"]) == ["1e-4", "1e-3", "<b>"]


def test_what_an_override_does_not_say_is_the_configurations(tmp_path: Path) -> None:
    finished_run(tmp_path / "a", overrides=["optimizer.lr=1", "model=stockformer_small"])
    finished_run(tmp_path / "b", overrides=["tags=[x]"])
    settings = trials.read_trials(tmp_path).settings.to_dict("index")
    assert settings["a"] == {
        "model": "stockformer_small",
        "optimizer.lr": "1",
        "tags": trials.UNSET,
    }
    assert settings["b"] == {"model": trials.UNSET, "optimizer.lr": "0.1", "tags": "[x]"}


def test_what_was_not_completed_is_named_with_the_reason(some_trials: trials.Trials) -> None:
    assert list(some_trials.unfinished) == ["3", "4"]
    assert "loss is nan" in some_trials.unfinished["3"].status.reason
    assert some_trials.unfinished["4"].status.state == "running"
    assert list(some_trials.refused) == ["5", "10"]
    assert "evaluation.json: damaged" in some_trials.refused["5"]
    assert "status.json is missing" in some_trials.refused["10"]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run folder"):
        trials.read_trials(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        trials.read_trials(tmp_path / "nowhere")


def test_runs_on_other_dates_are_another_group(tmp_path: Path) -> None:
    for name in "ab":
        finished_run(tmp_path / name, rank_ic=0.1)
    other = finished_run(tmp_path / "c", rank_ic=0.2)
    manifest = other / "manifest.json"
    rewrite(manifest, manifest.read_text().replace("2024-03-25", "2024-03-24"))
    first, second = trials.read_trials(tmp_path).groups
    assert (first.runs, second.runs) == (["a", "b"], ["c"])
    assert first.horizon == 2
    assert "2024-03-24" in second.label


def test_an_ensemble_is_listed_last_and_is_no_trial(tmp_path: Path) -> None:
    for name, rank_ic in (("a", 0.1), ("b", 0.2)):
        finished_run(tmp_path / name, rank_ic=rank_ic)
    both = finished_run(tmp_path / "both", seed=1) / "evaluation.json"
    rewrite(both, both.read_text().replace('"epoch": 2', '"epoch": null'))
    leave_out(tmp_path / "both/metrics.csv")
    found = trials.read_trials(tmp_path)
    (group,) = found.groups
    assert list(found.completed) == group.runs == ["b", "a", "both"]
    assert list(trials.tried(found, group).index) == ["b", "a"]
    bias = trials.selection_bias(found, group)
    assert bias is not None
    assert bias.trials == 2
    row = leaderboard.board(found, tmp_path).rows[-1]
    assert row[0] == "both"
    assert "ensemble" in row


def test_runs_without_a_validation_metric_still_have_a_page(tmp_path: Path) -> None:
    for name in "ab":
        folder = finished_run(tmp_path / name, overrides=[f"optimizer.lr={name}"])
        config = folder / "config.yaml"
        rewrite(config, config.read_text().replace("monitor: rank_ic", "monitor: mood"))
        evaluation = folder / "evaluation.json"
        rewrite(evaluation, evaluation.read_text().replace('"epoch": 2', '"epoch": null'))
    found = trials.read_trials(tmp_path)
    assert found.monitor == "mae"
    assert list(found.completed) == ["a", "b"]
    assert "No setting differs" in leaderboard.page(found, tmp_path).html()


@pytest.mark.parametrize("horizon", [1, 7])
def test_all_pairs_at_once_are_the_pairs_one_by_one(horizon: int) -> None:
    random = np.random.default_rng(0)
    daily = pd.DataFrame(random.normal(0, 0.1, (40, 6)).cumsum(axis=0))
    daily[4] = daily[3]  # no difference at all
    daily.loc[7, 5] = np.nan
    tests = selection.paired_tests(daily, horizon)
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    assert len(tests) == len(pairs)
    for (i, j), test in zip(pairs, tests.to_dict("records")):
        expected = paired_comparison(daily[i], daily[j], horizon)
        for name in ("mean", "n", "t", "p"):
            assert test[name] == pytest.approx(getattr(expected, name), nan_ok=True, rel=1e-9)


def test_the_selected_run_is_deflated_by_the_validation_excess_of_all_trials(
    some_trials: trials.Trials,
) -> None:
    (group,) = some_trials.groups
    found = trials.selection_bias(some_trials, group)
    assert found is not None
    assert (found.trials, found.selected) == (3, "1")
    excess = {}
    for name, run in some_trials.completed.items():
        assert run.evaluation is not None
        returns = run.evaluation.validation
        assert returns is not None
        excess[name] = returns["net_return"] - returns["benchmark"]
    sharpes = np.array([sharpe_ratio(series) for series in excess.values()])
    assert found.sharpe == sharpe_ratio(excess["1"])
    assert found.deflated == deflated_sharpe_ratio(excess["1"], sharpes)
    assert found.expected_maximum > 0


def test_an_edited_target_does_not_make_fewer_trials(tmp_path: Path) -> None:
    """Four runs, two with another target: two groups, each selected from four."""
    for number in range(4):
        folder = finished_run(tmp_path / str(number), rank_ic=0.1 * number, seed=number)
        if number > 1:
            config = folder / "config.yaml"
            rewrite(config, config.read_text().replace("offset: 0", "offset: 1"))
    found = trials.read_trials(tmp_path)
    biases = [trials.selection_bias(found, group) for group in found.groups]
    assert [bias and bias.trials for bias in biases] == [4, 4]
    assert len({bias.expected_maximum for bias in biases if bias}) == 1


def test_a_rising_universe_does_not_make_noise_look_skilled() -> None:
    """Noise over a universe that rises: against zero the best looks skilled, against it never."""
    random = np.random.default_rng(0)
    universe = random.normal(0.002, 0.005, 250)
    over = {"absolute": 0, "excess": 0}
    for _ in range(50):
        returns = random.normal(0, 0.003, (10, 250))
        for name, base in (("absolute", universe), ("excess", 0.0)):
            sharpes = np.array([sharpe_ratio(one + base) for one in returns])
            best = returns[np.argmax(sharpes)] + base
            over[name] += deflated_sharpe_ratio(best, sharpes) > 0.95
    assert over["absolute"] > 40
    assert over["excess"] <= 2


def test_importance_finds_the_setting_that_matters_and_no_other() -> None:
    random = np.random.default_rng(0)
    settings = pd.DataFrame(
        {
            "optimizer.lr": random.choice(["1e-4", "1e-3", "1e-2"], 60),
            "graph": random.choice(["none", "spectral"], 60),
            "seed": random.choice(["0", "1"], 60),
        }
    )
    score = settings["optimizer.lr"].astype(float) * 10 + random.normal(0, 0.005, 60)
    found = selection.importance(settings, score)
    assert found is not None
    assert found.drop.index[0] == "optimizer.lr"
    assert found.drop.iloc[0] > 1
    assert found.drop.iloc[1:].abs().max() < 0.1
    assert found.explained > 0.9
    noise = selection.importance(settings, pd.Series(random.normal(size=60)))
    assert noise is not None
    assert noise.explained < 0.1
    assert selection.importance(settings[:7], score[:7]) is None
    assert selection.importance(settings.assign(seed="0")[["seed"]], score) is None
