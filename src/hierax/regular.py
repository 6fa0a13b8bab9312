"""Opening a file that nobody here wrote: a regular one, or none; nothing is waited for."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a named pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)


class NotRegularError(OSError):
    """What a path leads to is no regular file; `strerror` says what it is, e.g. "is a named pipe"."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; links are followed.

    Args:
        path: A local path.

    Returns:
        A binary file at position 0; the caller closes it.

    Raises:
        NotRegularError: It leads to a folder, pipe, socket or device.
        OSError: It cannot be opened.
        ValueError: No file can have that name.
    """
    # A socket cannot be opened at all, and opening a device can set it going.
    _check(path, os.stat(path))
    # Hazard: it may be another one by now, and opening a pipe waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = next((words for test, words in _KINDS if test(status.st_mode)), "is no ordinary file")
        raise NotRegularError(errno.EINVAL, what, os.fspath(path))
