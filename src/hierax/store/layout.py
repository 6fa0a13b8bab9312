"""What lies in a store, and which of it counts.

    _store.json            what every row was made by and how; written once
    _parts.jsonl           one line for every part that is committed, in order; only ever appended to
    part-00000000.parquet  rows; read as they are by anything that reads Parquet
    _vectors/              the vectors of good rows as .npy files that are mapped into memory; made when they are wanted
    _search/               an index, and what is known of the files behind the rows; made by search
    _lock, _writer.json    who is writing

A part counts once its line stands in `_parts.jsonl`: that line is the commit. Names begin with `_` so that readers of
whole folders pass over all that is no part. Decision note 0012 has the reasons and the costs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, brief
from ..regular import open_regular
from ..schema import MOST_BYTES, read_json

MANIFEST, PARTS, LOCK, WRITER = "_store.json", "_parts.jsonl", "_lock", "_writer.json"
VECTORS, SEARCH = "_vectors", "_search"
VERSION = 1
PART = re.compile(r"part-\d{8,}\.parquet")
DTYPES = ("float32", "float16")
SOURCE = ("id", "path", "path_bytes", "width", "height", "error", "shard", "offset")  # columns of every store
_MOST_LINES_BYTES = 1 << 30
_PARTIAL = re.compile(r"\.part-\d{8,}\.parquet\.\d+")
_COLUMN = re.compile(r"\w{1,100}", re.ASCII)
_LONGEST, _MOST_ROWS = 1 << 20, 1 << 40  # numbers of a vector; rows of a part
_ROWS_PER_BYTE = 16  # of a part at most: an id alone takes more than a byte, packed


@dataclass(frozen=True)
class Spec:
    """What all rows of a store have in common.

    Attributes:
        provenance: JSON-able; what made the vectors. Stands in every part's schema metadata under `hierax`.
        vectors: Length of each vector column.
        dtype: Of the vectors, one of `DTYPES`.
        top: Name of the column of classes, where there is one.
        shard: (number from 1, of how many) where this store has one share of the positions in a source.
        origin: Of the machine that wrote it: `folder` in which relative paths begin, file of `weights`.
    """

    provenance: Mapping[str, Any]
    vectors: Mapping[str, int]
    dtype: str = "float32"
    top: str | None = None
    shard: tuple[int, int] | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # As it is when it was written and read: tuples are lists.
        object.__setattr__(self, "provenance", json.loads(json.dumps(dict(self.provenance))))

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in order."""
        return [*SOURCE, *self.vectors, *([self.top] if self.top else [])]

    def differences(self, other: Spec) -> list[str]:
        """Words for what two specs differ in, where rows of both must not stand in one store."""
        pairs = [(key, self.provenance.get(key), other.provenance.get(key)) for key in IDENTITY]
        mine, theirs = self.to_dict(), other.to_dict()
        pairs += [(key, mine[key], theirs[key]) for key in ("vectors", "dtype", "top", "shard")]
        return [_difference(key, old, new) for key, old, new in pairs if old != new]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        found = asdict(self)
        return {**found, "shard": None if self.shard is None else list(self.shard)}


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):  # only what differs
        differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        old, new = ({name: each.get(name) for name in differing} for each in (old, new))
    return f"{key} {brief(old)} instead of {brief(new)}"


# Of the provenance, what makes vectors incomparable. The name of a model is no part of it: a file that was moved is the
# same weights.
IDENTITY = ("sha256", "preprocess", "pooling", "normalized", "precision")


@dataclass(frozen=True)
class Part:
    """One committed file.

    Attributes:
        part: Its name.
        rows: Good and bad ones.
        errors: The bad ones.
        bytes: Of the file.
        first: The lowest id.
        last: The highest id.
        next: Position in the source at which the run goes on.
        digest: Of all names in the source before `next`, in hexadecimal.
        replaces: The part that this one stands for, if any.
    """

    part: str
    rows: int
    errors: int
    bytes: int
    first: int
    last: int
    next: int = 0
    digest: str = ""
    replaces: str = ""


