"""Rows as Arrow: the schema of a store's parts, and rows gathered until they make one."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtraError
from ..parquet import parquet_file, parquet_table
from .layout import SOURCE, Spec

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Record:
    """What became of one input.

    Attributes:
        id: Its position in the source.
        path: Its name as text.
        path_bytes: Its name byte for byte, where the text is not it.
        width: Of the image in pixels, where it was read.
        height: Likewise.
        error: Why there are no vectors.
        shard: The file that it lies in with others, where it does.
        offset: Where in that: the byte in a tar, the row in a table.
        values: By column, vectors (c,) and lists of classes; None where there is an error.
    """

    id: int
    path: str
    path_bytes: bytes | None = None
    width: int | None = None
    height: int | None = None
    error: str | None = None
    shard: str | None = None
    offset: int | None = None
    values: Mapping[str, Any] | None = None


@dataclass
class Block:
    """Rows on their way into a part.

    Attributes:
        spec: Of the store.
        capacity: Rows at most.
    """

    spec: Spec
    capacity: int
    cells: dict[str, list[Any]] = field(init=False)
    good: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self.clear()

    def __len__(self) -> int:
        return len(self.good)

    @property
    def errors(self) -> int:
        """Bad rows."""
        return len(self.good) - sum(self.good)

    def clear(self) -> None:
        """Begin anew."""
        self.good, self.cells = [], {name: [] for name in (*SOURCE, *([self.spec.top] if self.spec.top else []))}

    def add(self, record: Record) -> None:
        """Append a row."""
        at, values = len(self.good), record.values
        for name in SOURCE:
            self.cells[name].append(getattr(record, name))
        if self.spec.top is not None:
            self.cells[self.spec.top].append(None if values is None else values[self.spec.top])
        for name, size in self.spec.vectors.items():
            array = self._array(name, size, at)
            array[at] = 0 if values is None else values[name]
        self.good.append(values is not None)

    def _array(self, name: str, size: int, at: int) -> np.ndarray:
        """Room for one more vector; a small run takes little memory, a part's room is taken once."""
        array = self._arrays.get(name)
        if array is None or at >= len(array):
            longer = np.empty((min(max(64, 4 * at), self.capacity), size), self.spec.dtype)
            if array is not None:
                longer[:at] = array[:at]
            self._arrays[name] = array = longer
        return array

    def table(self, metadata: Mapping[str, str]) -> pa.Table:
        """The rows as an Arrow table, which copies nothing of the vectors."""
        import pyarrow as pa

        wanted = schema(self.spec, metadata)
        count, null = len(self), np.logical_not(self.good)
        columns = [pa.array(cells, wanted.field(name).type) for name, cells in self.cells.items() if name in SOURCE]
        for name in self.spec.vectors:
            columns.append(vector_array(self._arrays[name][:count], null, wanted.field(name).type))
        if self.spec.top is not None:
            columns.append(pa.array(self.cells[self.spec.top], wanted.field(self.spec.top).type))
        return pa.Table.from_arrays(columns, schema=wanted)


def vector_array(vectors: np.ndarray, null: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Vectors (n, c) as an Arrow array of lists, some of them null."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind, mask=pa.array(null))
    # Where pyarrow is old, it writes no null list that holds something.
    offsets = np.concatenate([[0], np.cumsum(~null)]).astype(np.int32) * vectors.shape[1]
    flat = pa.array(vectors[~null].reshape(-1))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, mask=pa.array(null)).cast(kind)


def schema(spec: Spec, metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """The columns of a part.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError("data", "pyarrow") from error

    number = pa.float32() if spec.dtype == "float32" else pa.float16()
    known = (pa.int64(), pa.string(), pa.binary(), pa.int32(), pa.int32(), pa.string(), pa.string(), pa.int64())
    fields = [pa.field(name, kind, nullable=name != "id") for name, kind in zip(SOURCE, known, strict=True)]
    for name, size in spec.vectors.items():
        fields.append(pa.field(name, pa.list_(number, size) if reads_null_vectors() else pa.list_(number)))
    if spec.top is not None:
        guess = pa.struct([("label", pa.string()), ("index", pa.int32()), ("score", pa.float32())])
        fields.append(pa.field(spec.top, pa.list_(guess)))
    return pa.schema(fields, metadata=dict(metadata or {}))


def schema_metadata(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Provenance as it stands in a schema: whole under `hierax`, and each entry by itself for a look with the eye."""
    each = {f"hierax.{key}": json.dumps(v) if isinstance(v, dict) else str(v) for key, v in provenance.items()}
    return {"hierax": json.dumps(dict(provenance)), **each}


@functools.cache
def reads_null_vectors() -> bool:
    """Whether this pyarrow reads back a fixed-size list that is null: up to 18 it writes none, up to 25 unreadably."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    try:
        pq.write_table(pa.table({"vector": pa.array([None], pa.list_(pa.float32(), 2))}), file)
        return parquet_table(parquet_file(file)).num_rows == 1
    except pa.ArrowException:
        return False


def write_table(table: pa.Table, place: Any) -> None:
    """Write a part: vectors as they are, for they hardly shrink and shall be read fast; the rest packed."""
    import pyarrow.parquet as pq

    options: dict[str, Any] = {"use_dictionary": ["error", "shard"]}  # its stub knows only the default, a bool
    packed = {name: "zstd" for name in table.column_names if name in SOURCE}
    if _packs():
        options["compression"] = {
            _leaf(table.schema.field(name)): packed.get(name, "none") for name in table.column_names
        }
    pq.write_table(table, place, **options)


@functools.cache
def _packs() -> bool:
    import pyarrow as pa

    return pa.Codec.is_available("zstd")


def _leaf(field: pa.Field) -> str:
    """The path by which Parquet knows a column's numbers."""
    return f"{field.name}.list.element" if field.name not in SOURCE else field.name
