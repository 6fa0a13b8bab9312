"""One part of a store as a table: what was committed, or a refusal that says what is there instead."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, MissingExtraError
from ..parquet import parquet_file, parquet_table
from .layout import Part, Spec
from .tables import schema

if TYPE_CHECKING:
    import pyarrow as pa


def read_part(folder: Path, part: Part, spec: Spec, columns: Sequence[str]) -> pa.Table:
    """The rows of a part, in the types of the store's schema.

    Args:
        folder: The store.
        part: As it was committed.
        spec: Of the store.
        columns: Which of the store's.

    Raises:
        InputError: It is damaged, or holds something else than was committed.
        MissingExtraError: pyarrow is not installed.
    """
    path = folder / part.part
    try:
        with path.open("rb") as file:  # pyarrow takes no names that are not UTF-8
            found = parquet_file(file)
            if found.metadata.num_rows != part.rows:  # before any is read
                raise InputError(_other(path, f"{found.metadata.num_rows:,} rows instead of {part.rows:,}"))
            missing = [name for name in columns if name not in found.schema_arrow.names]
            if missing:
                raise InputError(_other(path, f"no column {missing[0]!r}"))
            table = parquet_table(found, columns).select(columns)
    except (MemoryError, InputError, MissingExtraError):
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"A part of a store must be there; {str(path)!r} is not: the store has changed since it was opened. Open "
            "it again."
        ) from error
    except Exception as error:  # damaged files raise almost anything
        raise InputError(f"A part of a store must be readable; {str(path)!r}: {str(error)[:300]}.") from error
    table = _typed(table, path, spec)
    _check_errors(table, path, part, spec)
    return table


def vectors_of(column: pa.ChunkedArray, size: int) -> np.ndarray:
    """The vectors (n, c) of a column that are not null; without nulls nothing is copied."""
    found = []
    for chunk in column.chunks:
        good = chunk.drop_null() if chunk.null_count else chunk
        found.append(good.flatten().to_numpy(zero_copy_only=False).reshape(-1, size))
    return found[0] if len(found) == 1 else np.concatenate(found) if found else np.zeros((0, size), np.float32)


def _typed(table: pa.Table, path: Path, spec: Spec) -> pa.Table:
    """A table in the store's types; another version of pyarrow wrote vectors as lists of any length."""
    compute: Any = importlib.import_module("pyarrow.compute")  # its stubs know none of its functions
    for place, (field, column) in enumerate(zip(table.schema, table.columns, strict=True)):
        wanted = schema(spec).field(field.name)
        if field.name in spec.vectors and getattr(field.type, "value_type", None) == wanted.type.value_type:
            lengths = compute.unique(compute.list_value_length(column)).to_pylist()
            if not {*lengths} <= {None, spec.vectors[field.name]}:
                raise InputError(_other(path, f"vectors of {lengths[0]} numbers in {field.name!r}"))
            if not field.type.equals(wanted.type):
                column = column.cast(wanted.type)
        elif not field.type.equals(wanted.type):
            raise InputError(_other(path, f"{field.type} in {field.name!r} instead of {wanted.type}"))
        if not wanted.nullable and column.null_count:
            raise InputError(_other(path, f"nothing in {field.name!r} of {column.null_count} rows"))
        table = table.set_column(place, wanted, column)
    return table


def _check_errors(table: pa.Table, path: Path, part: Part, spec: Spec) -> None:
    """Refuse a part in which other rows are bad than those that have no vector."""
    if "error" not in table.column_names:
        return
    good = table["error"].is_null()
    if table.num_rows - table["error"].null_count != part.errors:
        errors = table.num_rows - table["error"].null_count
        raise InputError(_other(path, f"{errors} rows with an error instead of {part.errors}"))
    for name in spec.vectors:
        if name in table.column_names and not table[name].is_valid().equals(good):
            raise InputError(_other(path, f"rows with both an error and a vector in {name!r}, or neither"))


def _other(path: Path, what: str) -> str:
    return f"A part of a store must be as it was committed; {str(path)!r} has {what}. Embed again elsewhere."
