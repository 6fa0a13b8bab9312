"""The cache on this disk: where fetched things lie, whose turn it is to fetch, and whether their bytes are whole.

A file that has been read in full is remembered by path, size and time, so that it is hashed once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import atomic_file, locked
from ..console import say
from ..errors import CheckpointError, HieraxError
from .options import chosen

_CHUNK_BYTES = 1 << 20
_LEFT_ALONE_S = 14 * 86400.0


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network, for plain addresses as for the hub's."""
    from huggingface_hub import constants

    return chosen().offline or bool(constants.HF_HUB_OFFLINE)


def way_online() -> tuple[str, str]:
    """What forbids the network, and what to do about it."""
    if chosen().offline:
        return "local_files_only", "Leave local_files_only out"
    return "HF_HUB_OFFLINE", "Unset HF_HUB_OFFLINE"


def cache_root() -> Path:
    """Our corner of the cache, beside huggingface_hub's own: HF_HOME moves both, the options of a call too."""
    from huggingface_hub import constants

    if (folder := chosen().cache) is not None:
        return folder / "hierax"
    home = Path(constants.HF_HOME)
    return home / "hierax" if home.parts[:1] != ("~",) else _without_home()  # "~": nobody has a home


def hub_cache() -> Path:
    """huggingface_hub's cache, or the one of this call."""
    from huggingface_hub import constants

    folder = chosen().cache or Path(constants.HF_HUB_CACHE)
    return folder if folder.parts[:1] != ("~",) else cache_root() / "hub"


@functools.lru_cache(maxsize=1)
def _without_home() -> Path:
    """A folder of this user alone in the shared temporary one, where anybody may have made one of that name before."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"hierax-{user}")
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="hierax-"))


def cached_place(*parts: str) -> Path:
    """Path of a thing in the cache, which need not exist; earlier versions kept shards in XDG_CACHE_HOME/hierax."""
    path, earlier = cache_root().joinpath(*parts), _earlier_root().joinpath(*parts)
    return earlier if earlier.is_file() and not path.exists() else path


def _earlier_root() -> Path:
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "hierax")


def short_hash(text: str, digits: int = 32) -> str:
    """A file name for any text."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:digits]


@contextlib.contextmanager
def alone(thing: str, error: type[HieraxError] = CheckpointError) -> Iterator[None]:
    """Let one process at a time fetch a thing; without a lock where the cache is read-only.

    Raises:
        HieraxError: Of the given kind; the cache cannot be read or written.
    """
    path = cache_root() / "locks" / f"{short_hash(thing)}.lock"
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, NotImplementedError):  # the latter: a file system without locks
            path.parent.mkdir(parents=True, exist_ok=True)
            own(path)  # a link put there would be opened, and what it leads to made empty
            held.enter_context(locked(path, waiting=lambda: say(f"waiting for another process that fetches {thing}")))
        try:
            yield
        except OSError as problem:
            if isinstance(problem, HieraxError):
                raise
            raise disk_refused(thing, problem, error) from problem


def sweep() -> None:
    """Delete what downloads left that were killed and never went on: a signed address is another one the next time.

    No download takes as long as what is deleted here has been left alone.
    """
    oldest = time.time() - _LEFT_ALONE_S
    with contextlib.suppress(OSError):
        for part in [*cache_root().glob("*/*/*.part"), *hub_cache().glob("models--*/blobs/*.part")]:
            if part.lstat().st_mtime < oldest:
                part.with_name(f"{part.name}.etag").unlink(missing_ok=True)
                part.unlink(missing_ok=True)


