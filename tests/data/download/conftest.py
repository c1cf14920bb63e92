"""A market, a list of three stocks, and the words of a command that downloads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.download.market import ROWS, Market, moment, write_universe


@pytest.fixture
def market() -> Market:
    return Market(moment("2023-06-30"))


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    path = write_universe(tmp_path / "mine.csv", *ROWS)
    return [f"universe={path}", "start=2023-01-01", f"into={tmp_path / 'mine'}"]


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "mine"
