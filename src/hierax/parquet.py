"""Parquet files, read on the thread that asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

# A thread of pyarrow lets go of what it read of a Python file a little after the read has returned. Where the
# interpreter is ending by then, waiting for its lock kills the process ("terminate called without an active
# exception", exit code 134), with all work done. Threads share columns out, and one column holds nearly all bytes here.
_HERE = {"use_threads": False}


def parquet_file(file: BinaryIO, **options: Any) -> Any:
    """An open file's `pyarrow.parquet.ParquetFile`: its metadata and schema; rows come from the functions below.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("data", "pyarrow") from error
    return pq.ParquetFile(file, pre_buffer=False, **options)


def parquet_table(file: Any, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a `parquet_file`, of some columns."""
    return file.read(columns=None if columns is None else list(columns), **_HERE)


def parquet_batches(
    file: Any, rows: int, columns: Sequence[str], groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows of a `parquet_file`, so many at once, of some columns and groups of rows."""
    return file.iter_batches(rows, row_groups=groups, columns=list(columns), **_HERE)
