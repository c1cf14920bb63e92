"""Small data sets in the real layouts, for tests to read and to break."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd


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
        (self.root / "factors/stray.csv").write_text("not,a,factor\n")
        np.save(self.root / "128_corr_struc2vec_adjgat.npy", random.normal(0, 0.1, (7, 8)))

    def frame(self, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, index=self.dates.rename("date"), columns=list(self.tickers))

    def write(self) -> None:
        """Returns, trend and labels as they should be."""
        np.savez(self.root / "flow.npz", result=self.returns)
        np.savez(self.root / "trend_indicator.npz", result=(self.returns > 0).astype(np.int32))
        self.frame(self.returns).to_csv(self.root / "label.csv", date_format="%Y-%m-%d")
