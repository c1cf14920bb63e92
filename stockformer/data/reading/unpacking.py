"""Limits on what a file may unpack to: a small file can hold a huge table."""

from __future__ import annotations

import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stockformer.runs.atomic import MAX_BYTES

EXPANSION = 100  # times its size that a file may unpack to: prices grow 3 to 20 times
ALWAYS_ALLOWED = 64 << 20  # bytes that any file may unpack to
DAMAGED_PARQUET = (pa.ArrowException, OSError, ValueError, MemoryError, KeyError, TypeError)


def unpacked_limit(packed: int) -> int:
    """The bytes a file of `packed` bytes may unpack to."""
    return min(MAX_BYTES, max(ALWAYS_ALLOWED, EXPANSION * packed))


def open_parquet(content: bytes) -> pq.ParquetFile:
    """Raises one of `DAMAGED_PARQUET` if `content` is invalid or unpacks to too much."""
    file = pq.ParquetFile(io.BytesIO(content))
    facts = file.metadata
    stored = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
    needed = max(stored, 8 * facts.num_rows * facts.num_columns)
    limit = unpacked_limit(len(content))
    if not 0 <= needed <= limit:
        raise ValueError(f"unpacks to more than {limit >> 20} MiB")
    return file


def read_parquet(content: bytes, where: str) -> pd.DataFrame:
    """The table in `content`. Raises ValueError naming `where` if it is invalid or too large."""
    try:
        return open_parquet(content).read(use_threads=False).to_pandas()
    except DAMAGED_PARQUET as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}: cannot be read as Parquet: {reason}") from error
