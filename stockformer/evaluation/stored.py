"""Reads predictions.parquet within limits, because a small file can unpack to a huge table."""

from __future__ import annotations

import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ALWAYS_ALLOWED = 64 << 20  # bytes that any file may unpack to
EXPANSION = 100  # times its size that a file may unpack to: forecasts hardly compress


def read_parquet(content: bytes, where: str) -> pd.DataFrame:
    """The table in `content`. Raises ValueError naming `where` if it is invalid or too large."""
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        facts = file.metadata
        stored = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
        needed = max(stored, 8 * facts.num_rows * facts.num_columns)
        limit = max(ALWAYS_ALLOWED, EXPANSION * len(content))
        if not 0 <= needed <= limit:
            raise ValueError(f"unpacks to more than {limit >> 20} MiB")
        return file.read(use_threads=False).to_pandas()
    except (pa.ArrowException, OSError, ValueError, MemoryError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}: cannot be read as Parquet: {reason}") from error
