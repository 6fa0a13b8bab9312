"""Parquet files, read on the thread that asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

# A thread of pyarrow lets go of what it read of a Python file a little after the read has returned. Where the
# interpreter is ending by then, waiting for its lock kills the process ("terminate called without an active
# exception", exit code 134), with all work done. Threads share columns out, and one column holds nearly all bytes here.
_HERE = {"use_threads": False}
_ROWS_PER_BYTE = 16  # images and paths differ, so that no true table packs more rows into its bytes
UNPACKED, RATIO = 256 << 20, 16  # bytes of what is unpacked at once, that may unpack to more than so many times
_SIZES = ("compressed", "uncompressed")
_AT_ONCE = 16 << 20  # bytes of a batch, if each of its rows were all that its group holds


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


def check_rows(rows: int, size: int, name: str) -> None:
    """Refuse a table of so many bytes that declares more rows than a true table of files has.

    Raises:
        InputError: It does.
    """
    if rows > _ROWS_PER_BYTE * size:
        raise InputError(
            f"A table may hold at most {_ROWS_PER_BYTE} rows a byte; {name!r} has {size:,} bytes and declares "
            f"{rows:,} rows. Write one row for each image."
        )


def rows_at_once(file: Any, group: int, column: str, most: int, name: str) -> int:
    """How many rows of a group of a `parquet_file` may be unpacked together; a column's cells may all be one.

    Raises:
        InputError: The column unpacks to far more than images do.
    """
    metadata = file.metadata.row_group(group)
    leaves = [metadata.column(number) for number in range(metadata.num_columns)]
    leaves = [leaf for leaf in leaves if f"{leaf.path_in_schema}.".startswith(f"{column}.")]
    packed, unpacked = (sum(getattr(leaf, f"total_{kind}_size") for leaf in leaves) for kind in _SIZES)
    if is_heavy(packed, unpacked):
        raise InputError(
            f"Images of a table may unpack to {UNPACKED >> 20} MiB in a group of rows, or to {RATIO} times what they "
            f"take in the file; in group {group} of {name!r} the column {column!r} unpacks from {packed:,} to "
            f"{unpacked:,} bytes. Write it with smaller row groups."
        )
    return few_rows(unpacked, most)


def is_heavy(packed: int, unpacked: int) -> bool:
    """Whether bytes that are unpacked at once become far more than images do."""
    return unpacked > max(UNPACKED, RATIO * packed)


def few_rows(size: int, most: int) -> int:
    """How many rows may become Python's objects together, if each were all that so many bytes hold."""
    return max(1, min(most, _AT_ONCE // max(size, 1)))


def parquet_table(file: Any, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a `parquet_file`, of some columns."""
    return file.read(columns=None if columns is None else list(columns), **_HERE)


def parquet_batches(
    file: Any, rows: int, columns: Sequence[str], groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows of a `parquet_file`, so many at once, of some columns and groups of rows."""
    return file.iter_batches(rows, row_groups=groups, columns=list(columns), **_HERE)
