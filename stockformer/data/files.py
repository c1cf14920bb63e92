"""Reading files of one folder: every error names the file, and everything read is hashed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd


class Folder:
    """Files below `root`, read whole; `hashes` has the SHA-256 of each that was."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.hashes: dict[str, str] = {}
        if not self.root.is_dir():
            raise ValueError(
                f"data folder not found: {self.root} (paths.data_dir says where data sets lie)"
            )

    def bytes(self, name: str) -> bytes:
        path = self.root / name
        if not path.is_file():
            raise ValueError(f"{path}: file not found, or not a file")
        content = path.read_bytes()
        if not content:
            raise ValueError(f"{path}: the file is empty")
        self.hashes[name] = hashlib.sha256(content).hexdigest()
        return content

    def lines(self, name: str) -> list[str]:
        """The lines that are not blank, stripped."""
        try:
            text = self.bytes(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.root / name}: not UTF-8 text (byte {error.start})") from error
        return [line.strip() for line in text.splitlines() if line.strip()]

    def array(self, name: str, key: str | None = None) -> np.ndarray:
        """A .npy array, or the array `key` of an .npz archive; never an object array."""
        path, content = self.root / name, self.bytes(name)
        try:
            stored = np.load(io.BytesIO(content), allow_pickle=False)
            if key is None:
                return np.asarray(stored)
            if key not in stored:
                raise ValueError(f"no array {key!r} in it, only {sorted(stored)}")
            return np.asarray(stored[key])
        except (ValueError, OSError, EOFError, TypeError) as error:
            raise ValueError(f"{path}: cannot be read as a NumPy array: {error}") from error
        except Exception as error:  # zipfile and zlib raise classes of their own on damage
            raise ValueError(f"{path}: damaged archive: {error}") from error

    def table(self, name: str) -> pd.DataFrame:
        """A CSV of dates x tickers as float64, missing cells NaN, labels as they stand."""
        path, content = self.root / name, self.bytes(name)
        header = content.split(b"\n", 1)[0].decode("utf-8-sig", "replace").strip().split(",")[1:]
        twice = sorted({ticker for ticker in header if header.count(ticker) > 1})
        if twice:
            raise ValueError(f"{path}: columns stand twice: {twice[:5]}")
        try:
            frame = pd.read_csv(io.BytesIO(content), index_col=0, dtype={0: str})
            values = frame.astype(np.float64)
            dates = pd.to_datetime(frame.index, format="%Y-%m-%d")
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a table of dates x tickers: {error}") from error
        if not dates.is_monotonic_increasing or dates.has_duplicates:
            raise ValueError(f"{path}: dates are not strictly increasing")
        infinite = np.argwhere(np.isinf(values.to_numpy()))
        if len(infinite):
            row, column = infinite[0]
            raise ValueError(
                f"{path}: infinite value on {dates[row]:%Y-%m-%d} for {values.columns[column]}"
            )
        return values.set_axis(dates, axis=0)
