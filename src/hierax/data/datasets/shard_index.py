"""What a tar of samples holds and where, found by one pass over its headers and kept for the next run.

Nothing is executed or written by a member's name. A tar that was cut, even between two members, is reported.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ...atomic import atomic_file
from ...net.cache import cache_root, short_hash
from .tar_members import BLOCK, members

_IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif")
_MAX_SIDECAR = 1_000_000
_MOST_IMAGE_BYTES = 1 << 30
_LONGEST_LABEL = 1000
_MOST_PROBLEMS = 1000
_WORTH_KEEPING = 4_000_000  # bytes of a tar; smaller ones are read again in no time
_VERSION = 3
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, EOFError)  # the latter for hostile numbers


class Sample(NamedTuple):
    """Key, label as text (empty where there is none), and where the image starts and how long it is."""

    key: str
    label: str
    offset: int
    size: int


ShardIndex = tuple[list[Sample], list[tuple[str, str]]]  # and what is wrong, as (name, reason)


def index_of(path: Path) -> ShardIndex:
    """The samples of a tar and what is wrong with it, from the cache if the tar is the same as then.

    Raises:
        OSError: The tar cannot be read.
    """
    status, place = path.stat(), str(path.resolve())
    if status.st_size < _WORTH_KEEPING:
        return scan(path)
    identity = {"version": _VERSION, "path": place, "size": status.st_size, "mtime": status.st_mtime_ns}
    kept = cache_root() / "shard-index" / f"{short_hash(place, 24)}.json.gz"
    found = _read(kept, identity)
    if found is not None:
        return found
    found = scan(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs no more than the time
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as partial, gzip.open(partial, "wt", encoding="utf-8", compresslevel=1) as stream:
            json.dump({**identity, "samples": found[0], "problems": found[1]}, stream)
    return found


def not_a_tar(path: Path) -> str:
    """Why a file cannot be a plain tar, by its first header; empty if it may be one."""
    with path.open("rb") as stream:
        block = stream.read(BLOCK)
    try:
        if any(block) or len(block) < BLOCK:
            tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except _DAMAGE as error:
        return f"is no plain tar ({error})"
    return ""


def scan(path: Path) -> ShardIndex:
    """Read every header of a tar."""
    samples: list[Sample] = []
    problems = _Problems()
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    with path.open("rb") as stream:
        for key, extension, place in _members(stream, path.name, path.stat().st_size, problems):
            if groups.setdefault(key, {}).setdefault(extension, place) is not place:
                problems.add(f"{path.name}/{key}", f"has two .{extension[:20]} members; the first is taken")
        for key, members in groups.items():
            images = _images(key, members)
            if not images:
                problems.add(f"{path.name}/{key}", "has no image")
            for name, image in images:
                if image[1] > _MOST_IMAGE_BYTES:
                    problems.add(
                        f"{path.name}/{name}", f"is an image of {image[1]} bytes; {_MOST_IMAGE_BYTES} are allowed"
                    )
                else:
                    samples.append(Sample(name, _label(stream, members), *image))
    return samples, problems.all(path.name)


def _images(key: str, members: dict[str, tuple[int, int]]) -> list[tuple[str, tuple[int, int]]]:
    """The image of a sample; where names hold more dots, as in "IMG.001.jpg", each image is one by itself."""
    plain = next((members[name] for name in _IMAGES if name in members), None)
    if plain is not None:
        return [(key, plain)]
    split = ((name.rpartition("."), place) for name, place in members.items())
    return [(f"{key}.{stem}", place) for (stem, _, kind), place in split if kind in _IMAGES]


class _Problems:
    """What is wrong with a shard: the first of it one by one, the rest as a number."""

    def __init__(self) -> None:
        self._first: list[tuple[str, str]] = []
        self._more = 0

    def add(self, name: str, reason: str) -> None:
        if len(self._first) < _MOST_PROBLEMS:
            self._first.append((name, reason))
        else:
            self._more += 1

    def all(self, shard: str) -> list[tuple[str, str]]:
        return [*self._first, *([(shard, f"has {self._more} more problems of this kind")] if self._more else [])]


def _members(stream: BinaryIO, shard: str, end: int, problems: _Problems) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Key, extension and place of each whole regular member; a shard that was cut is reported."""
    try:
        for name, kind, offset, size in members(stream, end):
            folder, _, file = name.rpartition("/")
            stem, _, extension = file.partition(".")
            if kind == "other":
                problems.add(f"{shard}/{name}", "is no regular file")
            elif kind == "file" and stem and extension:
                yield f"{folder}/{stem}" if folder else stem, extension.lower(), (offset, size)
    except _DAMAGE as error:
        problems.add(shard, f"is truncated or damaged: {error}")


def _label(stream: BinaryIO, members: dict[str, tuple[int, int]]) -> str:
    """The label of a sample, as text; empty where there is none."""
    offset, size = members.get("cls", members.get("json", (0, 0)))
    stream.seek(offset)
    content = stream.read(min(size, _MAX_SIDECAR))
    if "cls" in members:
        return _short(content.decode("utf-8", "replace").strip())
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):  # empty too: neither member is there
        return ""
    value = next((data[key] for key in ("label", "cls", "class") if key in data), "") if isinstance(data, dict) else ""
    return _short(str(value)) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _short(label: str) -> str:
    """A label, unless it is a text that names no class."""
    return label if len(label) <= _LONGEST_LABEL else ""


def _read(kept: Path, identity: dict[str, Any]) -> ShardIndex | None:
    """A kept index; None if there is none, it is of another tar or another state of it, or it is damaged."""
    try:
        with gzip.open(kept, "rt", encoding="utf-8") as stream:
            data = json.load(stream)
        samples = [Sample(*row) for row in data["samples"]]
        problems = [(str(name), str(reason)) for name, reason in data["problems"]]
        inside = all(min(s.offset, s.size) >= 0 and s.offset + s.size <= identity["size"] for s in samples)
        return (samples, problems) if inside and identity.items() <= data.items() else None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error):
        return None
