"""Bytes of a file as tensors in memory of their own.

Nothing stays mapped: a file that is overwritten or cut short later cannot change, or crash, what was read from it.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..regular import NotRegularError, open_regular

MAX_FILE_BYTES = 16 << 30  # the largest member with its optimizer and an average is 11 GB
_SPARSE = 256 << 20  # a larger file must lie on the disk, to an eighth at least: holes are read as zeros
_CHUNK = 1 << 20  # what a checksum is taken of while it is still in the processor's cache


class Damaged(CheckpointError):
    """What a file has that it should not, as a phrase: whoever knows its name says the rest."""


@contextmanager
def regular(path: Path) -> Iterator[BinaryIO]:
    """An open file that is no pipe, socket or device, and not so large (and perhaps empty) that memory would run out.

    Raises:
        CheckpointError: It is.
        OSError: It cannot be opened.
    """
    try:
        stream = open_regular(path)
    except NotRegularError as error:
        raise CheckpointError(f"A checkpoint must be a regular file; {path} {error.strerror}.") from error
    with stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise CheckpointError(f"A checkpoint has at most {MAX_FILE_BYTES} bytes; {path} has {size}.")
        if size > _SPARSE and (held := _held(stream.fileno(), size // 8)) < size // 8:
            raise CheckpointError(
                f"A checkpoint must hold its weights; of the {size} bytes of {path}, {held} are on the disk and the "
                "others were never written. Download it again."
            )
        yield stream


def _held(descriptor: int, enough: int) -> int:
    """Bytes of an open file that lie on the disk, counted up to `enough`; where the system does not tell, `enough`."""
    held = position = 0
    try:
        while held < enough:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            position = os.lseek(descriptor, start, os.SEEK_HOLE)
            held += position - start
        return held
    except AttributeError:
        return enough
    except OSError as error:
        return held if error.errno == errno.ENXIO else enough  # behind the last
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)


def copied(stream: BinaryIO, start: int, count: int, crc: int | None = None) -> Tensor:
    """Bytes of the file in new memory.

    Args:
        stream: The file.
        start: Where they begin.
        count: How many.
        crc: Their CRC-32, where the file has one.

    Raises:
        Damaged: The file ends before, or they are not those of the checksum.
    """
    try:
        buffer = torch.empty(count, dtype=torch.uint8)
    except RuntimeError as error:  # torch's word for no memory
        raise Damaged(f"{count} bytes in a row, for which there is no memory") from error
    memory, found = buffer.numpy().data, 0
    for position in range(0, count, _CHUNK):
        part = memory[position : position + _CHUNK]
        _fill(stream, start + position, part)
        found = found if crc is None else zlib.crc32(part, found)
    _agree(start, count, found, crc)
    return buffer


def check(stream: BinaryIO, start: int, count: int, crc: int) -> None:
    """Compare bytes of the file that nobody wants with their CRC-32.

    Raises:
        Damaged: As `copied`.
    """
    chunk, found = memoryview(bytearray(min(_CHUNK, count))), 0
    for position in range(start, start + count, _CHUNK):
        part = chunk[: start + count - position]
        _fill(stream, position, part)
        found = zlib.crc32(part, found)
    _agree(start, count, found, crc)


def _fill(stream: BinaryIO, position: int, memory: memoryview) -> None:
    stream.seek(position)
    if stream.readinto(memory) != len(memory):  # type: ignore[attr-defined]
        raise Damaged("fewer bytes than it says")


def _agree(start: int, count: int, found: int, crc: int | None) -> None:
    if crc is not None and found != crc:
        raise Damaged(f"other bytes from {start} to {start + count} than their checksum was taken of")
