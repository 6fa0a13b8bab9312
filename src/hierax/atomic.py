"""Files and folders that appear under their name when they are whole, or not at all; and one process at a time.

What is being written lies in a private folder beside its place, `.NAME.hierax-partial`, which its process holds by a
lock that dies with it: what a killed process left is recognised by the next one that writes there, and removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    fcntl = None  # partial folders of killed processes stay
else:
    import fcntl

_LONGEST_NAME = 100  # bytes; a longer one and its decoration would exceed the 255 of most file systems
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # what file systems without flock answer
_LOCK = ".lock"
_held: set[int] = set()


@contextmanager
def atomic_file(path: Path, *, alone: bool = False, replace: bool = True) -> Iterator[Path]:
    """A temporary file beside `path`, of the same name, that takes its place when the block ends well.

    Nothing does if the block deletes it.

    Args:
        path: The place.
        alone: Refuse at once if another process, or another block, is writing `path`.
        replace: Whether a file that is there, or appears meanwhile, may be replaced; a folder or a device never is.

    Raises:
        BlockingIOError: It is being written by another.
        FileExistsError: Something is there, or appeared while the block ran; it was left as it is.
        OSError: The place cannot be written.
    """
    _check_place(path, replace)
    with _private_folder(path, alone=alone) as folder:
        temporary = folder / path.name
        mode = stat.S_IMODE(_create(temporary))
        yield temporary
        if not temporary.exists():
            return
        temporary.chmod(mode)  # a library that wrote and renamed a file of its own left that one's
        sync(temporary)
        put(temporary, path, replace=replace)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, whose parents are created; what was not moved away goes when the block ends.

    Raises:
        BlockingIOError: Another process, or another block, has one for `path`.
        OSError: The place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _private_folder(path, alone=True) as folder:
        inner = folder / path.name
        inner.mkdir()
        yield inner


def put(source: Path, target: Path, *, replace: bool) -> None:
    """Give a whole file its name.

    Args:
        source: The file, on the same file system.
        target: Its place.
        replace: Whether a file that is there may go; a link is replaced, never what it points at.

    Raises:
        FileExistsError: Something is there that must stay.
        OSError: The place cannot be written.
    """
    _check_place(target, replace)
    if replace:
        os.replace(source, target)
        return
    try:
        os.link(source, target)  # unlike a rename it never replaces
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a file system without links: an empty file claims the name
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            raise _exists(target) from None
        os.replace(source, target)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder, whatever they were writing.

    Raises:
        OSError: The folder cannot be listed.
    """
    for left in folder.glob(".*.hierax-partial*"):
        with contextlib.suppress(OSError):  # a living process holds it, or it is nobody's that was ours
            descriptor = _claim(left, left)
            _drop(left)
            _release(descriptor)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: They do not get there; a quota or a network file system may refuse only now.
    """
    if not path.is_dir():
        with path.open("r+b") as stream:
            os.fsync(stream.fileno())
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # not every system opens folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # nor can every one be asked to
            raise
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, *, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold a lock file that dies with its process, so that a killed one leaves none behind.

    Args:
        path: The lock file; it stays, and is neither read nor written. A link is not followed.
        waiting: Called once if another process holds it, before this one waits; None does not wait.

    Raises:
        BlockingIOError: Another process holds it, and `waiting` is None.
        OSError: The place cannot be written, or is no regular file.
    """
    if fcntl is None:
        import filelock  # huggingface_hub needs it

        try:
            with filelock.FileLock(path, timeout=0 if waiting is None else -1):
                yield
        except filelock.Timeout:
            raise BlockingIOError(errno.EAGAIN, "another process holds it", str(path)) from None
        return
    descriptor = _open_lock(path, 0o666)
    try:
        try:
            _lock(descriptor, path)
        except BlockingIOError:
            if waiting is None:
                raise
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        _release(descriptor)


