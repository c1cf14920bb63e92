"""Nothing that is read can run code: every payload here would touch a file."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from runs.small_run import SmallRuns, captured, train_main
from small_data import Phase5Files

from stockformer.experiment import read_dataset
from stockformer.runs import atomic
from stockformer.runs.folder import RunDir
from stockformer.runs.resume import continued
from stockformer.training.checkpoint import read_checkpoint


class Canary:
    """Dies where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Made by a payload that runs; the test fails if it is."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> RunDir:
    return RunDir(Path(shutil.copytree(whole, tmp_path / "run")))


def test_the_canary_dies_where_a_pickle_is_read(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "shown")))
    assert (tmp_path / "shown").exists()


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_in_a_checkpoints_place(
    small: SmallRuns, run: RunDir, canary: Path, how: str
) -> None:
    """With its right digest."""
    for name in ("best", "last", "previous"):
        path = run.checkpoint(name)
        if how == "pickle":
            path.write_bytes(pickle.dumps(Canary(canary)))
        else:
            torch.save({"weight": Canary(canary)}, path)
        atomic.write_checked(path, path.read_bytes())
        with pytest.raises(ValueError, match=rf"{name}\.safetensors: not a checkpoint"):
            read_checkpoint(path)
    with pytest.raises(ValueError, match="no valid checkpoint"):
        small.run(run.path, "trainer.max_epoch=4")


def test_objects_in_arrays(tmp_path: Path, canary: Path, small: SmallRuns) -> None:
    files = Phase5Files(tmp_path / "data")
    objects = np.array([[Canary(canary)]], dtype=object)
    for name, key in (("flow", "result"), ("trend_indicator", "result")):
        good = (files.root / f"{name}.npz").read_bytes()
        np.savez(files.root / f"{name}.npz", **{key: objects})
        with pytest.raises(ValueError, match=rf"{name}\.npz: cannot be read as a NumPy array"):
            read_dataset(small.config(f"paths.data_dir={files.data_dir}"))
        (files.root / f"{name}.npz").write_bytes(good)
    np.save(files.root / "128_corr_struc2vec_adjgat.npy", objects)
    with pytest.raises(ValueError, match=r"adjgat\.npy: "):
        small.experiment(
            "graph=file", f"dataset.graph_file={files.root}/128_corr_struc2vec_adjgat.npy"
        )
    read_dataset(small.config(f"paths.data_dir={files.data_dir}"))  # the others still load


def edited(run: RunDir, config: str, words: list[str] | None = None) -> None:
    """By somebody who keeps SHA256SUMS right."""
    run.write_config(config, run.read_config()[1] if words is None else words)


@pytest.mark.parametrize(
    "key",
    ["model", "loss", "optimizer", "scheduler", "split", "graph", "dataset.source", "processors.x"],
)
def test_a_foreign_class_in_a_recorded_configuration(run: RunDir, canary: Path, key: str) -> None:
    text, _ = run.read_config()
    foreign = {"_target_": "os.mkdir", "path": str(canary)}
    for place in (key, f"{key}.deep.deeper"):
        config = OmegaConf.create(text)
        OmegaConf.update(config, place, foreign, force_add=True)
        edited(run, OmegaConf.to_yaml(config))
        status, output = captured(lambda: train_main([f"resume={run.path}", "trainer.max_epoch=4"]))
        assert status == 1
        assert "not a class this project builds" in output
        assert "Traceback" not in output


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [CANARY]",
        "!!python/object/new:os.mkdir [CANARY]",
        "!!python/name:os.mkdir",
        "!!python/module:antigravity",
    ],
)
def test_yaml_tags_in_a_recorded_configuration(run: RunDir, canary: Path, tag: str) -> None:
    edited(run, run.read_config()[0] + f"\nmore: {tag.replace('CANARY', str(canary))}\n")
    status, output = captured(lambda: train_main([f"resume={run.path}"]))
    assert status == 1
    assert "recorded configuration: a tag (tag:yaml.org,2002:python/" in output
    assert "Traceback" not in output


def test_a_search_path_among_the_recorded_words(
    run: RunDir, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra would import the package it names."""
    (tmp_path / "payload").mkdir()
    (tmp_path / "payload/__init__.py").write_text(f"import os; os.mkdir({str(canary)!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    config, words = run.read_config()
    for key in ("hydra.searchpath", "+hydra.searchpath", "++hydra.searchpath"):
        edited(run, config, [*words, f"{key}=[pkg://payload]"])
        with pytest.raises(ValueError, match=r"overrides\.json: damaged: not a list of overrides"):
            continued(run.path, ["trainer.max_epoch=4"])
        status, _ = captured(lambda key=key: train_main([f"{key}=[pkg://payload]"]))
        assert status == 1
    assert "payload" not in sys.modules


def test_names_that_leave_the_folder(
    small: SmallRuns, run: RunDir, tmp_path: Path, canary: Path
) -> None:
    """Recorded names are compared, never opened."""
    run._write_sums(run._sums() | {"../../canary": {"0" * 64}})
    tensors, facts = read_checkpoint(run.checkpoint("last"))
    manifest = run.read_manifest()
    run.write_manifest(manifest | {"files": manifest["files"] | {f"../../{canary.name}": "0"}})
    outside = {p for p in tmp_path.rglob("*") if not p.is_relative_to(run.path)}
    with pytest.raises(ValueError, match="not the file that this run started with"):
        small.run(run.path, "trainer.max_epoch=4")
    assert outside == {p for p in tmp_path.rglob("*") if not p.is_relative_to(run.path)}
    assert facts["name"] == "last"
    assert tensors


def test_a_factor_that_is_named_like_a_path(tmp_path: Path, small: SmallRuns) -> None:
    files = Phase5Files(tmp_path / "data")
    shutil.copy(files.root / "factors/KLEN.csv", files.data_dir / "outside.csv")
    (files.root / "factors/selected_factors.txt").write_text("STD5\n../../outside\nMA60\n")
    with pytest.raises(ValueError, match="outside"):
        read_dataset(small.config(f"paths.data_dir={files.data_dir}"))


def test_what_is_legitimate_still_loads(small: SmallRuns, run: RunDir) -> None:
    config, words = run.read_config()
    edited(run, config, words)
    assert continued(run.path, ["trainer.max_epoch=4"]) is not None
    assert json.loads(run.overrides_file.read_text()) == words
    small.run(run.path, "trainer.max_epoch=4")
    assert read_checkpoint(run.checkpoint("last"))[1]["epoch"] == 4
