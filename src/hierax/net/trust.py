"""Trust on first use: of most files nobody published a hash, so what a place gave first is what it must give again.

One small JSON file a place in the cache, which outlives the file itself; and all that is known of a file's bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..atomic import atomic_file
from ..console import say
from ..errors import IntegrityError
from .address import shown
from .cache import (
    Published,
    below_cache,
    cache_root,
    distrust,
    forget,
    is_sha256,
    noted_hash,
    offline,
    sha256_of,
    short_hash,
    verified_hash,
    way_online,
)

_RECORD_BYTES = 1 << 14


@dataclass(frozen=True)
class First:
    """The first download of a file on this machine."""

    sha256: str
    size: int
    date: str


def first_use(place: str) -> First | None:
    """What a place gave first; None where nothing is recorded."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        with record_of(place).open("rb") as stream:
            held = json.loads(stream.read(_RECORD_BYTES))
        first = First(str(held["sha256"]), int(held["size"]), str(held["date"])[:10])
        return first if is_sha256(first.sha256) else None
    return None


def record_of(place: str) -> Path:
    """Where it is recorded."""
    return cache_root() / "first-use" / f"{short_hash(place)}.json"


def remember(published: Published, path: Path, *, name: str) -> None:
    """Record a file whose place gives it for the first time; nothing where no place is given, or it is known.

    Raises:
        OSError: The file cannot be read.
    """
    place = published.place
    if not place or first_use(place) is not None:
        return
    first = First(verified_hash(path), path.stat().st_size, time.strftime("%Y-%m-%d"))
    record = record_of(place)
    with contextlib.suppress(OSError):  # a cache that takes no notes still serves
        record.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(record) as partial:
            partial.write_text(json.dumps({"place": shown(place), **dataclasses.asdict(first)}), "utf-8")
        if not published.wanted:
            say(
                f"nobody published a hash of {name}; that of this first download is recorded ({first.sha256[:12]}...), "
                "and later ones must have it."
            )


def trusted(published: Published) -> Published:
    """What is known of a file, its first download included."""
    first = first_use(published.place) if published.place and not published.wanted else None
    return published if first is None else dataclasses.replace(published, wanted=(first.sha256,), since=first.date)


def changed(name: str, published: Published, digest: str) -> IntegrityError:
    """The error for a place that gives another file than it gave first."""
    return IntegrityError(
        f"{name} must have sha256 {published.wanted[0]}, as at its first download here on {published.since}; got "
        f"{digest}. The file at the origin was changed, or something on the way alters it. Compare with a person who "
        f"has it; to take the new one, delete {record_of(published.place)} and download it again."
    )


def verified(place: str, obtain: Callable[[bool], tuple[Path, Published]]) -> Path:
    """A file with its published bytes; a wrong one is deleted and obtained once more.

    Args:
        place: What to call it.
        obtain: Gives the file and what is known of it; called with whether what the cache holds is of no use.

    Raises:
        IntegrityError: Wrong bytes, twice.
        OSError: The file cannot be read or deleted.
    """
    for again in (False, True):
        path, published = obtain(again)
        if not published.wanted or published.matches(path):
            remember(published, path, name=place)
            return path
        digest = verified_hash(path)
        forget(path)
        say(f"{place} has not the published bytes (sha256 {digest[:12]}...); deleted.")
        if offline():
            break
    if published.since and not offline():
        raise changed(place, published, digest)
    remedy = (
        f"The cached file was corrupted. {way_online()[1]} once to download it again."
        if offline()
        else "The file at the origin was changed or something on the way alters it. Try another network, a mirror "
        "through HIERAX_CATALOG, or revision= given explicitly, which accepts what a hub repository holds now."
    )
    raise IntegrityError(f"{place} must have sha256 {published.wanted[0]}; got {digest}. {remedy}")


def proof(path: Path, published: str | None, name: str) -> str:
    """Hash a file in full and compare it with all that is known of it.

    Args:
        path: The file.
        published: Hash in the catalogue; a local file that has another one is merely not that file.
        name: What the catalogue calls it.

    Returns:
        The hash, and who says that it is right.

    Raises:
        IntegrityError: A downloaded file that was changed since.
        OSError: It cannot be read.
    """
    digest, content = sha256_of(path), path.resolve()
    inside = below_cache(content)
    tag = content.name if inside and content.parent.name == "blobs" and is_sha256(content.name) else ""
    noted = noted_hash(path) if inside else ""
    for known, origin in ((tag, "the hub's own hash"), (noted, "that of its download")):
        if known and known != digest:
            distrust(path)
            raise IntegrityError(
                f"{path} must have sha256 {known}, {origin}; it has {digest}: the copy in the cache was changed since "
                "then. The next download or load by its name fetches it anew."
            )
    if digest == published:
        return f"sha256 {digest} (the published {name})"
    if tag:
        return f"sha256 {digest} (the hub's own)"
    known = "unchanged since its first download; no hash is published" if noted else "no hash of it is known"
    return f"sha256 {digest} ({known})"
