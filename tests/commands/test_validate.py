"""`python validate.py`: every check on its line, and the culprit by name where one fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_data import Phase5Files, composed

from stockformer.audit.preflight import Preflight

Validate = Callable[..., tuple[int, str]]
SMALL = ("dataset=nifty200_phase5", "model.width=8", "model.layers=1", "dataset.lookback=5")


@pytest.fixture
def validate(
    command: Validate, phase5_files: Phase5Files, monkeypatch: pytest.MonkeyPatch
) -> Validate:
    monkeypatch.setattr("stockformer.audit.lookahead.START_METHOD", "")  # no process a cut: quicker

    def call(*arguments: str) -> tuple[int, str]:
        data = f"paths.data_dir={phase5_files.data_dir}"
        return command("validate", data, *SMALL, *arguments)

    return call


def test_the_last_line_has_the_caveats(validate: Validate, tmp_path: Path) -> None:
    status, output = validate()
    assert status == 0, output
    last = output.rstrip().splitlines()[-1]
    assert last.startswith("CHECKS PASSED but test results cannot be trusted: the 22 factors were ")
    assert "contaminated; the stocks are the index members of 2024" in last
    assert last.endswith(" - read before you train")
    assert [line[:5] for line in output.splitlines() if line.startswith("ok")] == [
        f"ok  {number}" for number in range(1, 9)
    ]
    assert "steps an epoch, at most 20 epochs: about" in output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "data"]


def test_clean_data_are_ready() -> None:
    checks = Preflight(composed())
    assert checks.conclusion(["a gap"]) == (20, "ALL CHECKS PASSED - Ready to train")
    flattered = checks.conclusion(["survivorship: one list for all dates"])[1]
    assert flattered.startswith(
        "CHECKS PASSED but test results are optimistic: survivorship: one list"
    )
    checks.warnings = 2
    assert "with 2 warnings about the data, above - read" in checks.conclusion([])[1]


@pytest.mark.parametrize(
    "override", ["target=next_day", "loss=published", "experiment=debug", "graph=learned"]
)
def test_what_can_be_trained_passes(validate: Validate, override: str) -> None:
    status, output = validate(override)
    assert status == 0, output


def test_a_model_that_is_fitted_at_once_is_checked_without_a_gradient(
    command: Validate, phase5_files: Phase5Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stockformer.audit.lookahead.START_METHOD", "")
    words = ("dataset=nifty200_phase5", f"paths.data_dir={phase5_files.data_dir}", "model=ridge")
    loop = ("optimizer.lr=1e-2", "loss=squared", "trainer.max_epoch=3", "trainer.monitor=mae")
    status, output = command("validate", *words, "dataset.lookback=5", *loop)
    assert status == 0, output
    assert "optimizer.lr, loss, trainer.max_epoch: no effect, Ridge is fitted at once" in output
    assert "CHECKS PASSED" in output
    assert "Ridge, fitted at once, on cpu" in output
    assert "backward" not in output


def test_a_sweep_is_not_validated_at_once(validate: Validate, tmp_path: Path) -> None:
    status, output = validate("-m", "model.width=8,16")
    assert status == 1
    assert "one configuration at a time" in output
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


BROKEN = {
    "trainer.max_epochs=3": "Did you mean 'trainer.max_epoch'?",
    "paths.data_dir=nowhere": "check 2, the data: files, shapes, dates and tickers: data folder",
    "dataset.source.returns_key=other": "flow.npz",
    "dataset.lookback=60": "too few for dataset.lookback=60",
    "dataset.factors=[KMIDD]": "KMID",
    "trainer.device=cuda:7": "trainer.device=cuda:7: not available on this machine",
    "loss.regression_weight=0.0": "no gradient reaches head_return.0.weight",
}


@pytest.mark.parametrize("override", BROKEN)
def test_a_broken_set_up_is_named_with_status_1(validate: Validate, override: str) -> None:
    status, output = validate(override)
    assert status == 1
    assert BROKEN[override] in output
    assert "ALL CHECKS PASSED" not in output
    assert "Traceback" not in output


def test_a_graph_file_with_holes_fails_where_the_model_is_built(
    validate: Validate, phase5_files: Phase5Files
) -> None:
    np.save(phase5_files.root / "128_corr_struc2vec_adjgat.npy", np.full((7, 8), np.nan))
    status, output = validate("graph=file")
    assert status == 1
    assert "check 3, the model builds and reaches the device" in output
    assert "values are not finite" in output
