"""The memory a run will need is estimated before the work, and too much is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from small_data import PriceFiles

from stockformer import experiment
from stockformer.config.build import build
from stockformer.config.hydra_lines import VERSION_BASE
from stockformer.config.schema import CONFIG_NAME, config_folder
from stockformer.data.dataset import Dataset
from stockformer.data.reading import cache
from stockformer.experiment import Experiment, read_dataset
from stockformer.training.estimate import (
    GIB,
    STEP,
    Estimate,
    data_bytes,
    in_memory,
    kept_bytes,
    machine_memory,
    training_bytes,
)
from stockformer.training.losses import Loss


def config(*words: str) -> DictConfig:
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
        small = ("dataset.source.stocks=12", "dataset.source.days=200", "trainer.device=cpu")
        return compose(CONFIG_NAME, [*small, *words])


@pytest.fixture(scope="module")
def data() -> Dataset:
    return read_dataset(config())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_a_step_keeps_is_counted_without_any_of_it(data: Dataset, checkpointing: bool) -> None:
    """As a real step keeps where every query is used, each sample as much as the next."""
    node = config(f"model.activation_checkpointing={checkpointing}").model
    loss: Loss = build(config().loss, wavelet="sym2")
    facts = {"factors": 12, "stocks": 12, "graph": torch.zeros(12, node.width)}
    windows = data.windows.part(data.split.train[:3])
    model = build(node, learn_graph=False, **facts)
    real = [kept_bytes(model, loss, windows[list(range(samples))]) for samples in (1, 3)]
    weights, step = training_bytes(
        lambda: build(node, learn_graph=False, **facts), loss, windows[[0]], 3, enough=0
    )
    assert weights == 16 * sum(p.numel() for p in model.parameters())
    assert 0.99 < step / (3 * STEP * real[0]) < 1.1
    assert real[1] == pytest.approx(3 * real[0], rel=0.2)


def test_a_rough_count_is_enough_where_it_is_little(data: Dataset) -> None:
    node, loss = config().model, build(config().loss, wavelet="sym2")
    facts = {"factors": 12, "stocks": 12, "graph": torch.zeros(12, node.width)}
    counted, rough = (
        training_bytes(
            *(lambda: build(node, learn_graph=False, **facts), loss),
            *(data.windows.part(data.split.train[:1])[[0]], 12, enough),
        )[1]
        for enough in (0, 1e12)
    )
    assert 0.3 < rough / counted < 3


def test_a_model_that_cannot_do_without_content_is_not_estimated(data: Dataset) -> None:
    class Looks(torch.nn.Linear):
        def forward(self, batch: object) -> object:
            return float(self.weight.detach().sum())

    sample = data.windows.part(data.split.train[:1])[[0]]
    assert training_bytes(
        lambda: Looks(2, 2), build(config().loss, wavelet="sym2"), sample, 1, 0
    ) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("needed", "advice"),
    [
        (Estimate(data=9 * GIB, weights=GIB, step=GIB, samples=4), "of stocks or of days"),
        (Estimate(data=GIB, weights=9 * GIB, step=GIB, samples=4), "model.width or model.layers"),
        (Estimate(data=GIB, weights=GIB, step=9 * GIB, samples=4), "trainer.micro_batch_size"),
    ],
)
def test_the_refusal_says_what_to_lower(needed: Estimate, advice: str) -> None:
    needed.require(12 * GIB)
    with pytest.raises(ValueError, match=advice) as caught:
        needed.require(11 * GIB)
    assert "this run needs about 11.5 GiB" in str(caught.value)
    assert "this machine has 11.0 GiB" in str(caught.value)
    assert "a step of 4 samples" in str(caught.value)


def test_too_much_is_refused_before_any_of_it_is_taken(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"lower model\.width or model\.layers"):
        Experiment(config("model.width=1000000"), data)
    monkeypatch.setattr(experiment, "machine_memory", lambda: 0.4 * GIB)
    with pytest.raises(ValueError, match=r"of memory, this machine has 0\.4 GiB"):
        Experiment(config(), data)
    monkeypatch.setattr(experiment, "machine_memory", lambda: 0.4 * GIB)
    with pytest.raises(ValueError, match=r"\(data 0.0 GiB\) of memory.*dataset.factors"):
        read_dataset(config())


def test_what_is_mapped_is_no_memory_that_a_run_needs(tmp_path: Path) -> None:
    shape = (50, 20, 8)
    cube = 4 * 50 * 20 * 8
    mapped = np.lib.format.open_memmap(tmp_path / "factors.npy", "w+", np.float32, shape)
    held = np.empty(shape, np.float32)
    assert [in_memory(each) for each in ([mapped], [held, held], [held, held.copy()])] == [0, 1, 2]
    assert data_bytes(shape, 2) - data_bytes(shape, 0) == 2 * cube


def test_a_prepared_panel_may_be_larger_than_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its factors are mapped before and after the processors."""
    monkeypatch.setattr(cache, "SMALL", 0)
    wanted: list[float] = []
    monkeypatch.setattr(
        experiment, "data_bytes", lambda shape, held: wanted.append(held) or data_bytes(shape, held)
    )
    lines = (
        "dataset=ohlcv",
        f"dataset.source.path={PriceFiles(tmp_path).root}",
        "dataset.factors=[KMID]",
    )
    small = ("dataset.lookback=5", "trainer.device=cpu", f"paths.cache_dir={tmp_path / 'cache'}")
    words = [*lines, *small, "processors=rank"]
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
        settings = compose(CONFIG_NAME, words)
    Experiment(settings, read_dataset(settings))
    assert wanted == [0, 0]


def test_a_split_micro_batch_needs_one_sample_at_once(data: Dataset) -> None:
    whole, split = (
        Experiment(config("trainer.batch_size=64", f"trainer.oom={oom}"), data).memory
        for oom in ("stop", "split")
    )
    assert (whole.samples, split.samples) == (64, 1)
    assert split.step < whole.step


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/", {"memory.max": "1000"}, 1000.0),
        ("0::/job/step", {"job/step/memory.max": "max", "job/memory.max": "2000"}, 2000.0),
        ("0::/job/step", {"job/step/memory.max": "500", "memory.max": "2000"}, 500.0),
        ("4:memory:/a\n3:cpu:/b", {"memory/a/memory.limit_in_bytes": "700"}, 700.0),
        ("4:cpu,memory:/a", {"memory/memory.limit_in_bytes": "800"}, 800.0),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/../outside", {}, None),
        ("0::/", {"memory.max": "max"}, None),
        ("0::/", {"memory.max": "nonsense"}, None),
        ("", {}, None),
    ],
)
def test_a_containers_limit_counts(
    own: str, files: dict[str, str], limit: float | None, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = machine_memory(tmp_path / "cgroup", tmp_path / "own")
    assert found == limit or (limit is None and found > GIB / 2)
    assert machine_memory(tmp_path, tmp_path / "nowhere") > GIB / 2
