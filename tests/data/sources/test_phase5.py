"""The prepared NIFTY-200 arrays, sample by sample against the published preparation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from stockformer.config.build import build
from stockformer.config.hydra_lines import VERSION_BASE
from stockformer.config.schema import CONFIG_NAME, config_folder
from stockformer.data.calendar import published_calendar
from stockformer.data.panel import Panel
from stockformer.data.splits import Split, by_ratio
from stockformer.data.targets import Targets, next_returns
from stockformer.data.windows import Windows
from stockformer.models.wavelet import band_matrices

LOOKBACK, HORIZON = 20, 2


@pytest.fixture(scope="module")
def panel(shared: Path) -> Panel:
    lines = ["dataset=nifty200_phase5", f"paths.data_dir={shared / 'data'}"]
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
        return build(compose(CONFIG_NAME, lines).dataset.source)


@pytest.fixture(scope="module")
def targets(panel: Panel) -> Targets:
    return next_returns(
        panel, horizon=HORIZON, offset=0, excess=False, median_class=False, limit_threshold=0.04
    )


@pytest.fixture(scope="module")
def split(panel: Panel) -> Split:
    return by_ratio(
        train=0.75,
        test=0.125,
        context="inside",
        dates=panel.dates,
        lookback=LOOKBACK,
        target_span=HORIZON,
    )


@pytest.mark.parametrize(
    ("part", "published", "samples"),
    [("train", "train", 474), ("validation", "val", 62), ("test", "test", 61)],
)
def test_the_first_and_last_sample_of_each_split_are_the_published_ones(
    shared: Path,
    panel: Panel,
    targets: Targets,
    split: Split,
    part: str,
    published: str,
    samples: int,
) -> None:
    signals = split.parts()[part]
    assert len(signals) == samples
    low, high = band_matrices(LOOKBACK, "sym2")
    target_low, _ = band_matrices(HORIZON, "sym2")
    windows = Windows(panel, targets, published_calendar(panel.dates), LOOKBACK).part(signals)
    with np.load(shared / "golden" / "phase5_samples.npz", allow_pickle=False) as golden:
        assert list(golden["factor_names"]) == list(panel.factor_names)
        for position in (0, samples - 1):
            batch = windows[[position]]
            expected = {
                field: golden[f"{published}_{position}_{field}"]
                for field in (
                    "x_low",
                    "x_high",
                    "y",
                    "y_low",
                    "trend_x",
                    "trend_y",
                    "time",
                    "factors",
                )
            }
            np.testing.assert_array_equal(batch.factors[0].numpy(), expected["factors"])
            np.testing.assert_array_equal(batch.trend[0].numpy(), expected["trend_x"])
            np.testing.assert_array_equal(batch.up[0].numpy(), expected["trend_y"])
            np.testing.assert_array_equal(batch.calendar[0].numpy(), expected["time"])
            np.testing.assert_array_equal(targets.values[signals[position]], expected["y"])
            returns = batch.returns[0].numpy()
            np.testing.assert_allclose(low @ returns, expected["x_low"], atol=1e-6)
            np.testing.assert_allclose(high @ returns, expected["x_high"], atol=1e-6)
            target = batch.target[0].numpy()
            np.testing.assert_allclose(target_low @ target, expected["y_low"], atol=1e-6)


def test_the_first_return_is_unknown_and_every_other_known(panel: Panel) -> None:
    assert np.isnan(panel.returns[0]).all()
    assert np.isfinite(panel.returns[1:]).all()
    assert panel.factors.shape == (660, 185, 22)
