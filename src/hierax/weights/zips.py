"""The directory of a zip archive as torch.save writes it: uncompressed records in a row, one directory, its end.

Everything in the file is accounted for. The directory ends where its end record stands, so that there is no second
one; the records follow each other from the first byte to the directory; and what each says of itself there agrees. What
is read afterwards is read from the places that were checked here: no other parser opens the file.

Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (4.3.7 to 4.3.16).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from .private import Damaged

MAX_RECORDS = 40_000
MAX_DIRECTORY_BYTES = 8_000_000
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_ENCRYPTED, _DESCRIPTOR = 0x0001, 0x0008  # flags; with the second, size and checksum follow the record


@dataclass(frozen=True, slots=True)
class Record:
    """Where the bytes of one record lie, and their CRC-32."""

    name: str
    start: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the directory says of a record; `at` is where its local header stands."""

    name: bytes
    flags: int
    at: int
    size: int
    crc: int


def records(stream: BinaryIO) -> dict[str, Record]:
    """Every record of the archive by name, in the order in which they lie.

    Raises:
        Damaged: Not whole, or not as torch.save writes it.
    """
    size = stream.seek(0, os.SEEK_END)
    start, end, count = _directory(stream, size)
    entries = _entries(_read(stream, start, end - start), count)
    if sum(entry.size for entry in entries) > size:
        _refuse(f"{count} records of more bytes than it has")
    found: dict[str, Record] = {}
    position = 0
    for entry in sorted(entries, key=lambda entry: entry.at):
        record, position = _located(stream, entry, position, start)
        if record.name in found:
            _refuse(f"two records named {record.name[:80]!r}")
        found[record.name] = record
    return found if position == start else _refuse("bytes between its records and its directory")


def _refuse(why: str) -> NoReturn:
    raise Damaged(why)


def _read(stream: BinaryIO, start: int, count: int) -> bytes:
    stream.seek(start)
    data = stream.read(count)
    return data if len(data) == count else _refuse("fewer bytes than it says")


def _directory(stream: BinaryIO, size: int) -> tuple[int, int, int]:
    """Start, end and number of entries of the directory, from the end record, which must be the file's last bytes."""
    end = size - _END.size
    if end < 0:
        _refuse("fewer bytes than it says")
    mark, disk, first, here, count, length, start, comment = _END.unpack(_read(stream, end, _END.size))
    if mark != b"PK\x05\x06" or comment:
        _refuse("no end where its bytes end")
    locator = end - _LOCATOR.size
    if locator >= 0 and stream.seek(locator) == locator and stream.read(4) == b"PK\x06\x07":
        _, disk, at, _ = _LOCATOR.unpack(_read(stream, locator, _LOCATOR.size))
        small = (here, count, length, start)
        end = locator - _END64.size
        if at != end or end < 0:
            _refuse("an end record that is elsewhere than it says")
        mark, _, _, _, disk64, first, here, count, length, start = _END64.unpack(_read(stream, end, _END64.size))
        large = zip((0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), small, (here, count, length, start), strict=True)
        if mark != b"PK\x06\x06" or disk64 or any(old not in (most, new) for most, old, new in large):
            _refuse("two end records that disagree")
    if disk or first or here != count or start + length != end:
        _refuse("a directory that does not end where it says")
    if count > MAX_RECORDS or length > MAX_DIRECTORY_BYTES:
        _refuse(f"{count} records of more bytes than it has, or than any checkpoint has")
    return start, end, count


def _entries(directory: bytes, count: int) -> list[_Entry]:
    found = []
    position = 0
    for _ in range(count):
        if position + _ENTRY.size > len(directory):
            _refuse("a directory cut short")
        values = _ENTRY.unpack_from(directory, position)
        mark, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, disk, _, _, at = values
        position += _ENTRY.size
        tail = directory[position : position + name + extra + comment]
        position += name + extra + comment
        if mark != b"PK\x01\x02" or disk or flags & _ENCRYPTED:
            _refuse("a damaged or encrypted record")
        if method:
            _refuse("compressed records, which torch.save never writes")
        size, packed, at = _widened((size, packed, at), tail[name : name + extra])
        if packed != size:
            _refuse("a record of two sizes")
        found.append(_Entry(tail[:name], flags, at, size, crc))
    return found if position == len(directory) else _refuse("a directory with other bytes in it")


def _widened(values: tuple[int, ...], extra: bytes) -> tuple[int, ...]:
    """The sizes and offset of an entry; those that are too large for it stand in its zip64 field, in this order."""
    wide: list[int] = []
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide = [number for (number,) in struct.iter_unpack("<Q", extra[4 : 4 + length // 8 * 8])]
        extra = extra[4 + length :]
    needed = sum(value == 0xFFFFFFFF for value in values)
    if len(wide) < needed:
        _refuse("a record without a size")
    rest = iter(wide)
    return tuple(next(rest) if value == 0xFFFFFFFF else value for value in values)


def _located(stream: BinaryIO, entry: _Entry, position: int, limit: int) -> tuple[Record, int]:
    """The record behind a local header that stands at `position` and agrees with the directory, and where it ends."""
    start = entry.at + _LOCAL.size
    if entry.at != position or start > limit:
        _refuse("records that overlap, or bytes between them")
    mark, _, flags, method, _, _, crc, packed, size, name, extra = _LOCAL.unpack(_read(stream, entry.at, _LOCAL.size))
    if mark != b"PK\x03\x04" or flags != entry.flags or method or _read(stream, start, name) != entry.name:
        _refuse("a record that the directory names otherwise")
    after = flags & _DESCRIPTOR
    if not after and (crc != entry.crc or any(value not in (entry.size, 0xFFFFFFFF) for value in (packed, size))):
        _refuse("a record that the directory measures otherwise")
    start += name + extra
    end = start + entry.size
    if end > limit:
        _refuse("records of more bytes than it has")
    if after:
        end += _descriptor(stream, entry, end)
    try:
        return Record(entry.name.decode("utf-8"), start, entry.size, entry.crc), end
    except UnicodeDecodeError:
        _refuse("a record with a name that is no UTF-8")


def _descriptor(stream: BinaryIO, entry: _Entry, end: int) -> int:
    """Length of the checksum and sizes behind a record, which are 32 or 64 bits wide."""
    stream.seek(end)
    data = stream.read(24)
    for form in ("<4s3I", "<4sI2Q"):
        length = struct.calcsize(form)
        fits = len(data) >= length and entry.size < (1 << 32 if form.endswith("I") else 1 << 64)
        if fits and data[:length] == struct.pack(form, b"PK\x07\x08", entry.crc, entry.size, entry.size):
            return length
    _refuse("a record without its checksum")