@dataclass
class Commits:
    """What `_parts.jsonl` says.

    Attributes:
        parts: Those that count, in order.
        next: Position in the source at which the run goes on.
        digest: Of all names before it.
        complete: Whether the source was gone through to its end.
        edited: Whether rows were removed or added since: positions in the source say nothing any more.
        length: Bytes of whole lines.
        numbers: How many parts were ever numbered.
    """

    parts: list[Part] = field(default_factory=list)
    next: int = 0
    digest: str = ""
    complete: bool = False
    edited: bool = False
    length: int = 0
    numbers: int = 0

    @property
    def rows(self) -> int:
        """Good and bad."""
        return sum(part.rows for part in self.parts)

    @property
    def errors(self) -> int:
        """Bad rows."""
        return sum(part.errors for part in self.parts)

    def take(self, line: Mapping[str, Any]) -> None:
        """Count one line.

        Raises:
            TypeError: It is none of ours.
            ValueError: It cannot be true.
        """
        if not isinstance(line, dict):
            raise TypeError("no line of a store")
        for part in [line] if "part" in line else line.get("round", []):
            self._take_part(Part(**part))
        if "complete" in line:
            self.complete, self.next, self.digest = True, line["complete"], line.get("digest", "")
            _check_place(self.next, self.digest)
        self.edited |= "round" in line

    def _take_part(self, part: Part) -> None:
        _check_part(part)
        if int(part.part[5:-8]) < self.numbers:
            raise ValueError(f"{part.part} comes again")
        if part.replaces:
            at = next(i for i, old in enumerate(self.parts) if old.part == part.replaces)
            self.parts[at : at + 1] = [part] if part.rows else []
        else:
            self.parts.append(part)
            self.next, self.digest = part.next, part.digest
        self.numbers = max(self.numbers, int(part.part[5:-8]) + 1)
        self.complete = False


def _check_part(part: Part) -> None:
    """Refuse what no writer says.

    Raises:
        TypeError: It is no part.
        ValueError: Its numbers cannot be true.
    """
    if not PART.fullmatch(part.part):
        raise TypeError("no name of a part")
    numbers = (part.rows, part.errors, part.bytes, part.first)
    if not all(map(_is_count, numbers)) or not isinstance(part.last, int):
        raise TypeError(f"numbers of {part.part}")
    if part.errors > part.rows or part.rows > _ROWS_PER_BYTE * part.bytes:
        raise ValueError(f"{part.rows:,} rows, of them {part.errors:,} bad, in {part.bytes:,} bytes of {part.part}")
    _check_place(part.next, part.digest)


def _check_place(next: Any, digest: Any) -> None:
    if not _is_count(next) or not isinstance(digest, str):
        raise TypeError(f"a place in the source, {brief(next)} behind {brief(digest)}")


def is_store(path: Path) -> bool:
    """Whether a folder is a store."""
    return (path / MANIFEST).is_file()


def read_spec(path: Path) -> Spec:
    """What a store's rows have in common.

    Raises:
        InputError: No store, a damaged one, or one of a later layout.
    """
    if not is_store(path):
        what = "does not exist" if not path.exists() else "is none" if path.is_dir() else "is a file"
        raise InputError(
            f"A store is a folder that `hierax embed SOURCE -o {path.name or 'OUT'}/` wrote; {str(path)!r} {what}."
        )
    try:
        found = read_json(path / MANIFEST, what=f"{MANIFEST} of {str(path)!r}")
        if not isinstance(found, dict) or found.get("version") != VERSION:
            version = found.get("version") if isinstance(found, dict) else found
            raise InputError(
                f"A store must be of layout {VERSION}; {str(path)!r} is of {brief(version)}. Use the version of hierax "
                "that wrote it, or a later one."
            )
        return _spec_of(found)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{MANIFEST} of the store {str(path)!r} is damaged: {error}. Embed again elsewhere."
        ) from error


