"""Hashing of downloaded files, once: a file that has been read in full is remembered by path, size and time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

_CHUNK_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


def say(text: str) -> None:
    """One line to the person at the terminal; stdout stays data."""
    sys.stderr.write(f"hierax: {text}\n")


def cache_root() -> Path:
    """Our corner of the cache, beside huggingface_hub's own."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "hierax"


def is_sha256(text: str | None) -> bool:
    """Whether a string can be a SHA-256 in hexadecimal."""
    return bool(text) and _SHA256.fullmatch(str(text)) is not None


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


def known_hash(path: Path) -> str | None:
    """The remembered hash of a file that has not changed since; None if there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        record = json.loads(_record(path).read_text("utf-8"))
        if record["stamp"] == _stamp(path):
            return str(record["sha256"])
    return None


def last_hash(path: Path) -> str | None:
    """The hash that was remembered last for a path, whatever the file is now."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return str(json.loads(_record(path).read_text("utf-8"))["sha256"])
    return None


def verified_hash(path: Path) -> str:
    """Hash of a file, from memory while size and modification time stand still.

    Raises:
        OSError: The file cannot be read.
    """
    remembered = known_hash(path)
    if remembered is not None:
        return remembered
    digest = sha256_of(path)
    remember(path, digest)
    return digest


def remember(path: Path, digest: str) -> None:
    """Write a hash down beside the cache; a cache that cannot be written is no error."""
    record = _record(path)
    text = json.dumps({"path": str(path), "stamp": _stamp(path), "sha256": digest})
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        part = record.with_name(f"{record.name}.{os.getpid()}")
        part.write_text(text, "utf-8")
        part.replace(record)


def forget(path: Path) -> None:
    """Delete a file, what a link points at, and what was remembered of it."""
    target = path.resolve()
    for victim in (_record(target), path, target):
        with contextlib.suppress(FileNotFoundError):
            victim.unlink()


def matches(path: Path, wanted: Collection[str], superseded: Collection[str] = ()) -> bool:
    """Whether a file has one of the published hashes; an outdated one counts, with a note on stderr.

    Raises:
        OSError: The file cannot be read.
    """
    digest = verified_hash(path.resolve())
    if digest in superseded:
        say(f"{path.name} is an earlier published version of this file; delete it to get the present one.")
        return True
    return digest in wanted


@contextlib.contextmanager
def locked(key: str) -> Iterator[None]:
    """Let one process at a time fetch a thing; without effect where the cache is read-only."""
    import filelock

    path = cache_root() / "locks" / f"{_short(key)}.lock"
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=1)
    except filelock.Timeout:
        say(f"waiting for another process that is fetching {key}")
        lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _record(path: Path) -> Path:
    return cache_root() / "verified" / f"{_short(str(path))}.json"


def _short(key: str) -> str:
    return hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
