"""A run knows of an audit only of the same data, settings and code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from small_data import Phase5Files, composed

from stockformer.runs import audited

MANIFEST = {"data_hash": "f00d", "versions": {"torch": "2.6"}}


def at(cache: Path, *overrides: str) -> DictConfig:
    return composed(f"paths.cache_dir={cache}", *overrides)


def test_an_outcome_is_found_by_a_run_of_the_same(tmp_path: Path) -> None:
    config = at(tmp_path / "new")
    assert audited.outcome(config, MANIFEST) == audited.NOT_RUN
    audited.record(config, MANIFEST, leaks=0, cuts=1)
    assert audited.outcome(config, MANIFEST).startswith("passed on 20")
    assert audited.outcome(config, MANIFEST).endswith(" with 1 cut date")
    for override in ("seed=5", "optimizer.lr=0.5", "trainer.max_epoch=3"):
        assert audited.outcome(at(tmp_path / "new", override), MANIFEST).startswith("passed on ")
    audited.record(config, MANIFEST, leaks=2, cuts=20)
    assert audited.outcome(config, MANIFEST).startswith("FAILED on 20")


@pytest.mark.parametrize("override", ["dataset.lookback=7", "model.width=8", "target.horizon=3"])
def test_other_settings_have_no_audit(tmp_path: Path, override: str) -> None:
    audited.record(at(tmp_path), MANIFEST, leaks=0, cuts=1)
    assert audited.outcome(at(tmp_path, override), MANIFEST) == audited.NOT_RUN


@pytest.mark.parametrize("key", MANIFEST)
def test_other_data_or_versions_have_no_audit(tmp_path: Path, key: str) -> None:
    audited.record(at(tmp_path), MANIFEST, leaks=0, cuts=1)
    assert audited.outcome(at(tmp_path), MANIFEST | {key: "other"}) == audited.NOT_RUN


def test_other_code_has_no_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "model.py").write_text("a = 1\n")
    monkeypatch.setattr(audited, "PACKAGE", code)
    audited.record(at(tmp_path), MANIFEST, leaks=0, cuts=1)
    (code / "model.py").write_text("a = 2\n")
    assert audited.outcome(at(tmp_path), MANIFEST) == audited.NOT_RUN


def test_code_outside_the_package_is_never_known(tmp_path: Path) -> None:
    config = at(tmp_path, "trust=[mine]")
    audited.record(config, MANIFEST, leaks=0, cuts=1)
    assert audited.outcome(config, MANIFEST) == audited.NOT_RUN
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    audited.record(at(tmp_path / "file"), MANIFEST, leaks=0, cuts=1)
    assert "the outcome of the audit is not recorded" in caplog.text


def test_a_training_after_a_validation_says_so(
    command: Callable[..., tuple[int, str]],
    phase5_files: Phase5Files,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("stockformer.audit.lookahead.START_METHOD", "")
    data = (f"paths.data_dir={phase5_files.data_dir}", "dataset=nifty200_phase5")
    words = (*data, "model=ridge", "dataset.lookback=5", "report=false")
    for folder, said in (("before", "not run"), ("after", "passed on ")):
        status, output = command("train", *words, f"hydra.run.dir={tmp_path / folder}")
        assert status == 0, output
        manifest = json.loads((tmp_path / folder / "manifest.json").read_text())
        assert manifest["lookahead_audit"].startswith(said)
        assert command("validate", *words)[0] == 0