def _spec_of(found: Mapping[str, Any]) -> Spec:
    """What a manifest says.

    Raises:
        ValueError: It cannot be true.
        KeyError: Something is missing.
        TypeError: As ValueError.
    """
    vectors, top, shard = dict(found["vectors"]), found["top"], found["shard"]
    origin = dict(found.get("origin", {}))
    for name in (*vectors, *([] if top is None else [top])):
        if not isinstance(name, str) or not _COLUMN.fullmatch(name) or name in SOURCE:
            raise ValueError(f"a column of vectors or classes cannot be called {brief(name)}")
    if top in vectors:
        raise ValueError(f"two columns are called {top!r}")
    for name, size in vectors.items():
        if not _is_count(size, _LONGEST) or not size:
            raise ValueError(f"vectors of {brief(size)} numbers in {name!r}")
    if found["dtype"] not in DTYPES:
        raise ValueError(f"numbers of {brief(found['dtype'])}")
    if shard is not None and not (len(shard) == 2 and all(_is_count(n) for n in shard) and 1 <= shard[0] <= shard[1]):
        raise ValueError(f"a share of {brief(shard)}")
    if not all(isinstance(value, str) for value in origin.values()):
        raise ValueError(f"an origin of {brief(origin)}")
    return Spec(dict(found["provenance"]), vectors, found["dtype"], top, shard and (shard[0], shard[1]), origin)


def _is_count(value: Any, most: int = _MOST_ROWS) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def read_commits(path: Path) -> Commits:
    """Which parts of a store count; a last line that was cut off by a crash does not.

    Raises:
        InputError: Damaged lines before the last, or a part that is missing or has another size than was committed.
    """
    while True:
        commits = _committed(path)
        try:
            _check_files(path, commits)
            return commits
        except InputError:
            if _committed(path).length == commits.length:  # else a writer has put others in their places just now
                raise


def _committed(path: Path) -> Commits:
    commits, lines = Commits(), _lines(path / PARTS)
    try:
        for line in lines:
            commits.take(json.loads(line))
            commits.length += len(line)
    except (ValueError, TypeError, StopIteration, RecursionError) as error:
        raise InputError(
            f"{PARTS} of the store {str(path)!r} is damaged at byte {commits.length}: {error}. Embed again elsewhere."
        ) from error
    return commits


def _lines(path: Path) -> Iterator[bytes]:
    """Whole lines of a file that only grows; none where there is no file."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _MOST_LINES_BYTES:
                raise InputError(f"{path} is larger than any that hierax writes.")
            while (line := file.readline(MOST_BYTES)).endswith(b"\n"):
                yield line
    except FileNotFoundError:
        return
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"A store must be readable; {str(path)!r}: {getattr(error, 'strerror', '') or error}."
        ) from error


def _check_files(path: Path, commits: Commits) -> None:
    try:
        with os.scandir(path) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries if PART.fullmatch(entry.name)}
    except OSError as error:
        raise InputError(f"A store must be readable; {str(path)!r}: {error.strerror or error}.") from error
    for part in commits.parts:
        size = sizes.get(part.part)
        if size != part.bytes:
            what = "is missing" if size is None else f"has {size:,} bytes instead of {part.bytes:,}"
            raise InputError(
                f"A store must have its parts as they were written; {part.part} of {str(path)!r} {what}. Put it back "
                "from a copy, or embed again elsewhere."
            )


def ours(name: str) -> bool:
    """Whether a name in a store's folder is one that hierax gives."""
    return name in (MANIFEST, PARTS, LOCK, WRITER, VECTORS, SEARCH) or bool(
        PART.fullmatch(name) or _PARTIAL.fullmatch(name)
    )


def partial(name: str) -> bool:
    """Whether a name is of a part that was being written."""
    return bool(_PARTIAL.fullmatch(name))
