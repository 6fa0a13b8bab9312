"""What took long to make, kept on disk for the next process: one folder each, under a name that says what it is of.

`HIERAX_CACHE/programs/NAME/` holds files and `about.json`, which has the key they were made for and their checksums.
A folder appears when it is whole and leaves in one step. Nothing here is needed: what is missing, damaged, of another
key or not this user's own is made anew, and a disk that refuses costs a warning. The folders used last stay, as many
as fit into `HIERAX_CACHE_LIMIT`.

Source: docs/decisions/0017.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .atomic import folder_beside, sweep
from .errors import InputError, brief

LIMIT_BYTES = 5 * 1000**3
REMEDY = "Mend that, or name a folder of your own in HIERAX_CACHE."
_ABOUT = "about.json"
_MOST_ABOUT_BYTES = 1 << 20
_UNITS = {"": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
log = logging.getLogger("hierax")


class DamagedError(Exception):
    """What is kept is not what was written."""


@dataclass(frozen=True)
class Kept:
    """A folder that is kept.

    Attributes:
        path: The folder.
        about: What is said of it, `key` among it.
        size: Bytes of its files.
        used: When it was used last, seconds since 1970.
    """

    path: Path
    about: dict[str, Any]
    size: int
    used: float


def place() -> Path:
    """The folder of everything that is kept, which need not exist.

    Raises:
        OSError: No folder is named, and nobody has a home.
    """
    if named := os.environ.get("HIERAX_CACHE"):
        root = Path(os.path.expanduser(named))
    elif sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local"), "hierax", "Cache")
    elif sys.platform == "darwin":
        root = Path(os.path.expanduser("~/Library/Caches"), "hierax")
    else:
        home = os.environ.get("XDG_CACHE_HOME", "")
        # The specification: a relative one is to be ignored.
        root = Path(home if os.path.isabs(home) else os.path.expanduser("~/.cache"), "hierax")
    if root.parts[:1] == ("~",):
        raise FileNotFoundError("this user has no home")
    return Path(os.path.abspath(root), "programs")


def made() -> Path:
    """The folder, created for this user alone where there is none.

    Raises:
        OSError: It cannot be, or is not this user's own.
    """
    root = place()
    root.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    _check_own(root)
    return root


def limit() -> int:
    """Bytes that may be kept; 0 keeps nothing and looks for nothing.

    Raises:
        InputError: HIERAX_CACHE_LIMIT is no size.
    """
    text = os.environ.get("HIERAX_CACHE_LIMIT") or ""
    if not text:
        return LIMIT_BYTES
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", text.strip().upper())
    unit = "" if found is None else found[2].rstrip("B")
    if found is None or len(found[1]) > 20:
        raise InputError(f"HIERAX_CACHE_LIMIT is a size such as 20GB, 500MB or 0; got {brief(text)}.")
    return int(float(found[1]) * _UNITS[f"{unit}B" if unit else ""])


def names(prefix: str) -> list[str]:
    """What is kept under names that begin so, whole or not."""
    if not limit():
        return []
    with contextlib.suppress(OSError):
        return [name for name in os.listdir(place()) if name.startswith(prefix)]
    return []


def look(name: str) -> dict[str, Any] | None:
    """What is said of what is kept under a name, whose files are not looked at; None where there is nothing sound."""
    with contextlib.suppress(OSError, DamagedError):
        root = place()
        _check_own(root)
        return _read(root / name).about
    return None


def find(name: str, key: Mapping[str, Any]) -> Kept | None:
    """What is kept under a name for exactly that key, every byte compared with its checksum.

    What is damaged is removed, and that is said; so it is said, once, that a folder is not this user's own.
    """
    if not limit():
        return None
    try:
        path = place() / name
        while os.path.lexists(path):
            _check_own(path.parent)
            before = _identity(path)
            try:
                found = _whole(path, key)
            except DamagedError as problem:
                if _identity(path) != before:  # another process put a new one in its place
                    continue
                _tell(f"A kept program was damaged ({problem}) and is made anew: {path}.")
                _remove(path)
                return None
            with contextlib.suppress(OSError):  # a folder that may only be read
                os.utime(path / _ABOUT)
            return found
    except FileNotFoundError:  # somebody cleared it just now
        pass
    except OSError as problem:
        _tell(f"Kept programs cannot be used: {problem}. {REMEDY}")
    return None


def keep(name: str, key: Mapping[str, Any], write: Callable[[Path], object], **about: Any) -> bool:
    """Keep files for a key under a name, in the place of what is there; never an error.

    Args:
        name: Of the folder, the same for the same key.
        key: What decides the content, as JSON-able data.
        write: Writes the files into the folder it is given; False drops them.
        **about: What else is said of them, as JSON-able data.

    Returns:
        Whether they are kept.
    """
    most = limit()
    if not most:
        return False
    try:
        root = made()
        with folder_beside(root / name) as folder:
            folder.chmod(0o700)
            if write(folder) is False:
                return False
            size = _describe(folder, {**about, "key": key})
            if size > most:
                _tell(f"A program of {size / 1e6:.0f} MB is not kept: HIERAX_CACHE_LIMIT allows {most / 1e6:.0f} MB.")
                return False
            _set_aside(root / name, folder.parent)
            os.rename(folder, root / name)
        sweep(root)
        _trim(root, most, but=name)
        return True
    except BlockingIOError:  # another process keeps the same
        return False
    except (OSError, RuntimeError) as problem:  # the latter: what OpenVINO makes of a full disk
        reason = str(problem).partition("\n")[0].rstrip(".")
        _tell(f"Programs are not kept, so that the next process makes them anew: {reason}. {REMEDY}")
        return False


def entries() -> list[Kept]:
    """All that is kept, the one used last first; what cannot be read is left out.

    Raises:
        OSError: The folder is there and cannot be listed, or is not this user's own.
    """
    found = []
    for path in _folders():
        with contextlib.suppress(OSError, DamagedError):
            found.append(_read(path))
    return sorted(found, key=lambda kept: kept.used, reverse=True)


def clear() -> tuple[int, int]:
    """Remove all that is kept, whole or not; how many folders and bytes that freed.

    Raises:
        OSError: The folder is not this user's own, or something in it cannot be removed.
    """
    count = freed = 0
    for path in _folders():
        size = _bytes_of(path)
        _remove(path, strict=True)
        count, freed = count + 1, freed + size
    with contextlib.suppress(OSError):
        sweep(place())
    return count, freed


def _folders() -> list[Path]:
    """Everything in the folder but what is being written."""
    with contextlib.suppress(FileNotFoundError):
        root = place()
        _check_own(root)
        return sorted(path for path in root.iterdir() if not path.name.startswith("."))
    return []


def _check_own(path: Path) -> None:
    """Refuse a folder into which others can put what we would execute: it must be this user's or the system's.

    Raises:
        OSError: It is no folder, somebody else's, or may be written by others.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{path} is no folder")
    if hasattr(os, "geteuid") and (status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o022):
        raise PermissionError(f"{path} must belong to this user and be writable by nobody else (chmod 700)")


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_ino, status.st_ctime_ns


