"""Opening a local file safely: only regular files, never blocking, never a bare OSError."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from .. import regular
from ..errors import InputError, nearest
from ..net.address import is_address, shown


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; links are followed, anything that could block is refused.

    Args:
        path: A local path. URLs are not fetched.

    Returns:
        A binary file at position 0; the caller closes it.

    Raises:
        InputError: The path is missing, unreadable, empty or no regular file; says which and why.
    """
    cause: Exception | None = None
    try:
        file = regular.open_regular(path)
        if os.fstat(file.fileno()).st_size:
            return file
        file.close()
        trouble = "is empty (0 bytes)"
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


def _reason(path: str, error: Exception) -> str:
    """Why the operating system would not open it, in plain words."""
    if isinstance(error, FileNotFoundError):
        if is_address(path):
            return "is a URL, which hierax does not fetch; download it first"
        if os.path.islink(path):
            return f"is a link to a missing file, {os.readlink(path)!r}"
        return "does not exist" if path else "is an empty path"
    if isinstance(error, regular.NotRegularError):
        return f"{error.strerror}"
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied"
    return f"cannot be opened: {getattr(error, 'strerror', None) or error}"