def own(path: Path) -> Path:
    """A path in the cache under which there is a plain file or nothing: whatever else was put there is taken away."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
    return path


def below_cache(path: Path) -> bool:
    """Whether a path lies in the cache, wherever links lead."""
    roots = (cache_root(), hub_cache(), _earlier_root())
    return any(path.resolve().is_relative_to(root.resolve()) for root in roots)


def disk_refused(place: str, problem: OSError, error: type[HieraxError] = CheckpointError) -> HieraxError:
    """The error for a cache that cannot be read or written."""
    return error(
        f"The cache must be readable and writable to fetch {place}; {problem}. "
        "Free some space, or point HF_HOME to another folder."
    )


@dataclass(frozen=True)
class Published:
    """What is known of a file before it is fetched.

    Attributes:
        wanted: SHA-256 hashes that it may have; empty where none is known.
        superseded: Hashes of earlier files under the same name.
        place: Where its first download is recorded, if it must stay the same (`trust`).
        since: The day of that first download, where `wanted` is from there.
    """

    wanted: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    place: str = ""
    since: str = ""

    def matches(self, path: Path) -> bool:
        """Whether a file has one of the hashes; an outdated one counts, with a note on stderr.

        Raises:
            OSError: The file cannot be read.
        """
        digest = verified_hash(path)
        if digest in self.superseded:
            say(f"{path.name} is an earlier published version of this file; delete it to get the present one.")
            return True
        return digest in self.wanted


UNKNOWN = Published()


def is_sha256(text: str | None) -> bool:
    """Whether a string can be a SHA-256 in hexadecimal."""
    return re.fullmatch(r"[0-9a-f]{64}", text or "") is not None


def sha256_of(path: Path) -> str:
    """Hash of a file, read in pieces.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def is_unchanged(path: Path) -> bool:
    """Whether a file still has the hash that was remembered of it; true where nothing was."""
    first = _remembered(path)
    return first is None or verified_hash(path) == first["sha256"]


def verified_hash(path: Path, *, fresh: bool = False) -> str:
    """Hash of a file, from memory while size and modification time stand still.

    What is remembered is the first hash: other bytes are found out again at every call, until the file is forgotten.

    Args:
        path: The file.
        fresh: It was fetched just now; what was remembered of another is void.

    Raises:
        OSError: The file cannot be read.
    """
    status, known, record = path.stat(), None if fresh else _remembered(path), _record(path)
    stamp = [status.st_size, status.st_mtime_ns]
    if known is not None and known.get("stamp") == stamp:
        return str(known["sha256"])
    digest = sha256_of(path)
    if known is not None and known["sha256"] != digest:
        return digest
    with contextlib.suppress(OSError):  # a cache that takes no notes costs time only
        record.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(record) as partial:
            partial.write_text(json.dumps({"path": str(path), "stamp": stamp, "sha256": digest}), "utf-8")
    return digest


def noted_hash(path: Path) -> str:
    """The hash that is remembered of a file, whatever its bytes are now; empty where none is."""
    known = _remembered(path)
    return "" if known is None else str(known["sha256"])


def distrust(path: Path) -> None:
    """Let the next look at a file read it in full."""
    known = _remembered(path)
    if known is not None:
        with contextlib.suppress(OSError), atomic_file(_record(path)) as partial:
            partial.write_text(json.dumps({**known, "stamp": None}), "utf-8")


def forget(path: Path) -> None:
    """Delete a file of the cache, the content that it links to, and what was remembered of it; nobody's own file.

    Raises:
        CheckpointError: A link leads to it out of the cache.
        OSError: The cache is read-only.
    """
    _record(path).unlink(missing_ok=True)
    if not below_cache(path.parent):
        raise CheckpointError(
            f"The cache must hold its own files; {path} has not the published bytes, and a link leads to it: "
            f"{path.resolve()}. Nothing was deleted. Remove the link, or move the file away."
        )
    content = path.resolve()
    path.unlink(missing_ok=True)
    if below_cache(content):
        content.unlink(missing_ok=True)


def _remembered(path: Path) -> dict[str, Any] | None:
    """The record of a path, whatever the file is now; None where there is none, or a damaged one."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(_record(path).read_text("utf-8"))
        if isinstance(record, dict) and is_sha256(str(record.get("sha256"))):
            return record
    return None


def _record(path: Path) -> Path:
    return cache_root() / "verified" / f"{short_hash(str(path.resolve()))}.json"