@contextmanager
def _private_folder(path: Path, *, alone: bool) -> Iterator[Path]:
    """A folder beside `path` that nobody else uses or can enter; it goes when the block ends.

    Without `alone` every writer of one path has a folder of its own, the next with a number behind the name.
    """
    stem = path.name
    if len(os.fsencode(stem)) > _LONGEST_NAME:
        stem = hashlib.sha256(os.fsencode(stem)).hexdigest()[:32]
    slot, descriptor, folder = 0, None, path.parent
    while descriptor is None:
        folder = path.parent / f".{stem}.hierax-partial{slot or ''}"
        try:
            descriptor = _claim(folder, path)
        except BlockingIOError:
            if alone:
                raise
            slot += 1
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            folder, descriptor = Path(tempfile.mkdtemp(prefix=f".{stem}.", dir=path.parent)), -1
    try:
        yield folder
    finally:
        _drop(folder)
        if descriptor >= 0:
            _release(descriptor)
            with contextlib.suppress(OSError):  # NFS keeps an open file's folder until now
                folder.rmdir()


def _claim(folder: Path, path: Path) -> int:
    """Create and hold a partial folder, empty but for its lock: what a killed process left in it is removed.

    Raises:
        BlockingIOError: A living process holds it.
        OSError: It cannot be created or held, or is not what a process of this user left.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no such locks", str(folder))
    while True:
        made = False
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            made = True
        try:
            if not made:
                _check_left(folder)
            descriptor = _open_lock(folder / _LOCK, 0o600)
        except FileNotFoundError:  # its holder removed it just now
            continue
        try:
            _lock(descriptor, path)
            if _is_at(folder / _LOCK, descriptor):
                _empty(folder)
                return descriptor
        except OSError as error:
            if made and error.errno in _NO_LOCKS:
                shutil.rmtree(folder, ignore_errors=True)
            _release(descriptor)
            raise
        _release(descriptor)


def _check_left(folder: Path) -> None:
    """Refuse a partial folder that no process of this user can have left: a planted link, another's folder."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise OSError(errno.EEXIST, f"{folder} is not a folder that hierax left here; remove it", str(folder))


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()


def _drop(folder: Path) -> None:
    """Remove a partial folder while it is held, its lock last: without one the next process takes the folder over."""
    with contextlib.suppress(OSError):
        _empty(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _open_lock(path: Path, mode: int) -> int:
    """Open a lock file without reading, changing or waiting for what is there; `_release` closes it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.EEXIST, f"{path} is a link, which no lock may be; remove it", str(path)) from error
        raise
    _held.add(descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        _release(descriptor)
        raise OSError(errno.EEXIST, f"{path} is no regular file, which a lock is; remove it", str(path))
    return descriptor


def _lock(descriptor: int, path: Path) -> None:
    """Lock an open file without waiting.

    Raises:
        BlockingIOError: Another process holds it; names that where the system tells.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(errno.EAGAIN, f"{_holder(descriptor)} is writing it", str(path)) from None


def _release(descriptor: int) -> None:
    _held.discard(descriptor)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _close_inherited() -> None:
    """A forked worker must not keep the locks of a parent that was killed."""
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


def _holder(descriptor: int) -> str:
    """The process that holds the lock of an open file, in words."""
    status = os.fstat(descriptor)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/locks").read_text("ascii").splitlines():
            fields = line.split()
            if "FLOCK" in fields and place in fields:
                pid = int(fields[fields.index(place) - 1])
                return "this process" if pid == os.getpid() else f"process {pid}"
    return "another process"


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file still stands under its name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _check_place(path: Path, replace: bool) -> None:
    """Refuse to write over what must stay."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not replace:
        raise _exists(path)
    if not (stat.S_ISREG(kind) or stat.S_ISLNK(kind)):
        raise FileExistsError(errno.EEXIST, "it is a device or a pipe, which is left as it is", str(path))


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "it exists already and was left as it is", str(path))


def _create(path: Path) -> int:
    """Create a file with the permissions of anything else this person creates; returns its mode."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        return os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
