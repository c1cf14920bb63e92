"""What the tests share: where the reference material lies, and when to do without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def shared_folder() -> Path:
    return Path(os.environ.get("STOCKFORMER_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference data and golden files; the test is skipped where it is absent."""
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder} (set STOCKFORMER_SHARED)")
    return folder
