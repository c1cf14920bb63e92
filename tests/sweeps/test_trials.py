"""Runs side by side: sorted by validation, compared as the statistics say, nothing unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reporting.run_folder import finished_run, leave_out, rewrite, sweep

from stockformer.evaluation.statistics import deflated_sharpe_ratio, paired_comparison, sharpe_ratio
from stockformer.reporting import leaderboard
from stockformer.runs.folder import RunDir
from stockformer.sweeps import selection, selection_bias, trials
from stockformer.sweeps.folder import SweepDir, SweepRecord


@pytest.fixture(scope="module")
def some_trials(tmp_path_factory: pytest.TempPathFactory) -> trials.Trials:
    return trials.read_trials(sweep(tmp_path_factory.mktemp("sweep")))


def test_runs_are_sorted_by_the_validation_metric_they_were_picked_by(
    some_trials: trials.Trials,
) -> None:
    assert some_trials.objectives == ("rank_ic",)
    assert list(some_trials.configurations) == ["1", "0", "2"]  # the last has none
    for frame in (some_trials.settings, some_trials.validation, some_trials.test):
        assert list(frame.index) == ["1", "0", "2"]
    np.testing.assert_allclose(some_trials.score, [0.05, 0.02, np.nan])


def test_an_error_is_better_when_it_is_lower(tmp_path: Path) -> None:
    for name, mae in (("a", 0.03), ("b", 0.01), ("c", 0.02)):
        folder = finished_run(tmp_path / name, overrides=[f"optimizer.lr={name}"])
        config = folder / "config.yaml"
        rewrite(config, config.read_text().replace("monitor: rank_ic", "monitor: mae"))
        metrics = folder / "metrics.csv"
        rewrite(metrics, metrics.read_text().replace("0.02", str(mae)))
    assert list(trials.read_trials(tmp_path).configurations) == ["b", "c", "a"]


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
        finished_run(tmp_path / name, rank_ic=0.1, overrides=[f"optimizer.lr={name}"])
    other = finished_run(tmp_path / "c", rank_ic=0.2)
    manifest = other / "manifest.json"
    rewrite(manifest, manifest.read_text().replace("2024-03-25", "2024-03-24"))
    first, second = trials.read_trials(tmp_path).groups
    assert (first.configurations, second.configurations) == (["a", "b"], ["c"])
    assert first.horizon == 2
    assert "2024-03-24" in second.label


def test_an_ensemble_is_listed_last_and_is_no_trial(tmp_path: Path) -> None:
    for name, rank_ic in (("a", 0.1), ("b", 0.2)):
        finished_run(tmp_path / name, rank_ic=rank_ic, overrides=[f"optimizer.lr={name}"])
    both = finished_run(tmp_path / "both", seed=1) / "evaluation.json"
    rewrite(both, both.read_text().replace('"epoch": 2', '"epoch": null'))
    leave_out(tmp_path / "both/metrics.csv")
    found = trials.read_trials(tmp_path)
    (group,) = found.groups
    assert list(found.configurations) == group.configurations == ["b", "a", "both"]
    assert list(selection_bias.validation_scores(found, group).index) == ["b", "a"]
    bias = selection_bias.selection_bias(found, group)
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
    assert found.objectives == ("mae",)
    assert list(found.configurations) == ["a", "b"]
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


def test_the_pick_is_deflated_by_the_validation_excess_of_all_trials(
    some_trials: trials.Trials,
) -> None:
    (group,) = some_trials.groups
    found = selection_bias.selection_bias(some_trials, group)
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
    biases = [selection_bias.selection_bias(found, group) for group in found.groups]
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


def seeds_and_folds(tree: Path) -> trials.Trials:
    """Two learning rates, each with two seeds on two folds; the validation metric says which."""
    number = 0
    for rate, of_rate in (("1e-3", 0.02), ("1e-4", 0.05)):
        for seed in (1, 2):
            for fold in (0, 1):
                folder = finished_run(
                    tree / str(number),
                    overrides=[f"optimizer.lr={rate}", f"seed={seed}"],
                    rank_ic=of_rate + 0.01 * seed + 0.001 * fold,
                    seed=number,
                )
                config, manifest = folder / "config.yaml", folder / "manifest.json"
                rewrite(config, config.read_text() + f"split:\n  fold: {fold}\n")
                if fold:
                    rewrite(manifest, manifest.read_text().replace("2024-03", "2024-04"))
                number += 1
    return trials.read_trials(tree)


def test_seeds_and_folds_of_a_configuration_are_one_line(tmp_path: Path) -> None:
    found = seeds_and_folds(tmp_path)
    (group,) = found.groups
    assert list(found.configurations) == ["4 … 7 (4)", "0 … 3 (4)"] == group.configurations
    first = found.configurations["4 … 7 (4)"]
    assert (first.runs, first.repeats) == (("4", "5", "6", "7"), "2 seeds x 2 folds")
    # By hand: a seed is the mean of its folds, the deviation is over the two seeds.
    assert found.score[first.name] == pytest.approx(0.05 + 0.015 + 0.0005)
    assert found.validation_sd["rank_ic"][first.name] == pytest.approx(0.01 / np.sqrt(2))
    assert list(found.settings) == ["optimizer.lr"]
    row = leaderboard.board(found, tmp_path).rows[0]
    assert row[:3] == ("4 … 7 (4)", "2 seeds x 2 folds", "1e-4")
    assert "+0.0655 ± 0.0071" in row
    assert "2024-03-01 to 2024-04-25" in group.label
    bias = selection_bias.selection_bias(found, group)
    assert bias is not None
    assert bias.trials == 4  # seeds count, folds do not
    headline = leaderboard.headline(found)
    assert headline.endswith("(+0.0655 ± 0.0071): the mean of 2 seeds x 2 folds, runs 4 … 7 (4).")


def test_a_seed_without_the_metric_leaves_its_configuration_without(tmp_path: Path) -> None:
    for seed, rank_ic in ((1, 0.9), (2, np.nan)):
        finished_run(tmp_path / str(seed), overrides=[f"seed={seed}"], rank_ic=rank_ic)
    finished_run(tmp_path / "3", overrides=["optimizer.lr=1"], rank_ic=0.1)
    found = trials.read_trials(tmp_path)
    assert list(found.configurations) == ["3", "1, 2"]
    assert np.isnan(found.score["1, 2"])


def test_the_pareto_front_is_what_none_beats() -> None:
    values = pd.DataFrame(
        {"rank_ic": [0.05, 0.04, 0.03, 0.05, np.nan], "turnover": [0.3, 0.1, 0.2, 0.4, 0.0]},
        index=list("abcde"),
    )
    front = trials.pareto_front(values, ("rank_ic", "turnover"))
    assert list(front.index) == ["a", "b"]
    assert list(trials.pareto_front(values, ("rank_ic",)).index) == ["a", "d"]


def test_the_probability_of_overfitting_needs_enough_configurations(tmp_path: Path) -> None:
    for number in range(10):
        finished_run(tmp_path / str(number), overrides=[f"optimizer.lr={number}"], seed=number)
        record = json.loads((tmp_path / f"{number}/evaluation.json").read_text())
        returns = np.random.default_rng(number).normal(0, 0.01, 40) + 0.02 * (number == 7)
        dates = [str(date)[:10] for date in pd.bdate_range("2024-01-01", periods=40)]
        record["validation"] = {
            "daily": {
                "date": dates,
                "net_return": returns.tolist(),
                "benchmark": [0.0] * 40,
                "turnover": [0.1] * 40,
            }
        }
        rewrite(tmp_path / f"{number}/evaluation.json", json.dumps(record))
        if number == 8:
            few = trials.read_trials(tmp_path)
    assert bias_of(few).overfitting is None
    found = bias_of(trials.read_trials(tmp_path)).overfitting
    assert found is not None
    assert 0 <= found < 0.05


def bias_of(found: trials.Trials) -> selection_bias.SelectionBias:
    bias = selection_bias.selection_bias(found, found.groups[0])
    assert bias is not None
    return bias


def test_a_configuration_that_lacks_runs_is_never_the_best(tmp_path: Path) -> None:
    """Two seeds of each rate; one of the better rate's failed after its settings were kept."""
    SweepDir(tmp_path).write(SweepRecord([], ["rank_ic"], finished=False))
    number = 0
    for rate, rank_ic in (("1e-3", 0.02), ("1e-4", 0.05)):
        for seed in (1, 2):
            overrides = [f"optimizer.lr={rate}", f"seed={seed}"]
            finished_run(tmp_path / str(number), overrides=overrides, rank_ic=rank_ic)
            number += 1
    run = RunDir(tmp_path / "3")
    run.end("failed", "ValueError: no")
    found = trials.read_trials(tmp_path)
    (group,) = found.groups
    assert list(found.configurations) == ["2", "0, 1"]
    assert found.configurations["2"].repeats == "1 of 2 runs"
    best = found.best(group)
    assert best is not None
    assert best.name == "0, 1"
    assert leaderboard.headline(found).endswith("the mean of 2 seeds, runs 0, 1.")


def test_settings_that_change_no_result_make_no_other_configuration(tmp_path: Path) -> None:
    for name in "ab":
        config = finished_run(tmp_path / name, overrides=[f"seed={name}"]) / "config.yaml"
        workers = config.read_text().replace(
            "trainer:\n", f"trainer:\n  num_workers: {name == 'a'}\n"
        )
        rewrite(config, workers)
    assert list(trials.read_trials(tmp_path).configurations) == ["a, b"]


def test_pruned_trials_count_as_tried(tmp_path: Path) -> None:
    for number in range(3):
        finished_run(tmp_path / str(number), overrides=[f"optimizer.lr={number}"], seed=number)
    RunDir(tmp_path / "2").end("pruned", "median pruner")
    bias = bias_of(trials.read_trials(tmp_path))
    assert bias.trials == 3
