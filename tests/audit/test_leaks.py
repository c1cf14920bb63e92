"""Every row of the table of leaks in docs/evaluation.md, planted and caught by the named check."""

from __future__ import annotations

import copy
import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from audit.test_lookahead import (
    Patch,
    calendar_from_the_future,
    config_of,
    future_fill,
    leak_in_factor,
    scale_of_all_days,
    whole_sample_graph,
    whole_sample_scaling,
    window_one_day_late,
)
from small_data import Phase5Files, PriceFiles, composed

from stockformer import experiment
from stockformer.audit import lookahead, observe
from stockformer.audit.lookahead import run_audit
from stockformer.data.dataset import Dataset, FittedPreprocessing
from stockformer.data.panel import Panel
from stockformer.data.reading import price_panel
from stockformer.data.sources import ohlcv
from stockformer.data.splits import Split
from stockformer.data.windows import Windows
from stockformer.evaluation import backtest, baselines
from stockformer.evaluation import trading as evaluated
from stockformer.evaluation.backtest import Market
from stockformer.evaluation.neutralise import Neutraliser
from stockformer.evaluation.predictions import Predictions
from stockformer.experiment import Experiment, read_dataset
from stockformer.models.stockformer import Stockformer
from stockformer.runs import ensemble
from stockformer.training.evaluate import Evaluator

DOCUMENT = Path(__file__).parents[2] / "docs/evaluation.md"
SMALL = ("model.width=8", "model.layers=1", "dataset.lookback=5", "trainer.device=cpu")
MEMORY: dict[str, Any] = {}


@dataclass(frozen=True)
class Planted:
    """A leak: how it is planted, the words that name it, the settings it needs.

    files: with a data set of prices instead of prepared factors. full: the full audit alone finds
    it. process: only new processes do.
    """

    plant: Callable[[Patch, Any], None]
    words: str
    lines: tuple[str, ...] = ()
    files: type = Phase5Files
    full: bool = False
    process: bool = False


def patched(place: Any, name: str, wrap: Callable[..., Any]) -> Callable[[Patch, Any], None]:
    """Plant `wrap(clean, *arguments)` in place of an attribute."""

    def plant(patch: Patch, files: Any) -> None:
        clean = getattr(place, name)
        patch.setattr(place, name, lambda *a, **k: wrap(clean, *a, **k))

    return plant


def without_files(plant: Callable[[Patch], None]) -> Callable[[Patch, Any], None]:
    return lambda patch, files: plant(patch)


