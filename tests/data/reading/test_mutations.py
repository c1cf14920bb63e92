"""500 random mutations of valid files: each is read or refused, and nothing else ever happens."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_data import Phase5Files, PriceFiles, QlibFiles, source_settings

from stockformer.data.sources import features, ohlcv, phase5, qlib

MUTATIONS = 500


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """One to three bytes changed, put in or taken out, or the file cut."""
    data = bytearray(content)
    for _ in range(random.integers(1, 4)):
        place = int(random.integers(0, max(1, len(data))))
        kind = random.integers(0, 5)
        if kind == 0 and data:
            data[place % len(data)] = int(random.integers(0, 256))
        elif kind == 1:
            data[place:place] = bytes([int(random.choice(list(b'",;\n\r\0 -.e=9\xff')))])
        elif kind == 2:
            del data[place : place + int(random.integers(1, 40))]
        elif kind == 3:
            data[place:place] = data[place : place + int(random.integers(1, 200))]
        else:
            del data[place:]
    return bytes(data)


@pytest.fixture
def cases(tmp_path: Path) -> list[tuple[Path, Callable[[], object]]]:
    """A file of every kind that is read, and what reads it."""
    prices = PriceFiles(tmp_path / "prices", ["AAA", "M&M", "NA"])
    arrays = Phase5Files(tmp_path / "arrays")
    binary = QlibFiles(tmp_path / "binary", prices)
    of_qlib = source_settings("qlib", path=str(binary.root))
    packed = prices.root / "AAA.csv.gz"
    packed.write_bytes(gzip.compress(prices.path("AAA").read_bytes()))
    prices.path("AAA").unlink()
    prices.frames["NA"].to_parquet(prices.root / "NA.parquet")
    prices.path("NA").unlink()
    sectors, members = tmp_path / "sectors.csv", tmp_path / "members.csv"
    sectors.write_text("ticker,sector\n" + "".join(f"{t},Oil\n" for t in prices.tickers))
    members.write_text(
        "ticker,start,end\n" + "".join(f"{t},2020-01-01,2023-06-01\n" for t in prices.tickers)
    )
    table = prices.long().rename(columns=str.lower).assign(size=1.5)
    table.to_parquet(tmp_path / "features.parquet")
    table.to_csv(tmp_path / "features.csv", index=False)
    of_prices = source_settings(
        "ohlcv",
        path=str(prices.root),
        universe={"sectors_path": str(sectors), "members_path": str(members)},
    )
    of_arrays = source_settings("nifty200_phase5", root=str(arrays.root))

    def read_features(path: Path) -> object:
        settings = source_settings(
            "features", path=str(path), features=["size"], ratios_to_close=["open"]
        )
        return features.load(**settings)

    return [
        *((path, lambda: ohlcv.load(**of_prices)) for path in (prices.path("M&M"), packed)),
        *((path, lambda: ohlcv.load(**of_prices)) for path in (sectors, members)),
        (prices.root / "NA.parquet", lambda: ohlcv.load(**of_prices)),
        (tmp_path / "features.parquet", lambda: read_features(tmp_path / "features.parquet")),
        (tmp_path / "features.csv", lambda: read_features(tmp_path / "features.csv")),
        *(
            (arrays.root / name, lambda: phase5.load(**of_arrays))
            for name in ("flow.npz", "trend_indicator.npz", "label.csv", "factors/KLEN.csv")
        ),
        (arrays.root / "factors/selected_factors.txt", lambda: phase5.load(**of_arrays)),
        *(
            (path, lambda: qlib.load(**of_qlib))
            for path in (binary.calendar, binary.write_list(), binary.path("M&M", "close"))
        ),
    ]


def test_a_mutated_file_is_read_or_refused(
    cases: list[tuple[Path, Callable[[], object]]],
) -> None:
    random = np.random.default_rng(20261123)
    outcomes = {"read": 0, "refused": 0}
    for _, read in cases:
        read()
    for turn in range(MUTATIONS):
        path, read = cases[turn % len(cases)]
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, random))
        try:
            read()
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1
        finally:
            path.write_bytes(whole)
    assert outcomes["read"] > 10
    assert outcomes["refused"] > 250
