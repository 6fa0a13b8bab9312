"""One writer of a store at a time, and who that is; what a dead one left does not stop the next."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..atomic import locked
from ..errors import InputError
from ..regular import open_regular
from .layout import LOCK, WRITER

STALE_S = 900.0  # of silence, after which a writer on another machine counts as dead; each commit is a sign of life
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # what file systems without locks answer


@contextlib.contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold a store's folder for writing.

    The lock is the system's, which ends with its process, on this machine or, over NFS, on another one. A file system
    without locks is served by the note of who writes alone.

    Raises:
        InputError: Somebody is writing it, on whichever machine.
        OSError: The place cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(path / LOCK))
        except BlockingIOError as error:
            raise _refusal(path, _read(path), str(error.strerror or "")) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _claim(path)
        _write(path / WRITER)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (path / WRITER).unlink()


def alive(path: Path) -> None:
    """Give a sign of life, for machines that cannot see this process."""
    with contextlib.suppress(OSError):
        os.utime(path / WRITER)


def _claim(path: Path) -> None:
    """Refuse where another one that may be alive has noted itself, for want of a lock."""
    other = _read(path)
    if not other:
        return
    if other.get("host") == socket.gethostname():
        dead = not _runs(other.get("pid"))
    else:
        dead = time.time() - (path / WRITER).stat().st_mtime > STALE_S
    if not dead:
        raise _refusal(path, other, "")


def _runs(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _read(path: Path) -> dict[str, Any]:
    """The note of who writes; empty where there is none."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        with open_regular(path / WRITER) as file:
            found = json.loads(file.read(4096))
        return found if isinstance(found, dict) else {}
    return {}


def _write(place: Path) -> None:
    note = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    with contextlib.suppress(OSError):  # the lock is what holds
        place.unlink(missing_ok=True)  # a link would lead elsewhere
        with place.open("x", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")


def _refusal(path: Path, other: dict[str, Any], who: str) -> InputError:
    if other:
        host, since = str(other.get("host"))[:100], str(other.get("since"))[:40]
        who = f"process {other.get('pid')} on {host} has been writing it since {since}"
    return InputError(
        f"A store has one writer at a time; {str(path)!r}: {who or 'another process is writing it'}. Wait until it is "
        "done, or name another folder."
    )
