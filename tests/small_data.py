"""Small data sets in the real layouts, for tests to read and to break."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from stockformer import experiment
from stockformer.config.hydra_lines import VERSION_BASE
from stockformer.config.schema import CONFIG_NAME, config_folder
from stockformer.evaluation.backtest import Settings


class Phase5Files:
    """A small data set in the Phase 5 layout, 90 days of 7 stocks and 3 factors, to be broken."""

    tickers = ("AAA", "B-B", "M&M", "NA", "TRUE", "360ONE", "ZZZ")
    factors = ("STD5", "KLEN", "MA60")

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.root = data_dir / "nifty200_phase5"
        (self.root / "factors").mkdir(parents=True)
        random = np.random.default_rng(7)
        self.dates = pd.bdate_range("2023-01-02", periods=90)
        self.returns = random.normal(0, 0.02, (90, 7))
        self.returns[0] = 0.0
        self.write()
        for name in self.factors:
            values = random.normal(size=(90, 7))
            values[:3] = np.nan
            self.frame(values).to_csv(self.root / f"factors/{name}.csv", date_format="%Y-%m-%d")
        (self.root / "factors/selected_factors.txt").write_text("\n".join(self.factors))
        (self.root / "factors/other.csv").write_text("not,a,factor\n")
        np.save(self.root / "128_corr_struc2vec_adjgat.npy", random.normal(0, 0.1, (7, 8)))

    def frame(self, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, index=self.dates.rename("date"), columns=list(self.tickers))

    def write(self) -> None:
        """Returns, trend and labels as they should be."""
        np.savez(self.root / "flow.npz", result=self.returns)
        np.savez(self.root / "trend_indicator.npz", result=(self.returns > 0).astype(np.int32))
        self.frame(self.returns).to_csv(self.root / "label.csv", date_format="%Y-%m-%d")


class PriceFiles:
    """Daily prices of a few stocks on 80 business days, one CSV a stock, to be broken."""

    tickers = ("000001", "1E5", "AAA", "M&M", "NA", "TRUE")
    days = 80

    def __init__(self, data_dir: Path, tickers: Sequence[str] = tickers) -> None:
        self.data_dir, self.tickers = data_dir, tuple(tickers)
        self.root = data_dir / "ohlcv"
        self.root.mkdir(parents=True)
        random = np.random.default_rng(3)
        self.frames = {}
        for ticker in tickers:
            close = 100 * np.exp(random.normal(0, 0.02, self.days).cumsum())
            first = close * np.exp(random.normal(0, 0.01, self.days))
            self.frames[ticker] = pd.DataFrame(
                {
                    "Date": pd.bdate_range("2023-01-02", periods=self.days).astype(str),
                    "Open": first.round(4),
                    "High": (np.maximum(first, close) * 1.01).round(4),
                    "Low": (np.minimum(first, close) * 0.99).round(4),
                    "Close": close.round(4),
                    "Volume": random.integers(1_000, 9_000, self.days),
                }
            )
        self.write()

    def path(self, ticker: str) -> Path:
        return self.root / f"{ticker}.csv"

    def write(self) -> None:
        """One file a stock, from `frames`."""
        for ticker in self.frames:
            self.write_one(ticker)

    def write_one(self, ticker: str) -> None:
        self.frames[ticker].to_csv(self.path(ticker), index=False)

    def long(self) -> pd.DataFrame:
        """All stocks in one table, with a column that names them."""
        return pd.concat([f.assign(Ticker=t) for t, f in self.frames.items()], ignore_index=True)

    def edit(self, ticker: str, line: int, old: str, new: str) -> None:
        """Replace text in one line of a stock's file; the header is line 1."""
        lines = self.path(ticker).read_text().split("\n")
        assert old in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new, 1)
        self.path(ticker).write_text("\n".join(lines))


class QlibFiles:
    """The same prices in qlib's layout: adjusted by a factor of 2, in single precision."""

    factor = 2.0

    def __init__(self, data_dir: Path, prices: PriceFiles) -> None:
        self.data_dir, self.root = data_dir, data_dir / "qlib"
        self.days = sorted({day for frame in prices.frames.values() for day in frame["Date"]})
        for name in ("calendars", "instruments", "features"):
            (self.root / name).mkdir(parents=True)
        self.calendar.write_text("".join(f"{day}\n" for day in self.days))
        self.periods = [
            (ticker, frame["Date"].iloc[0], frame["Date"].iloc[-1])
            for ticker, frame in prices.frames.items()
        ]
        self.write_list()
        for ticker, frame in prices.frames.items():
            (self.root / "features" / ticker.lower()).mkdir()
            rows = frame.set_index("Date").reindex(
                self.days[self.days.index(frame["Date"].iloc[0]) :]
            )
            for name in ("Open", "High", "Low", "Close"):
                self.write(ticker, name.lower(), rows[name] * self.factor)
            self.write(ticker, "volume", rows["Volume"] / self.factor)
            self.write(ticker, "factor", rows["Close"] / rows["Close"] * self.factor)

    @property
    def calendar(self) -> Path:
        return self.root / "calendars/day.txt"

    def write_list(self, name: str = "all") -> Path:
        """The list of instruments, from `periods`."""
        file = self.root / f"instruments/{name}.txt"
        file.write_text("".join("\t".join(period) + "\n" for period in self.periods))
        return file

    def path(self, ticker: str, field: str) -> Path:
        return self.root / "features" / ticker.lower() / f"{field}.day.bin"

    def write(
        self, ticker: str, field: str, values: Sequence[float], first: int | None = None
    ) -> None:
        """A field, by default up to the last session."""
        first = len(self.days) - len(values) if first is None else first
        self.path(ticker, field).write_bytes(np.array([first, *values], "<f4").tobytes())

    def values(self, ticker: str, field: str) -> np.ndarray:
        return np.frombuffer(self.path(ticker, field).read_bytes(), "<f4")[1:].copy()


@cache
def _source(dataset: str, data_dir: str) -> dict[str, Any]:
    config = composed(f"dataset={dataset}", data_dir=Path(data_dir))
    source = OmegaConf.to_container(config.dataset.source, resolve=True)
    return {key: value for key, value in source.items() if key != "_target_"}


def source_settings(dataset: str, data_dir: str = "DATA", **changes: Any) -> dict[str, Any]:
    """What the source of a data set is called with, as its file in conf/ says, but for `changes`.

    quality={"strict": True} changes that key of `quality` alone.
    """
    settings = deepcopy(_source(dataset, data_dir))
    for key, value in changes.items():
        assert key in settings
        settings[key] = settings[key] | value if isinstance(value, dict) else value
    return settings


def backtest_settings(**changes: Any) -> Settings:
    """The values of conf/backtest for 60 stocks, but for `changes`."""
    group = cast(DictConfig, OmegaConf.load(config_folder() / "backtest" / "default.yaml"))
    return replace(experiment.backtest_settings(group, 60), **changes)


@cache
def _composed(lines: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(config_folder()), **VERSION_BASE):
        return compose(CONFIG_NAME, list(lines))


def composed(*lines: str, data_dir: Path | None = None) -> DictConfig:
    """The configuration of these overrides, with the data and the cache in `data_dir`.

    Each combination of overrides is composed once in a session.
    """
    config = _composed(lines).copy()
    if data_dir is not None:
        config.paths.data_dir, config.paths.cache_dir = str(data_dir), f"{data_dir}/cache"
    return config
