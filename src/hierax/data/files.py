"""Opening a local file safely: only regular files, never blocking, never a bare OSError."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError, nearest
from ..net.address import shown

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
    cause: Exception | None = None
    try:
        trouble = _trouble(os.stat(path))
        if not trouble:
            file = os.fdopen(os.open(path, flags), "rb")
            trouble = _trouble(os.fstat(file.fileno()))
            if not trouble:
                return file
            file.close()
    except (OSError, ValueError) as error:
        trouble, cause = _reason(str(path), error), error
    raise InputError(f"An input must be a readable regular file; {shown(str(path))!r} {trouble}.") from cause


def nearest_file(path: Path) -> str:
    """`nearest` among what lies beside a path that does not exist."""
    try:
        return nearest(path.name, os.listdir(path.parent))
    except (OSError, ValueError):  # the folder is missing too, or closed to us
        return ""


def name_text(path: str | os.PathLike[str]) -> str:
    r"""A name as text that any encoding of Unicode holds; bytes that are no UTF-8 become `\xNN`."""
    return name_bytes(path).decode("utf-8", "backslashreplace")


def name_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a name, which `os.fsencode` refuses to give where the system's encoding has not all of it."""
    try:
        return os.fspath(path).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character of UTF-16, which no file name holds
        return os.fspath(path).encode("utf-8", "surrogatepass")


def _trouble(status: os.stat_result) -> str:
    if stat.S_ISREG(status.st_mode):
        return "" if status.st_size else "is empty (0 bytes)"
    return next((words for test, words in _KINDS if test(status.st_mode)), "is no ordinary file")


def _reason(path: str, error: Exception) -> str:
    """Why the operating system would not open it, in plain words."""
    if isinstance(error, FileNotFoundError):
        if _URL.match(path):
            return "is a URL, which hierax does not fetch; download it first"
        if os.path.islink(path):
            return f"is a link to a missing file, {os.readlink(path)!r}"
        return "does not exist" if path else "is an empty path"
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied"
    return f"cannot be opened: {getattr(error, 'strerror', None) or error}"
