"""Opening a local file safely: only regular files, never blocking, never a bare OSError."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a named pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; links are followed, anything that could block is refused.

    Args:
        path: A local path. URLs are not fetched.

    Returns:
        A binary file at position 0; the caller closes it.

    Raises:
        InputError: The path is missing, unreadable, empty or no regular file; says which and why.
    """
    # Hazard: opening a FIFO blocks until a writer comes, so the open must not wait and fstat decides.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        _check_kind(path, os.stat(path))
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise _refusal(path, _reason(path, error)) from error
    try:
        status = os.fstat(descriptor)
        _check_kind(path, status)
        if status.st_size == 0:
            raise _refusal(path, "is empty (0 bytes)")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_kind(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = next((words for test, words in _KINDS if test(status.st_mode)), "is no ordinary file")
    raise _refusal(path, kind)


def _reason(path: str | os.PathLike[str], error: Exception) -> str:
    """Why the operating system would not open it, in plain words."""
    text = str(path)
    if isinstance(error, FileNotFoundError):
        if _URL.match(text):
            return "is a URL, which hierax does not fetch; download it first"
        if os.path.islink(text):
            return f"is a link to a missing file, {os.readlink(text)!r}"
        return "does not exist" if text else "is an empty path"
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied"
    return f"cannot be opened: {getattr(error, 'strerror', None) or error}"


def _refusal(path: str | os.PathLike[str], reason: str) -> InputError:
    return InputError(f"An input must be a readable regular file; {str(Path(path))!r} {reason}.")