def in_factors(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Any:
    return without_files(leak_in_factor(change))


def split_changed(change: Callable[[Split, int], Split]) -> Callable[[Patch, Any], None]:
    return patched(
        Split,
        "without",
        lambda clean, self, session_gaps, lookback, target_span: change(self, target_span),
    )


def mixing(clean: Any, self: Any, batch: Any) -> Any:
    forecast = clean(self, batch)
    return replace(forecast, returns=forecast.returns - forecast.returns.mean(dim=0))


def reading_the_target(clean: Any, self: Any, batch: Any) -> Any:
    forecast = clean(self, batch)
    return replace(forecast, returns=forecast.returns + batch.target)


def remembering(clean: Any, self: Any, batch: Any) -> Any:
    forecast = clean(self, batch)
    last = MEMORY.get("forecast", 0.0)
    MEMORY["forecast"] = forecast.returns.mean().item()
    return replace(forecast, returns=forecast.returns + last)


def state_in_a_file(patch: Patch, files: Any) -> None:
    file = files.root.parent / "scale.npy"
    np.save(file, np.ones(3, dtype=np.float32))
    leak_in_factor(lambda factors, returns: factors / np.load(file))(patch)


def memoised(patch: Patch, files: Any) -> None:
    MEMORY.clear()

    def scaled(factors: np.ndarray, returns: np.ndarray) -> np.ndarray:
        if "scale" not in MEMORY:
            MEMORY["scale"] = factors.std(axis=(0, 1))
        return factors / MEMORY["scale"]

    leak_in_factor(scaled)(patch)


def losers_masked(clean: Any, panel: Panel, **settings: Any) -> Any:
    targets = clean(panel, **settings)
    return replace(targets, valid=targets.valid & (targets.returns > -0.01))


def next_days_members(patch: Patch, files: Any) -> None:
    clean_build, clean = observe.build, experiment.next_returns

    def with_members(node: Any, **facts: Any) -> Any:
        built = clean_build(node, **facts)
        if not isinstance(built, Panel):
            return built
        return replace(built, member=np.random.default_rng(5).random(built.returns.shape) < 0.7)

    def shifted(panel: Panel, **settings: Any) -> Any:
        if panel.member is None:  # as it was read for its split
            return clean(panel, **settings)
        return clean(replace(panel, member=np.roll(panel.member, -1, axis=0)), **settings)

    patch.setattr(observe, "build", with_members)
    patch.setattr(experiment, "next_returns", shifted)


def global_median(clean: Any, panel: Panel, **settings: Any) -> Any:
    targets = clean(panel, **settings)
    return replace(targets, up=targets.valid & (targets.returns > np.median(targets.returns)))


def survivors(patch: Patch, files: PriceFiles) -> None:
    files.frames["AAA"] = files.frames["AAA"].iloc[:72]
    files.write_one("AAA")
    clean = ohlcv.load

    def load(**settings: Any) -> Panel:
        panel = clean(**settings)
        kept = np.isfinite(panel.returns[-1])
        return replace(
            panel,
            tickers=panel.tickers[kept],
            returns=panel.returns[:, kept],
            factors=panel.factors[:, kept],
            prices={name: values[:, kept] for name, values in panel.prices.items()},
        )

    load.__module__, load.__qualname__ = clean.__module__, clean.__qualname__
    patch.setattr(ohlcv, "load", load)


def backfilled(patch: Patch, files: PriceFiles) -> None:
    for ticker in ("AAA", "M&M", "TRUE"):
        files.frames[ticker] = files.frames[ticker].drop(index=range(54, 76, 2))
        files.write_one(ticker)
    patched(
        price_panel,
        "adjusted",
        lambda clean, prices: {
            name: pd.DataFrame(values).bfill().to_numpy() for name, values in clean(prices).items()
        },
    )(patch, files)


def prepared(values: Callable[[np.ndarray], np.ndarray]) -> Callable[[Patch, Any], None]:
    """A prepared factor file that holds what comes."""

    def plant(patch: Patch, files: Phase5Files) -> None:
        later = values(np.vstack([files.returns[1:], np.zeros((1, 7))]))
        frame = files.frame(later + 1e-4 * np.random.default_rng(0).normal(size=later.shape))
        frame.to_csv(files.root / "factors/KLEN.csv", date_format="%Y-%m-%d")

    return plant


def best_on_test(clean: Any, self: Any, part: str, alone: bool = False) -> Any:
    return clean(self, "test" if part == "validation" else part, alone)


def trained_on_test(clean: Any, self: Any, part: str, *rest: Any, **named: Any) -> Any:
    if part != "train":
        return clean(self, part, *rest, **named)
    other = copy.copy(self)
    other.data = replace(self.data, split=replace(self.data.split, train=self.data.split.test))
    return clean(other, part, *rest, **named)


def ridge_on_test(clean: Any, learners: Any, history: Any, rows: Any) -> Any:
    days = np.union1d(history.training_days, rows)
    return clean(learners, replace(history, training_days=days), rows)


def scaled_on_all(clean: Any, score: Any, history: Any, step: int) -> Any:
    return score * np.nanstd(history.label)


def at_the_signals_close(clean: Any, market: Market, rows: Any) -> Any:
    return market.mark[np.asarray(rows) - 1]


def without_delay(
    clean: Any, signal: Any, dates: Any, market: Any, settings: Any, offset: int
) -> Any:
    return clean(signal, dates, market, replace(settings, delay=0), offset)


def members_of_the_trade_day(patch: Patch, files: Any) -> None:
    def choosable(market: Market) -> np.ndarray:
        assert market.member is not None
        return np.isfinite(market.close) & np.roll(market.member, -1, axis=0)

    leaking = cached_property(choosable)
    leaking.__set_name__(Market, "choosable")
    patch.setattr(Market, "choosable", leaking)


def yesterdays_target(clean: Any, self: Any, signals: Any, forecast: Any, probability: Any) -> Any:
    said = clean(self, signals, forecast, probability)
    return replace(said, label=self.targets.returns[signals - 1])


def refitted(clean: Any, self: Any, name: str, fitted_here: Any, names: Any) -> Any:
    return fitted_here


def weighted_by_test(clean: Any, fold: Any, data: Dataset) -> Predictions:
    together = clean(fold, data)
    worth = [np.nansum(m.predictions.prediction * m.predictions.label) ** 2 + 1e-9 for m in fold]
    mean = np.average([m.predictions.prediction for m in fold], axis=0, weights=worth)
    return replace(together, prediction=mean)


def signal_of_the_label(clean: Any, predictions: Predictions, trading: Any) -> Any:
    return clean(predictions, trading) + np.nan_to_num(predictions.label).mean(axis=1)


def trend_of_tomorrow(clean: Any, self: Any, positions: Any) -> Any:
    batch = clean(self, positions)
    return replace(batch, trend=torch.roll(batch.trend, 1, 1) + (batch.target[:, :1] > 0))


def exposures_of_tomorrow(clean: Any, self: Neutraliser, row: int) -> Any:
    return clean(self, min(row + 1, len(self.returns) - 1))


LEAKS = {
    "a factor of tomorrow": Planted(in_factors(lambda f, r: np.roll(f, -1, axis=0)), "factor STD5"),
    "backward fill": Planted(in_factors(future_fill), "factor STD5"),
    "scale over the whole panel": Planted(in_factors(whole_sample_scaling), "factor STD5"),
    "window a day late": Planted(without_files(window_one_day_late), "window's returns"),
    "graph on all dates": Planted(without_files(whole_sample_graph), "graph embedding"),
    "calendar of tomorrow": Planted(without_files(calendar_from_the_future), "calendar"),
    "model normalising over the batch": Planted(
        patched(Stockformer, "forward", mixing), "prediction: the forecast of a date"
    ),
    "model reading the target": Planted(
        patched(Stockformer, "forward", reading_the_target), "prediction"
    ),
    "scaler fitted on all days": Planted(
        without_files(whole_sample_graph), "state of processor", ("processors=robust",)
    ),
    "whole-sample state in a file": Planted(state_in_a_file, ".*scale.npy: read while"),
    "the future memoised in the process": Planted(memoised, "factor STD5", process=True),
    "no purge": Planted(
        split_changed(
            lambda s, span: replace(s, train=np.arange(s.train[0], s.train[-1] + span + 1))
        ),
        "split: the target of train day .* not purged",
    ),
    "span one short": Planted(
        split_changed(lambda s, span: replace(s, train=np.arange(s.train[0], s.train[-1] + 2))),
        "split: the target of train day .* not purged",
    ),
    "validation days in training": Planted(
        split_changed(lambda s, span: replace(s, train=np.union1d(s.train, s.validation))),
        "split: train days reach to .* overlap",
    ),
    "test days in training": Planted(
        split_changed(lambda s, span: replace(s, train=np.union1d(s.train, s.test[:3]))),
        "split: train days reach to .* overlap",
    ),
    "future losers masked": Planted(
        patched(experiment, "next_returns", losers_masked), "validity of the target"
    ),
    "next-day membership": Planted(next_days_members, "validity of the target"),
    "whole-sample survivors": Planted(
        survivors, "reading: AAA are in the data up to", files=PriceFiles
    ),
    "prices backfilled on reading": Planted(backfilled, "reading: ", files=PriceFiles),
    "prepared factors a day early": Planted(
        prepared(lambda later: later), "factor KLEN is a likely leak"
    ),
    "best epoch on test": Planted(
        patched(Experiment, "loader", best_on_test), "training: |loader: validation", full=True
    ),
    "ridge fitted on test": Planted(
        patched(baselines, "_learned", ridge_on_test), "baseline ridge"
    ),
    "fills at the signal's close": Planted(
        patched(backtest, "_fill_price", at_the_signals_close),
        "backtest: .* not at that day's close",
        files=PriceFiles,
    ),
    "delay ignored": Planted(
        patched(backtest, "_trade", without_delay), "backtest: trades before .* change"
    ),
    "trade-day membership": Planted(
        members_of_the_trade_day, "backtest: purchases depend on membership after"
    ),
    "yesterday's target scored": Planted(
        patched(Evaluator, "predictions", yesterdays_target), "scored label known already"
    ),
    "training on test windows": Planted(
        patched(Experiment, "loader", trained_on_test), "loader: train windows are not those"
    ),
    "re-evaluation refits": Planted(
        patched(FittedPreprocessing, "state", refitted),
        "evaluation elsewhere: processors are fitted again",
        ("processors=robust",),
        full=True,
    ),
    "an ensemble weighted by test": Planted(
        patched(ensemble, "averaged", weighted_by_test), "ensemble: the average"
    ),
    "trend of tomorrow": Planted(
        patched(Windows, "__getitem__", trend_of_tomorrow), "window's trend"
    ),
    "model remembering earlier batches": Planted(
        patched(Stockformer, "forward", remembering), "prediction: the forecast of a date"
    ),
    "class threshold over the whole sample": Planted(
        patched(experiment, "next_returns", global_median), "target's up"
    ),
    "signal that uses the outcome": Planted(
        patched(evaluated, "signal_of", signal_of_the_label), "backtest: the traded signal"
    ),
    "baseline scaled on test": Planted(
        patched(baselines, "_scaled", scaled_on_all), "baseline rev"
    ),
    "forecasts neutralised by tomorrow": Planted(
        patched(Neutraliser, "exposures", exposures_of_tomorrow),
        r"prediction \(test\)",
        ("neutralise.components=1",),
    ),
    "scale of the target over all days": Planted(
        without_files(scale_of_all_days), "scale of the target", ("target.transform=zscore",)
    ),
}


def prices_config(files: PriceFiles, *lines: str) -> Any:
    factors = "dataset.factors=[KMID,ROC5,STD5]"
    return composed("dataset=ohlcv", *SMALL, factors, *lines, data_dir=files.data_dir)


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_caught_by_its_check(
    tmp_path: Path, monkeypatch: Patch, name: str
) -> None:
    planted = LEAKS[name]
    monkeypatch.setattr(lookahead, "START_METHOD", "fork" if planted.process else "")
    monkeypatch.setattr(lookahead, "AT_ONCE", 1)
    files = planted.files(tmp_path / "data")
    planted.plant(monkeypatch, files)
    lines = ("split=ratio", *planted.lines)
    config = (prices_config if planted.files is PriceFiles else config_of)(files, *lines)
    own = ["dataset=nifty200_phase5", f"paths.data_dir={files.data_dir}", *SMALL, *lines]
    data = read_dataset(config)
    MEMORY.clear()  # only here are the processes forked from the one that has read the data
    found = run_audit(config, data, own, cuts=3, fast=not planted.full)
    assert any(re.match(planted.words, str(leak)) for leak in found.leaks), found.leaks


def test_an_undeclared_file_is_told_whichever_process_reads_the_data(
    phase5_files: Phase5Files, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(lookahead, "START_METHOD", "")
    read_by = iter(([], ["other.csv: read while"], [], []))
    monkeypatch.setattr(observe, "_undeclared", lambda *_: next(read_by))
    config = config_of(phase5_files, "split=ratio")
    found = run_audit(config, read_dataset(config), cuts=1, fast=True)
    assert [str(leak) for leak in found.leaks] == ["other.csv: read while"]


def test_prices_are_clean_too(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(lookahead, "START_METHOD", "")
    files = PriceFiles(tmp_path / "data")
    files.frames["AAA"] = files.frames["AAA"].drop(index=[20, 60, 61])
    files.write_one("AAA")
    config = prices_config(files, "split=ratio")
    found = run_audit(config, read_dataset(config), cuts=2, fast=True)
    assert found.leaks == []
    assert found.not_checkable == []


def test_every_table_that_is_read_is_audited(tmp_path: Path, monkeypatch: Patch) -> None:
    """Other delimiters, an upper-case suffix, and gzip without .gz: cut like the others."""
    monkeypatch.setattr(lookahead, "START_METHOD", "")
    files = PriceFiles(tmp_path / "data")
    tables = sorted(files.data_dir.rglob("*.csv"))
    for table in tables:
        table.write_text(table.read_text().replace(",", ";"))
    tables[0].rename(tables[0].with_suffix(".CSV"))
    tables[1].write_bytes(gzip.compress(tables[1].read_bytes()))
    config = prices_config(files, "split=ratio", "dataset.source.delimiter=semicolon")
    assert run_audit(config, read_dataset(config), cuts=1, fast=True).leaks == []


def test_prepared_factors_are_not_said_to_be_checked_and_can_be_waived(
    phase5_files: Phase5Files, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(lookahead, "START_METHOD", "")
    prepared(lambda later: later)(monkeypatch, phase5_files)
    config = config_of(phase5_files, "split=ratio", "dataset.waived_factors=[KLEN]")
    found = run_audit(config, read_dataset(config), cuts=1, fast=True)
    assert found.leaks == []
    assert found.not_checkable[0] == "3 prepared factors: prepared outside; screened instead"
    assert found.not_checkable[1].startswith(
        "factor KLEN: waived, its rank IC with the return 1 day"
    )
    misspelled = config_of(phase5_files, "split=ratio", "dataset.waived_factors=[KLENN]")
    with pytest.raises(ValueError, match=r"waived_factors: the data have no factor 'KLENN'"):
        run_audit(misspelled, read_dataset(misspelled), cuts=1, fast=True)


def test_the_full_form_is_clean(phase5_files: Phase5Files, monkeypatch: Patch) -> None:
    monkeypatch.setattr(lookahead, "START_METHOD", "")
    own = ["dataset=nifty200_phase5", f"paths.data_dir={phase5_files.data_dir}", *SMALL]
    lines = ("split=ratio", "processors=robust")
    config = config_of(phase5_files, *lines)
    found = run_audit(config, read_dataset(config), [*own, *lines], cuts=2)
    assert found.leaks == []


def test_the_documents_table_has_every_leak() -> None:
    rows = re.findall(r"^\| ([^|]+?) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert [name for name in LEAKS if name not in rows] == []
