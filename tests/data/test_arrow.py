"""Arrow's files and streams: every way of writing them reads the same, and what is too heavy is told before it unpacks."""

from __future__ import annotations

import contextlib
import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierax import arrow, parquet
from hierax.errors import InputError

pa = pytest.importorskip("pyarrow")

IMAGES = [b"a" * 5000, None, b"", b"b" * 300, b"c" * 70_000] * 30
WORDS = ["x", "y" * 2000, None, "z", "y" * 2000] * 30
STRUCT = [None if cell is None else {"bytes": cell, "path": "p"} for cell in IMAGES]
COLUMNS = {
    "plain": lambda: pa.array(IMAGES, pa.binary()),
    "large": lambda: pa.array(IMAGES, pa.large_binary()),
    "views": lambda: pa.array(IMAGES, pa.binary_view()),
    "struct": lambda: pa.array(STRUCT, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
}


def written(table: pa.Table, *, stream: bool, rows: int = 1000, **options: object) -> bytes:
    """An Arrow file or stream."""
    sink = io.BytesIO()
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def read(data: bytes, column: str = "image") -> list[object]:
    batches = arrow.arrow_batches(io.BytesIO(data), "t.arrow", lambda schema: column)
    return [cell for batch in batches for cell in batch.column(0).to_pylist()]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("kind", sorted(COLUMNS))
def test_every_way_of_writing__same_rows(kind, compression, stream):
    """A message looked for at a wrong place would refuse good files, or stop before their end."""
    made = COLUMNS[kind]()
    table = pa.table({"label": pa.array(WORDS).dictionary_encode(), "image": made, "n": range(len(IMAGES))})
    options = {"compression": compression, "emit_dictionary_deltas": stream}
    if compression is None:  # older programs knew none
        options |= {"use_legacy_format": True, "metadata_version": pa.ipc.MetadataVersion.V4}
    for rows in (1000, 7):
        assert read(written(table, stream=stream, rows=rows, **options)) == made.to_pylist()
    assert read(written(table.slice(0, 0), stream=stream, **options)) == []


def test_stream_without_its_end_mark():
    """A program that appends writes none until it ends."""
    data = written(pa.table({"image": IMAGES}), stream=True, rows=50)
    assert read(data[:-8]) == IMAGES


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_weight_is_what_batches_unpack_to(monkeypatch, compression, stream):
    """Told too light, a small file fills memory; too heavy, good ones are refused."""
    table = pa.table({"image": pa.array([b"a" * 4096] * 50, pa.large_binary())})  # 51 offsets, no nulls
    data = written(table, stream=stream, compression=compression)
    unpacked = 50 * 4096 + 51 * 8
    monkeypatch.setattr(parquet, "RATIO", 0)
    monkeypatch.setattr(parquet, "UNPACKED", unpacked)
    assert len(read(data)) == 50
    monkeypatch.setattr(parquet, "UNPACKED", unpacked - 1)
    with pytest.raises(InputError, match=rf"unpacks from .* to {unpacked:,} bytes"):
        read(data)


@pytest.mark.parametrize("stream", [False, True])
def test_dictionaries_are_weighed_together(monkeypatch, stream):
    """They stay until the file is closed: many that are light alone fill memory together."""
    first, second = (pa.array([letter * 4000] * 3 + ["c"]).dictionary_encode() for letter in "ab")
    unified = pa.chunked_array([first, second]).unify_dictionaries()
    column = pa.chunked_array([first, second]) if stream else unified
    data = written(pa.table({"image": [b"x"] * 8, "label": column}), stream=stream, compression="zstd")
    monkeypatch.setattr(parquet, "RATIO", 0)
    monkeypatch.setattr(parquet, "UNPACKED", 6000)
    with pytest.raises(InputError, match="batch of an Arrow table"):
        read(data)
    monkeypatch.setattr(parquet, "UNPACKED", 9000)
    assert len(read(data)) == 8


def test_one_picture_in_every_view__few_at_once():
    """Sixty-four copies of what each row holds would be made for every sixty-four rows."""
    from hierax.data.containers import _slices

    pytest.importorskip("pyarrow", minversion="20", reason="pyarrow before 20 makes no views of buffers")
    size = 9 << 20
    same = pa.py_buffer(struct.pack("<i4sii", size, b"xxxx", 0, 0) * 10)
    views = pa.Array.from_buffers(pa.binary_view(), 10, [None, same, pa.py_buffer(b"x" * size)])
    views.validate(full=True)
    assert [piece.num_rows for piece in _slices(pa.record_batch({"image": views}))] == [1] * 10


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes__an_error_or_rows(data):
    """A changed length must neither loop, nor ask for gigabytes, nor raise what callers do not expect."""
    whole = bytearray(written(pa.table({"image": IMAGES[:4]}), stream=data.draw(st.booleans()), compression="zstd"))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place : place + 4] = data.draw(st.binary(min_size=1, max_size=4))
    with contextlib.suppress(InputError, pa.ArrowException, struct.error, OSError, KeyError, ValueError):
        read(bytes(whole))
