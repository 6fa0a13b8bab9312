"""How large the pictures inside an AVIF are, which its declared size does not say, before a decoder believes it.

A file of 64 x 64 pixels may show a corner of one coded picture of 16384 x 16384, or a grid of such; and the decoder
takes the square of the number of items to list them.

Source: ISO/IEC 14496-12 and 23008-12 (boxes), the AV1 bitstream specification (5.3 to 5.5).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import IO

from ..errors import InputError

_MAX_ITEMS = 4096  # tiles, exif, thumbnails; a photograph of a phone has fifty
_MAX_META_BYTES = 4 << 20
_MAX_UNITS = 16  # of the bitstream of one tile, which has three
_SEQUENCE_HEADER = 1


class _Unknown(Exception):
    """The file is built in a way that is not followed here."""


def coded_pixels(file: IO[bytes], name: str) -> int | None:
    """Pixels of the largest coded picture of a still AVIF; 0 for what is no AVIF, None where it cannot be told.

    The file is left where it was.

    Raises:
        InputError: Too many items, or too much about them.
    """
    position = file.tell()
    try:
        file.seek(0)
        if file.read(12)[4:8] != b"ftyp":
            return 0
        return max(_picture(file, start, end) for start, end in _items(file, name))
    except InputError:
        raise
    except (_Unknown, struct.error, ValueError):
        return None
    finally:
        file.seek(position)


def _boxes(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the content of each box."""
    while start < end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        begin = start + 8
        if size == 1:
            (size,), begin = struct.unpack(">Q", file.read(8)), start + 16
        start = start + size if size else end
        if not begin <= start <= end:
            raise _Unknown
        yield kind, begin, start


def _items(file: IO[bytes], name: str) -> list[tuple[int, int]]:
    """Where the bytes of every item lie."""
    top = {kind: (begin, end) for kind, begin, end in _boxes(file, 0, file.seek(0, io.SEEK_END))}
    begin, end = top.get(b"meta", (0, 0))
    if end - begin > _MAX_META_BYTES:
        raise InputError(f"An AVIF may say at most {_MAX_META_BYTES >> 20} MiB of its items; {name} says more.")
    if b"moov" in top or not begin:
        raise _Unknown
    inside = {kind: (start, stop) for kind, start, stop in _boxes(file, begin + 4, end)}
    if b"iloc" not in inside:
        raise _Unknown
    start, stop = inside[b"iloc"]
    file.seek(start)
    table = io.BytesIO(file.read(stop - start))
    version, sizes, more = struct.unpack(">B3xBB", table.read(6))
    widths = sizes >> 4, sizes & 15, more >> 4, more & 15 if version else 0  # offset, length, base, index
    number = ">I" if version == 2 else ">H"
    (count,) = struct.unpack(number, table.read(struct.calcsize(number)))
    if count > _MAX_ITEMS:
        raise InputError(f"An AVIF may have at most {_MAX_ITEMS} items; {name} has {count}. Save it in larger tiles.")
    found = []
    for _ in range(count):
        table.read(struct.calcsize(number))
        method = struct.unpack(">H", table.read(2))[0] & 15 if version else 0
        base = int.from_bytes(table.read(2 + widths[2])[2:], "big")
        (extents,) = struct.unpack(">H", table.read(2))
        if extents != 1 or method > 1:
            raise _Unknown
        table.read(widths[3])
        at, length = (int.from_bytes(table.read(width), "big") for width in widths[:2])
        first = base + at + (inside.get(b"idat", (0, 0))[0] if method else 0)
        found.append((first, first + length))
    return found


def _picture(file: IO[bytes], start: int, end: int) -> int:
    """Pixels of the largest picture that the bitstream of an item announces; 0 for an item of another kind."""
    pixels = 0
    for _ in range(_MAX_UNITS):
        if start >= end:
            return pixels
        file.seek(start)
        head = file.read(64)
        if not head or head[0] & 0x81 or not head[0] & 2:  # no unit of AV1, or one without its size
            return pixels
        after = 2 if head[0] & 4 else 1
        size, length = _leb128(head[after:])
        if head[0] >> 3 == _SEQUENCE_HEADER:
            pixels = max(pixels, _announced(head[after + length :]))
        start += after + length + size
    raise _Unknown


def _leb128(data: bytes) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[:8]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, index + 1
    raise _Unknown


def _announced(data: bytes) -> int:
    """Width times height of a sequence header."""
    bits = "".join(f"{byte:08b}" for byte in data)
    position = 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    take(4)  # profile, still picture
    if take(1):  # a reduced header: one level
        take(5)
    else:
        if take(1):  # timing
            raise _Unknown
        delays = take(1)
        for _ in range(take(5) + 1):
            take(12)
            if take(5) > 7:
                take(1)
            if delays and take(1):
                take(4)
    width, height = take(4) + 1, take(4) + 1
    return (take(width) + 1) * (take(height) + 1)
