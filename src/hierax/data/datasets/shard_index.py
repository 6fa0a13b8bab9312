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

_IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif")
_BLOCK = 512
_MAX_SIDECAR = 1_000_000
_WORTH_KEEPING = 4_000_000  # bytes of a tar; smaller ones are read again in no time
_VERSION = 2
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
    try:
        with tarfile.open(path, "r:"):
            return ""
    except _DAMAGE as error:
        return f"is no plain tar ({error})"


def scan(path: Path) -> ShardIndex:
    """Read every header of a tar."""
    samples: list[Sample] = []
    problems: list[tuple[str, str]] = []
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    with path.open("rb") as stream:
        for key, extension, place in _members(stream, path.name, path.stat().st_size, problems):
            if groups.setdefault(key, {}).setdefault(extension, place) is not place:
                problems.append((f"{path.name}/{key}", f"has two .{extension} members; the first is taken"))
        for key, members in groups.items():
            image = next((members[name] for name in _IMAGES if name in members), None)
            if image is None:
                problems.append((f"{path.name}/{key}", "has no image"))
            else:
                samples.append(Sample(key, _label(stream, members), *image))
    return samples, problems


def _members(
    stream: BinaryIO, shard: str, end: int, problems: list[tuple[str, str]]
) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Key, extension and place of each whole regular member; a shard that was cut is reported."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                stem, _, extension = file.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if not member.isreg() or member.issparse():
                    if not member.isdir():
                        problems.append((f"{shard}/{member.name}", "is no regular file"))
                elif member.offset_data + member.size > end:
                    problems.append((f"{shard}/{member.name}", "is cut off"))
                elif stem and extension:
                    yield key, extension.lower(), (member.offset_data, member.size)
            after = tar.offset
    except _DAMAGE as error:
        problems.append((shard, f"is truncated or damaged: {error}"))
        return
    # tarfile takes the end of the file for the end of the archive; only the end marker proves that nothing is missing.
    stream.seek(min(after, end))
    marker = stream.read(_BLOCK)
    if len(marker) < _BLOCK or any(marker):
        problems.append((shard, "is truncated: it has no end marker, so samples may be missing"))


def _label(stream: BinaryIO, members: dict[str, tuple[int, int]]) -> str:
    """The label of a sample, as text; empty where there is none."""
    offset, size = members.get("cls", members.get("json", (0, 0)))
    stream.seek(offset)
    content = stream.read(min(size, _MAX_SIDECAR))
    if "cls" in members:
        return content.decode("utf-8", "replace").strip()
    try:
        data = json.loads(content)
    except ValueError:  # empty too: neither member is there
        return ""
    value = next((data[key] for key in ("label", "cls", "class") if key in data), "") if isinstance(data, dict) else ""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _read(kept: Path, identity: dict[str, Any]) -> ShardIndex | None:
    """A kept index; None if there is none, it is of another tar or another state of it, or it is damaged."""
    try:
        with gzip.open(kept, "rt", encoding="utf-8") as stream:
            data = json.load(stream)
        samples = [Sample(*row) for row in data["samples"]]
        problems = [(str(name), str(reason)) for name, reason in data["problems"]]
        inside = all(min(s.offset, s.size) >= 0 and s.offset + s.size <= identity["size"] for s in samples)
        return (samples, problems) if inside and identity.items() <= data.items() else None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return None
