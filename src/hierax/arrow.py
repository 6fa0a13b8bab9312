"""Arrow's files and streams: each batch is weighed before it is unpacked, and looked through before it is read.

pyarrow unpacks whole batches, whatever they say they hold, and follows the offsets in them blindly. The layout that is
read here is that of https://arrow.apache.org/docs/format/Columnar.html (serialization and interprocess communication).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import InputError
from .parquet import RATIO, UNPACKED, check_rows, is_heavy

if TYPE_CHECKING:
    import pyarrow as pa

_DICTIONARY, _BATCH = 2, 3  # the kinds of message that carry buffers
_BLOCK, _BUFFER, _TAIL = struct.Struct("<qi4xq"), struct.Struct("<qq"), struct.Struct("<i6s")
_CONTINUES = -1  # what a message begins with since Arrow 0.15
_NOT_PACKED = -1  # the length before a buffer that is kept as it is among packed ones
_EARLY_PACKED = b"ARROW:experimental_compression"  # how Arrow 0.17 said that buffers are packed


def arrow_batches(file: BinaryIO, name: str, choose: Callable[[pa.Schema], str]) -> Iterator[pa.RecordBatch]:
    """Batches of one column of an Arrow file or stream.

    Args:
        file: Open at its beginning; it can seek.
        name: What errors call it.
        choose: Names the column.

    Raises:
        InputError: A batch has more rows than a true table, or unpacks to far more than images do.
        pyarrow.ArrowException, struct.error: The file is damaged.
    """
    import pyarrow as pa

    scale = _Scale(file, name)
    options = pa.ipc.IpcReadOptions(use_threads=False)  # the reason is in parquet.py
    try:
        reader, batches = pa.ipc.open_file(file, options=options), _of_file
    except pa.ArrowInvalid:
        file.seek(0)
        reader, batches = pa.ipc.open_stream(file, options=options), _of_stream
    column = choose(reader.schema)
    for batch in batches(reader, scale):
        chosen = batch.select([column])
        chosen.validate(full=True)
        yield chosen


def _of_file(reader: Any, scale: _Scale) -> Iterator[pa.RecordBatch]:
    """In the order of the footer, which says where they lie."""
    length, _ = _TAIL.unpack(scale.read(scale.size - _TAIL.size, _TAIL.size))
    footer = _Flat.root(scale.read(scale.size - _TAIL.size - length, length))
    for place, *_ in footer.structures(2, _BLOCK):  # dictionaries: reading the first batch reads them all
        scale.weigh(place)
    for number, (place, *_) in enumerate(footer.structures(3, _BLOCK)):
        scale.weigh(place)
        yield reader.get_batch(number)


def _of_stream(reader: Any, scale: _Scale) -> Iterator[pa.RecordBatch]:
    """In the order in which they lie; reading one reads the dictionaries before it."""
    kind, place = scale.weigh(0)
    while place < scale.size:
        kind, place = scale.weigh(place)
        if kind == _BATCH:
            yield reader.read_next_batch()


class _Scale:
    """What the messages in a file would unpack to, told from the lengths in them."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._dictionaries = (0, 0)  # bytes packed and unpacked of all of them; they stay until the file is closed

    def read(self, place: int, count: int) -> bytes:
        """Some bytes, with the file left where it was; struct.error where they are not all there."""
        here = self._file.tell()
        try:
            if min(place, count) < 0 or place + count > self.size:
                raise struct.error("it names a place outside of itself")
            self._file.seek(place)
            return self._file.read(count)
        finally:
            self._file.seek(here)

    def weigh(self, place: int) -> tuple[int, int]:
        """Refuse the message at a place if it is too heavy.

        Returns:
            Its kind, 0 at the end of a stream, and where the next one begins.
        """
        start, length = place + 4, *struct.unpack("<i", self.read(place, 4))
        if length == _CONTINUES:
            start, length = place + 8, *struct.unpack("<i", self.read(place + 4, 4))
        if not length:
            return 0, self.size
        described = self.read(start, length)
        message, body = _Flat.root(described), start + length
        kind, size, header = message.number(1, "<B"), message.number(3, "<q"), message.table(2)
        self.read(body + size, 0)
        batch = header.table(1) if header and kind == _DICTIONARY else header
        if batch and kind in (_DICTIONARY, _BATCH):
            check_rows(batch.number(0, "<q"), self.size, self._name)
            if batch.table(3) or _EARLY_PACKED in described:
                self._check(kind, size, self._unpacked(batch, body))
        return kind, body + size

    def _unpacked(self, batch: _Flat, body: int) -> int:
        """Bytes of a packed batch's buffers once they are unpacked: each begins with its own number."""
        unpacked = 0
        for offset, size in batch.structures(2, _BUFFER):
            if size >= 8:
                length = struct.unpack("<q", self.read(body + offset, 8))[0]
                unpacked += size if length == _NOT_PACKED else max(length, 0)
        return unpacked

    def _check(self, kind: int, packed: int, unpacked: int) -> None:
        if kind == _DICTIONARY:
            packed, unpacked = (sum(pair) for pair in zip(self._dictionaries, (packed, unpacked), strict=True))
            self._dictionaries = packed, unpacked
        if is_heavy(packed, unpacked):
            raise InputError(
                f"A batch of an Arrow table may unpack to {UNPACKED >> 20} MiB, or to {RATIO} times what it takes in "
                f"the file; one of {self._name!r} unpacks from {packed:,} to {unpacked:,} bytes. Write it with fewer "
                "rows in a batch."
            )


class _Flat:
    """A table of a flatbuffer (https://flatbuffers.dev/internals/), its fields by their numbers."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - self._value("<i", place)  # where it says how far away each field is
        self._end = self._fields + self._value("<H", self._fields)

    @classmethod
    def root(cls, data: bytes) -> _Flat:
        """The outermost one."""
        return cls(data, *struct.unpack_from("<I", data))

    def _value(self, kind: str, place: int) -> int:
        if place < 0:
            raise struct.error("it names a place before its beginning")
        return struct.unpack_from(kind, self._data, place)[0]

    def _field(self, number: int) -> int | None:
        entry = self._fields + 4 + 2 * number
        distance = self._value("<H", entry) if entry < self._end else 0
        return self._place + distance if distance else None

    def number(self, number: int, kind: str) -> int:
        """A plain field; 0 where it is left out."""
        place = self._field(number)
        return 0 if place is None else self._value(kind, place)

    def table(self, number: int) -> _Flat | None:
        """A field that is a table itself."""
        place = self._field(number)
        return None if place is None else _Flat(self._data, place + self._value("<I", place))

    def structures(self, number: int, kind: struct.Struct) -> list[tuple[int, ...]]:
        """A field that is a row of structures."""
        place = self._field(number)
        if place is None:
            return []
        start = place + self._value("<I", place)
        end = start + 4 + self._value("<I", start) * kind.size
        if end > len(self._data):
            raise struct.error("a row of structures is longer than what holds it")
        return list(kind.iter_unpack(self._data[start + 4 : end]))
