"""Files and folders that appear under their name when they are whole, or not at all; and one process at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, with its extension, that takes its name when the block ends well.

    Raises:
        OSError: The place cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        make_public(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, whose parents are created; what was not moved away goes when the block ends.

    Raises:
        OSError: The place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix, ignore_cleanup_errors=True) as folder:
        make_public(Path(folder))
        yield Path(folder)


def make_public(path: Path) -> None:
    """Permissions as of anything else this person creates; temporary names are born private."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


@contextmanager
def locked(path: Path, *, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold a lock file that dies with its process, so that a killed one leaves none behind.

    Args:
        path: The lock file; it stays.
        waiting: Called once if another process holds it, before this one waits; None does not wait.

    Raises:
        BlockingIOError: Another process holds it, and `waiting` is None.
        OSError: The place cannot be written.
    """
    import filelock  # huggingface_hub needs it

    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if waiting is None:
            raise BlockingIOError(f"{path} is held by another process") from None
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
