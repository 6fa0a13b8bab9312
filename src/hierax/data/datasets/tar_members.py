"""The members of a plain tar, header by header; whatever a header claims, no more than a name is ever read.

The standard library's reader calls itself once for each extended header of a chain, and reads each of them whole.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
_MOST_EXTENDED = 8  # extended headers of one member: name, link, pax and global ones make four
_MOST_EXTENDED_BYTES = 1 << 20
_LONGEST_NAME = 4096
_MOST_MEMBERS = 10_000_000
_SPARSE_MORE, _SPARSE_MORE_AGAIN = 482, 504  # the bytes that say that another block of a sparse map follows
_RECORD = re.compile(rb"([0-9]{1,7}) ([^=\n]+)=")


class Member(NamedTuple):
    """Name, what it is ("file", "folder" or "other"), and where its bytes start and how many there are."""

    name: str
    kind: str
    offset: int
    size: int


def members(stream: BinaryIO, end: int) -> Iterator[Member]:
    """Every member of a tar of `end` bytes.

    Raises:
        tarfile.ReadError: After the last good member: it is truncated, damaged, or claims what no tar of samples has.
        OSError: It cannot be read.
    """
    at, count, changes = 0, 0, dict[bytes, bytes]()
    extended = 0
    while True:
        block = _block(stream, at)
        if not any(block):
            return
        header, at = _header(block), at + BLOCK
        if header.type in _EXTENDED:
            extended += 1
            if extended > _MOST_EXTENDED or header.size > _MOST_EXTENDED_BYTES:
                raise tarfile.ReadError(
                    f"{extended} extended headers before one member, the last of {header.size} bytes"
                )
            if header.type == tarfile.GNUTYPE_LONGNAME:
                changes[b"path"] = _content(stream, at, header.size).partition(b"\0")[0]
            elif header.type in _PAX:
                changes |= _records(_content(stream, at, header.size))
            at += _padded(header.size)
            continue
        if header.type == tarfile.GNUTYPE_SPARSE:
            at = _behind_sparse_map(stream, at, block)
        member = _member(header, at, changes)
        at += 0 if header.type in _WITHOUT_DATA else _padded(member.size)
        count, extended, changes = count + 1, 0, {}
        if count > _MOST_MEMBERS:
            raise tarfile.ReadError(f"more than {_MOST_MEMBERS:,} members")
        if member.offset + member.size > end and member.kind == "file":
            raise tarfile.ReadError(f"{_short(member.name)} is cut off")
        yield member


def _block(stream: BinaryIO, at: int) -> bytes:
    stream.seek(at)
    block = stream.read(BLOCK)
    if len(block) < BLOCK:
        raise tarfile.ReadError("it has no end marker, so samples may be missing")
    return block


def _header(block: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if header.size < 0:
        raise tarfile.ReadError(f"a member of {header.size} bytes")
    return header


def _member(header: tarfile.TarInfo, at: int, changes: dict[bytes, bytes]) -> Member:
    """A member with what extended headers say of it."""
    name, size = header.name, header.size
    if b"path" in changes:
        name = changes[b"path"].decode("utf-8", "surrogateescape")
    if b"size" in changes:
        if not re.fullmatch(rb"[0-9]{1,18}", changes[b"size"]):
            raise tarfile.ReadError(f"a member of {changes[b'size'][:20]!r} bytes")
        size = int(changes[b"size"])
    if len(name) > _LONGEST_NAME:
        raise tarfile.ReadError(f"a name of {len(name)} characters")
    sparse = any(key.startswith(b"GNU.sparse.") for key in changes)
    kind = "folder" if header.isdir() else "file" if header.type in _FILES and not sparse else "other"
    return Member(name, kind, at, size)


def _content(stream: BinaryIO, at: int, size: int) -> bytes:
    stream.seek(at)
    content = stream.read(size)
    if len(content) < size:
        raise tarfile.ReadError("an extended header is cut off")
    return content


def _records(content: bytes) -> dict[bytes, bytes]:
    """The pairs of a pax header, each LENGTH KEY=VALUE and the end of a line, with the length of all of it."""
    found, at = dict[bytes, bytes](), 0
    while at < len(content) and content[at]:
        match = _RECORD.match(content, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise tarfile.ReadError("a damaged extended header")
        found[match[2]] = content[match.end() : end - 1]
        at = end
    return found


def _behind_sparse_map(stream: BinaryIO, at: int, block: bytes) -> int:
    more = block[_SPARSE_MORE]
    while more:
        more, at = _block(stream, at)[_SPARSE_MORE_AGAIN], at + BLOCK
    return at


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _short(name: str) -> str:
    """The beginning of a name, fit for messages."""
    return repr(name[:100])
