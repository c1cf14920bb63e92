"""Which runs are seeds or folds of one configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_data import composed

from stockformer.config.recorded import recorded
from stockformer.runs.ensemble import forecast_settings
from stockformer.runs.folder import RunDir
from stockformer.runs.settings import Settings

WORDS = ("experiment=nifty_relative", "paths.data_dir=data", "seed=1")


def settings(folder: Path, *words: str) -> Settings:
    with RunDir.claim(folder) as run:
        run.write_config(recorded(composed(*WORDS, *words)), list(words))
    return forecast_settings(run)


@pytest.mark.parametrize(
    "word",
    [
        *("seed=2", "split.fold=3", "paths.data_dir=/elsewhere", "paths.cache_dir=/fast"),
        *("trainer.device=cpu", "trainer.keep=9", "tags=[again]", "report=false"),
        *("backtest.top_k=5", "dataset.source.path=/elsewhere/prices"),
    ],
)
def test_another_seed_fold_place_or_backtest_is_the_same_configuration(
    tmp_path: Path, word: str
) -> None:
    assert settings(tmp_path / "one") == settings(tmp_path / "other", word)


@pytest.mark.parametrize(
    "word",
    ["trainer.max_epoch=3", "trainer.early_stopping.patience=3", "optimizer.lr=1", "model=ridge"],
)
def test_what_changes_the_forecasts_is_another_configuration(tmp_path: Path, word: str) -> None:
    assert settings(tmp_path / "one") != settings(tmp_path / "other", word)
