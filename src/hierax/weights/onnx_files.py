"""What an ONNX file says about itself, read without any package: its top-level fields, none of its graph."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

# Fields of ModelProto, and of the pairs in its metadata (onnx.proto3).
_IR_VERSION, _PRODUCER, _GRAPH, _OPSETS, _METADATA = 1, 2, 7, 8, 14
_KEY, _VALUE = 1, 2
_NUMBER, _BYTES = 0, 2  # kinds of field; ModelProto has no others
_MOST_FIELDS, _MOST_BYTES = 10_000, 8 << 20
_NEWEST_IR = 64


def looks_like_onnx(head: bytes) -> bool:
    """Whether a file of these first bytes is an ONNX model: the version of its format, and then a known field."""
    known = {_PRODUCER, 3, 4, 5, 6, _GRAPH, _OPSETS, _METADATA}
    return len(head) > 2 and head[0] == _IR_VERSION << 3 and head[1] <= _NEWEST_IR and head[2] >> 3 in known


def read_metadata(stream: BinaryIO) -> dict[str, str] | None:
    """The `metadata_props` of an ONNX file; None where the file is damaged or none."""
    size = os.fstat(stream.fileno()).st_size
    found: dict[str, str] = {}
    read = 0
    try:
        for number, start, length in _fields(stream, 0, size):
            if number == _METADATA:
                read += length
                if read > _MOST_BYTES:
                    return None
                pair = {which: _bytes(stream, at, count) for which, at, count in _fields(stream, start, start + length)}
                found[pair.get(_KEY, b"").decode()] = pair.get(_VALUE, b"").decode()
    except (ValueError, UnicodeDecodeError):
        return None
    return found


def _fields(stream: BinaryIO, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and length of each field of bytes; numbers are passed over.

    Raises:
        ValueError: No message of such fields.
    """
    for _ in range(_MOST_FIELDS):
        if start == stop:
            return
        tag, start = _number(stream, start)
        kind, length = tag & 7, 0
        value, start = _number(stream, start)
        if kind == _BYTES:
            length = value
            yield tag >> 3, start, length
        elif kind != _NUMBER:
            raise ValueError("unknown kind of field")
        start += length
        if start > stop:
            raise ValueError("a field beyond the end")
    raise ValueError("too many fields")


def _number(stream: BinaryIO, at: int) -> tuple[int, int]:
    """A variable-length number, and where it ends."""
    stream.seek(at)
    value = 0
    for index, byte in enumerate(stream.read(10)):
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, at + index + 1
    raise ValueError("a number without an end")


def _bytes(stream: BinaryIO, at: int, count: int) -> bytes:
    stream.seek(at)
    return stream.read(count)
