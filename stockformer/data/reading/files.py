"""Reads files: completely, hashed, within limits and inside their folder; errors name the file."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from stockformer.data.reading.findings import Finding, Findings
from stockformer.data.reading.tables import Table, day, parse_csv
from stockformer.data.reading.unpacking import EXPANSION, unpacked_limit
from stockformer.runs.atomic import MAX_BYTES

GZIP_MAGIC = b"\x1f\x8b"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, struct.error)
DAMAGED_ARRAY = (
    *(ValueError, TypeError, SyntaxError, tokenize.TokenError),  # an invalid header
    OSError,
    EOFError,
    MemoryError,
    OverflowError,
)


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises ValueError if it is missing, empty, unreadable or too large."""
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path}: a link to {path.readlink()}, which does not exist, or to itself")
    if path.is_dir():
        raise ValueError(f"{path}: a folder, expected a file")
    if not path.is_file():
        raise ValueError(
            f"{path}: file not found, or not a file (dataset.source names it; by default it is in "
            "paths.data_dir)"
        )
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: larger than {MAX_BYTES >> 20} MiB")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if not content:
        raise ValueError(f"{path}: the file is empty")
    if content.startswith(LFS_POINTER):
        raise ValueError(
            f"{path}: a Git LFS pointer instead of the data, which `git lfs pull` fetches"
        )
    return content


def gunzip(content: bytes, path: Path) -> bytes:
    """Unpack gzip content. Raises ValueError for a damaged, truncated or too large archive."""
    if not content.startswith(GZIP_MAGIC):
        return content
    limit = unpacked_limit(len(content))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as archive:
            plain = archive.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: gzip archive damaged or truncated: {error}") from error
    if len(plain) > limit:
        raise ValueError(
            f"{path}: unpacks to more than {limit >> 20} MiB, {EXPANSION} times its size"
        )
    if not plain:
        raise ValueError(f"{path}: the file is empty")
    return plain


def inside(root: Path, name: str) -> Path:
    """`root / name`. Raises ValueError for a name or a link that leads out of `root`."""
    path = root / name
    parts = PurePosixPath(name.replace("\\", "/"))
    try:
        within = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # a link to itself
        raise ValueError(f"{path}: a broken link: {error}") from error
    if parts.is_absolute() or ".." in parts.parts or not within:
        raise ValueError(f"{path}: leads out of {root}")
    return path


class Folder:
    """Files below `root`, read completely; `hashes` has the SHA-256 of each file read."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.hashes: dict[str, str] = {}
        if not self.root.is_dir():
            raise ValueError(
                f"data folder not found: {self.root} (paths.data_dir: the folder of the data sets)"
            )

    def bytes(self, name: str) -> bytes:
        content = read_bytes(inside(self.root, name))
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
            return _npy(content) if key is None else _npz(content, key)
        except DAMAGED_ARCHIVE as error:
            raise ValueError(f"{path}: damaged archive: {error}") from error
        except DAMAGED_ARRAY as error:
            raise ValueError(f"{path}: cannot be read as a NumPy array: {error}") from error

    def table(self, name: str, findings: Findings) -> pd.DataFrame | None:
        """A CSV of dates x tickers as float64, missing cells NaN, labels unchanged.

        None after an error, which is added to `findings`.
        """
        path, own = str(self.root / name), Findings()
        try:
            content = gunzip(self.bytes(name), self.root / name)
        except ValueError as error:
            findings.error("file", Finding(str(error)))
            return None
        table = parse_csv(content, path, ",", None, own)
        frame = None if table is None else _wide(table, own)
        if own.any_error():
            message = "not a table of dates x tickers, one number a cell"
            own.error("layout", Finding(message, path))
        findings.extend(own)
        return None if own.any_error() else frame


def _wide(table: Table, findings: Findings) -> pd.DataFrame:
    first, *names = table.names
    dates = table.dates(first, "%Y-%m-%d", "", findings)
    if not (np.diff(dates) > np.timedelta64(0, "D")).all():
        findings.error("dates", Finding("dates are not strictly increasing", table.file))
    values = np.full((len(dates), len(names)), np.nan)
    for i, name in enumerate(names):

        def finding(row: int, message: str, name: str = name) -> Finding:
            return Finding(message, table.file, "", int(table.rows[row]), day(dates[row]), name)

        values[:, i] = table.numbers(name, findings, finding)
    return pd.DataFrame(values, index=pd.DatetimeIndex(dates), columns=names)


def _npy(content: bytes) -> np.ndarray:
    """The array in `content`; its header must match the size of the data."""
    stream = io.BytesIO(content)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in headers:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = headers[version](stream)
    if dtype.hasobject:
        raise ValueError("an array of objects, which could run code")
    promised, there = math.prod(shape) * dtype.itemsize, len(content) - stream.tell()
    if promised != there:
        raise ValueError(f"shape {shape} of {dtype} needs {promised} bytes, there are {there}")
    return np.load(io.BytesIO(content), allow_pickle=False)


def _npz(content: bytes, key: str) -> np.ndarray:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if key not in members:
            shown = [name[:40] for name in sorted(members)[:10]]
            raise ValueError(f"no array {key!r} in it, only {shown}")
        limit, member = unpacked_limit(len(content)), members[key]
        if member.file_size > limit:
            raise ValueError(f"array {key!r} unpacks to more than {limit >> 20} MiB")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Other methods unpack everything, whatever size is requested.
            raise ValueError(f"array {key!r} is packed as np.savez_compressed does not")
        with archive.open(member) as file:
            # The declared size may be wrong: nothing beyond it is unpacked.
            unpacked = file.read(member.file_size + 1)
        if len(unpacked) != member.file_size:
            raise ValueError(f"array {key!r} is not of the size that the archive declares")
        return _npy(unpacked)
