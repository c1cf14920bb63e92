"""The simulated scheduler against what can be worked out without one."""

from __future__ import annotations

import pytest

from benchmarks.scaling import simulated


def test_without_failures_the_machines_are_never_idle() -> None:
    plan = simulated(100, 8, 60, keep_every=10, controller=0)
    assert plan.makespan == 13 * 60  # 100 runs on 8 machines: 13 rounds
    assert plan.lost == 0


def test_a_failure_costs_half_an_epoch_and_the_repair() -> None:
    work, mtbf = 2000 * 3600, 14400
    plan = simulated(2000, 1, 3600, keep_every=360, mtbf=mtbf, repair=600, controller=0)
    failures = work / mtbf
    assert plan.lost == pytest.approx(failures * 180 / work, rel=0.2)
    assert plan.makespan == pytest.approx(work + failures * (180 + 600), rel=0.01)


def test_more_machines_than_one_controller_can_start_runs_for() -> None:
    plan = simulated(5000, 1000, 10, keep_every=10, controller=0.1)
    assert plan.makespan == pytest.approx(5000 * 0.1 + 10, rel=0.01)
    assert plan.busy > 0.95
