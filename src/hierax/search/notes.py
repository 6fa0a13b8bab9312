"""What is known of the files behind rows, noted beside a store: size, time and, where it was asked for, content."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..atomic import atomic_file
from ..errors import writing
from ..parquet import parquet_file, parquet_table
from ..regular import open_regular
from ..store.layout import SEARCH

_FILES = "files.parquet"
_AT_ONCE = 1 << 20


class Note(NamedTuple):
    """A file as it was when it was embedded.

    Attributes:
        bytes: Its size.
        modified_ns: When it was changed last.
        digest: Of its content; None where nobody asked for it.
    """

    bytes: int
    modified_ns: int
    digest: bytes | None = None

    def is_of(self, other: Note) -> bool:
        """Whether size and time are those of another."""
        return self[:2] == other[:2]


def digest_of(file: str) -> bytes | None:
    """Of a file's whole content; None where it cannot be read."""
    found = hashlib.blake2b(digest_size=16)
    with contextlib.suppress(OSError, ValueError), open_regular(file) as stream:
        while block := stream.read(_AT_ONCE):
            found.update(block)
        return found.digest()
    return None


def read_notes(store: Path) -> dict[str, Note]:
    """By path; nothing where the notes are lost, which only costs time."""
    try:
        with open_regular(store / SEARCH / _FILES) as file:
            table = parquet_table(parquet_file(file))
        columns = [table[name].to_pylist() for name in ("path", "bytes", "modified_ns")]
        digests = table["digest"].to_pylist() if "digest" in table.column_names else [None] * len(table)
        paths = map(os.fsdecode, columns[0])
        return {path: Note(*rest) for path, *rest in zip(paths, *columns[1:], digests, strict=True)}
    except MemoryError:
        raise
    except Exception:  # damaged files raise almost anything
        return {}


def write_notes(store: Path, notes: Mapping[str, Note]) -> None:
    """Put notes in the place of those that are there.

    Raises:
        InputError: The system refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "path": pa.array([os.fsencode(path) for path in notes], pa.binary()),
        "bytes": pa.array([note.bytes for note in notes.values()], pa.int64()),
        "modified_ns": pa.array([note.modified_ns for note in notes.values()], pa.int64()),
        "digest": pa.array([note.digest for note in notes.values()], pa.binary()),
    }
    place = store / SEARCH / _FILES
    with writing(place):
        place.parent.mkdir(exist_ok=True)
        with atomic_file(place) as temporary, temporary.open("wb") as file:
            pq.write_table(pa.table(columns), file)