def _whole(path: Path, key: Mapping[str, Any]) -> Kept:
    """What is kept in a folder, if it is for that key and its files are what was written.

    Raises:
        DamagedError: It is not.
        OSError: It cannot be read.
    """
    found = _read(path)
    if found.about["key"] != json.loads(json.dumps(key)):
        raise DamagedError("it is of something else")
    for name, (size, digest) in found.about["files"].items():
        try:
            with _opened(path / name) as (stream, status):
                if status.st_size != size or _digest(stream) != digest:
                    raise DamagedError(f"{name} has other bytes")
        except FileNotFoundError:
            raise DamagedError(f"{name} is missing") from None
    return found


def _read(path: Path) -> Kept:
    """What a folder says of itself, whose files were not looked at.

    Raises:
        DamagedError: It is not what was written.
        OSError: It cannot be read, or is not this user's own.
    """
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise DamagedError("it is no folder")
    _check_own(path)
    with _opened(path / _ABOUT) as (stream, status):
        text = stream.read(_MOST_ABOUT_BYTES)
    try:
        about = json.loads(text)
        sealed = about.pop("sha256")
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in about["files"].items()}
        whole = sealed == _seal(about) and isinstance(about["key"], dict)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{_ABOUT} cannot be read") from error
    if not whole:
        raise DamagedError(f"{_ABOUT} was changed")
    return Kept(path, about, sum(size for size, _ in files.values()) + len(text), status.st_mtime)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, os.stat_result]]:
    """A regular file, neither followed to elsewhere nor waited for."""
    try:
        flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, os.O_RDONLY | flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedError(f"{path.name}: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise DamagedError(f"{path.name} is no file")
    with os.fdopen(descriptor, "rb") as stream:
        yield stream, status


def _describe(folder: Path, about: dict[str, Any]) -> int:
    """Write what is said of the files of a folder, all of them on the disk; the bytes of all."""
    files = {}
    for path in sorted(folder.iterdir()):
        path.chmod(0o600)
        with path.open("r+b") as stream:
            files[path.name] = (os.fstat(stream.fileno()).st_size, _digest(stream))
            os.fsync(stream.fileno())
    about = json.loads(json.dumps({**about, "files": files}))
    text = json.dumps({**about, "sha256": _seal(about)})
    with (folder / _ABOUT).open("x", encoding="utf-8") as stream:
        os.chmod(folder / _ABOUT, 0o600)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return sum(size for size, _ in files.values()) + len(text)


def _digest(stream: Any) -> str:
    digest, buffer = hashlib.sha256(), bytearray(1 << 20)
    while count := stream.readinto(buffer):
        digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def _seal(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _trim(root: Path, most: int, *, but: str) -> None:
    """Remove what was not used for longest until all that is kept is below the limit."""
    found = []
    for path in _folders():
        with contextlib.suppress(OSError):
            about = path / _ABOUT
            used = about.lstat().st_mtime if about.exists() else 0.0
            found.append((used, _bytes_of(path), path))
    excess = sum(size for _, size, _ in found) - most
    for _, size, path in sorted(found):
        if excess > 0 and path.name != but:
            _remove(path)
            excess -= size


def _bytes_of(path: Path) -> int:
    """Of a folder and what is in it, or a file."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _remove(path: Path, *, strict: bool = False) -> None:
    """Take a folder away in one step, so that nobody finds half of it; another process may be faster.

    Raises:
        OSError: The system refuses, and that matters.
    """
    try:
        with folder_beside(path) as beside:
            _set_aside(path, beside.parent)
    except BlockingIOError:
        pass
    except OSError:
        if strict:
            raise


def _set_aside(path: Path, folder: Path) -> None:
    """Move whatever stands under a name into a private folder that goes soon."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, folder / "gone")


@functools.cache
def _tell(text: str) -> None:
    """Warn, once a process."""
    log.warning("%s", text)
