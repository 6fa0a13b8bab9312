"""Images in places that fsspec has a driver for, such as s3:// and gs://; the web is none of them: see net/."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..net.address import shown
from .walk import Walk, hidden

if TYPE_CHECKING:
    from .items import Item

_WEB = ("http", "https", "ftp")  # the first two are net/'s alone, which bounds them
_MOST_BYTES = 1 << 30


def files(url: str, walk: Walk) -> Iterator[Item]:
    """An object, or those below a folder that have the extension of an image, sorted, a folder's names at a time.

    Raises:
        InputError: No driver, or the place refuses.
    """
    from .items import Item

    protocol = url.partition(":")[0].lower()
    if protocol in _WEB:
        yield Item(shown(url), url)
        return
    system, root = _system(url)
    try:
        if not system.isdir(root):
            yield Item(shown(url), url)
            return
        stack = [iter(_entries(system, root, walk))]
        while stack:
            path, inside = next(stack[-1], ("", False))
            if not path:
                stack.pop()
            elif inside:
                stack.append(iter(_entries(system, path, walk)))
            else:
                full = str(system.unstrip_protocol(path))
                yield Item(shown(full), full)
    except InputError:
        raise
    except Exception as error:  # drivers raise almost anything
        raise InputError(f"A place must be readable; {shown(url)!r}: {_reason(error)}.") from error


def reaches(place: str) -> bool:
    """Whether a place is an address that a driver may reach."""
    return "://" in place and place.partition(":")[0].lower() not in _WEB


def read(url: str) -> bytes:
    """The bytes of an object.

    Raises:
        InputError: It cannot be read; the web is not fetched.
    """
    if url.partition(":")[0].lower() in _WEB:
        raise InputError(
            f"An input must be a readable regular file; {shown(url)!r} is a URL, which hierax does not fetch; download "
            "it first."
        )
    system, path = _system(url)
    try:
        size = int(system.size(path) or 0)
        if size > _MOST_BYTES:
            raise InputError(f"An image may have at most {_MOST_BYTES:,} bytes; {shown(url)!r} has {size:,}.")
        data = bytes(system.cat_file(path))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"An input must be readable; {shown(url)!r}: {_reason(error)}.") from error
    if not data:
        raise InputError(f"An input must be a readable regular file; {shown(url)!r} is empty (0 bytes).")
    return data


def open_file(url: str) -> Any:
    """An object as a file that can be read at any place.

    Raises:
        InputError: It cannot be opened.
    """
    system, path = _system(url)
    try:
        return system.open(path, "rb")
    except Exception as error:
        raise InputError(f"An input must be readable; {shown(url)!r}: {_reason(error)}.") from error


def _system(url: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    protocol = url.partition(":")[0].lower()
    if "::" in url or "://" not in url or protocol in _WEB:
        raise InputError(f"An address must be PROTOCOL://PLACE, of one protocol; got {shown(url)!r}.")
    return _driver(protocol, url)


@functools.lru_cache(maxsize=1024)
def _driver(protocol: str, url: str) -> tuple[Any, str]:
    try:
        import fsspec

        found, path = fsspec.core.url_to_fs(url)
        return found, str(path)
    except ImportError as error:
        raise InputError(
            f"Addresses of {protocol}:// need a driver of fsspec, which is not installed: {_reason(error)}."
        ) from error
    except Exception as error:
        raise InputError(
            f"An address must be of a protocol that fsspec knows; {shown(url)!r}: {_reason(error)}."
        ) from error


def _entries(system: Any, folder: str, walk: Walk) -> list[tuple[str, bool]]:
    found = []
    for entry in system.ls(folder, detail=True):
        path = str(entry["name"]).rstrip("/")
        name = path.rpartition("/")[2]
        if path == folder.rstrip("/"):
            continue
        if hidden(name):
            walk.skipped += 1
        elif entry["type"] == "directory" or walk.counts(name):
            found.append((path, entry["type"] == "directory"))
    return sorted(found)


def _reason(error: Exception) -> str:
    """The first line, without what may be secret in an address."""
    return shown((str(error).strip() or type(error).__name__).splitlines()[0])[:300]
