"""One input of many: where it is, what it is called, and its bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass

from ..errors import InputError
from ..net.address import is_address
from . import remote
from .files import name_bytes, name_text, open_regular

_MOST_BYTES = 1 << 30  # that are read at once; of a larger file the decoder reads what it needs


@dataclass(frozen=True, slots=True)
class Item:
    """One input.

    Attributes:
        name: The path, as it was found; of what lies in another file, that one's and its own.
        place: What to open; empty where the bytes are here.
        id: Position in the source, from 0.
        digest: Of all names up to this one.
        shard: The file that it lies in with others, where it does.
        offset: Where in that: the byte in a tar, the row in a table.
        size: Of what lies at a byte of a tar.
        data: The bytes, where they had to be read to find it.
        error: Why it cannot be read, where that is known already.
    """

    name: str
    place: str = ""
    id: int = 0
    digest: bytes = b""
    shard: str | None = None
    offset: int | None = None
    size: int | None = None
    data: bytes | None = None
    error: str | None = None

    @property
    def weight(self) -> int:
        """How many bytes are here."""
        return len(self.data or b"")

    def without_bytes(self) -> Item:
        """The same, of which nothing is here."""
        return self if self.data is None else dataclasses.replace(self, data=None)


def content(item: Item) -> bytes | str:
    """The bytes of an input, or the path of a file that is too large to be an image.

    Raises:
        InputError: It cannot be read; says why.
    """
    if item.error is not None:
        raise InputError(item.error)
    if item.data is not None:
        return item.data
    if is_address(item.place) and not is_there(item.place):
        return remote.read(item.place)
    try:
        with open_regular(item.place) as file:
            if item.size is not None:
                file.seek(item.offset or 0)
                found = file.read(item.size)
                if len(found) < item.size:
                    raise InputError(f"A shard must stay as it is while it is read; {item.shard!r} became shorter.")
                return found
            return item.place if os.fstat(file.fileno()).st_size > _MOST_BYTES else file.read()
    except OSError as error:
        raise InputError(f"An input must be readable; {item.name!r}: {error.strerror or error}.") from error


def digest_after(digest: bytes, name: str) -> bytes:
    """The digest of a sequence of names that is one longer."""
    return hashlib.blake2b(digest + name_bytes(name), digest_size=16).digest()


def is_there(place: str) -> bool:
    """Whether a local path leads to anything."""
    try:
        return os.path.lexists(place)
    except ValueError:
        return False


def texts_of(item: Item) -> tuple[str, bytes | None]:
    """The name as text, and byte for byte where that is not it."""
    text, exact = name_text(item.name), name_bytes(item.name)
    return text, None if text.encode("utf-8", "replace") == exact else exact
