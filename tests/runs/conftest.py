from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from runs.small_run import SmallRuns, differences


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """So that a process and its copies compute the same bits, and a copy has no lost threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def whole_log() -> None:
    """As the command sets it up."""
    logging.getLogger("stockformer").setLevel(logging.DEBUG)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    return SmallRuns(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def whole(small: SmallRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    small.run(folder)
    again = folder.with_name("again")
    small.run(again)
    assert not differences(folder, again)
    return folder
