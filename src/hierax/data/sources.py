"""Which files a person means by the inputs that they name."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import InputError
from ..net.address import is_address, shown
from .files import nearest_file
from .walk import WILDCARDS, Walk

# fmt: off
IMAGE_EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
))
VIDEO_EXTENSIONS = frozenset((
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv",
))
# fmt: on

_LISTS = (".txt", ".lst")
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".pt", ".pth", ".bin", ".ckpt")
_REMEDY = "Name a file, a folder, a glob or '-'."
_log = logging.getLogger(__name__)


class FoundFiles(list[Path]):
    """The files that were found, in order, and what was passed over.

    Attributes:
        walk: Counts that.
    """

    def __init__(self, extensions: frozenset[str]) -> None:
        super().__init__()
        self.walk = Walk(extensions)

    @property
    def skipped(self) -> int:
        """How many hidden entries, resource forks and `__MACOSX` folders were not taken."""
        return self.walk.skipped

    @property
    def unreadable(self) -> list[Path]:
        """Folders that could not be listed."""
        return self.walk.unreadable


def find_images(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, extensions: frozenset[str] = IMAGE_EXTENSIONS
) -> FoundFiles:
    """List the files that the inputs stand for.

    A folder is walked in sorted order, each real folder once, so links that loop do no harm; inside it only
    files with an image extension count, in upper or lower case, and hidden ones do not. A glob is treated
    alike, unless it ends with an extension of its own. A file named explicitly is always taken, even one
    that will fail to open: it becomes an error of its own later.

    Args:
        inputs: Files, folders, globs (`**` matches folders at any depth), or "-" for a list of paths on
            stdin, one a line.
        extensions: Lower-case extensions, with the dot, to look for in folders and globs.

    Returns:
        The paths, a list that also counts what was passed over.

    Raises:
        InputError: Nothing was named, or nothing was found; says what was looked for.
    """
    named = named_inputs(inputs)
    found, empty = FoundFiles(extensions), list[str]()
    for text in named:
        before = (len(found), found.walk.repeated)
        found.extend(files_of(text, found.walk))
        if (len(found), found.walk.repeated) == before:
            empty.append(text)
    if not any(os.path.lexists(path) for path in found):
        raise InputError(nothing_found(named, found[:1], found.walk, extensions))
    tell(found.walk, empty)
    return found


def as_list(inputs: Any) -> list[Any]:
    """One input or several as a list; whatever gives them is gone through once.

    Raises:
        InputError: Neither.
    """
    if isinstance(inputs, (str, os.PathLike)):
        return [inputs]
    if not isinstance(inputs, Iterable) or isinstance(inputs, (bytes, bytearray)):
        raise InputError(f"An input must be a path; got {type(inputs).__name__}.")
    return list(inputs)


def named_inputs(inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """What a person named, as text, fit to be shown.

    Raises:
        InputError: Nothing, or no path.
    """
    named = [_public(item) for item in as_list(inputs)]
    if not named:
        raise InputError("Inputs must name a file, a folder, a glob or '-'; got none.")
    for item in named:
        if not isinstance(item, (str, os.PathLike)) or isinstance(os.fspath(item), bytes):
            raise InputError(f"An input must be a path; got {type(item).__name__}.")
    return [os.fspath(item) for item in named]


def files_of(text: str, walk: Walk) -> Iterator[Path]:
    """The files that one input stands for, as they are found.

    Raises:
        InputError: No path, or no valid glob.
    """
    if text == "-":
        for path in stdin_lines():
            yield from walk.take(path)
    elif is_glob(text):
        yield from walk.glob(text)
    else:
        yield from walk.take(text)


def stdin_lines() -> Iterator[str]:
    """The paths on stdin, one a line; bytes are decoded as the file system does, so any name survives."""
    for line in getattr(sys.stdin, "buffer", sys.stdin):
        if path := _public(os.fsdecode(line).rstrip("\r\n")):
            yield path


def is_glob(text: str) -> bool:
    """Whether a text is a pattern, and no file of that name is there."""
    return "\0" not in text and bool(WILDCARDS & set(text)) and not os.path.lexists(text)


def tell(walk: Walk, empty: Iterable[str]) -> None:
    """Say what was passed over: inputs that hold nothing, folders that cannot be listed."""
    if walk.skipped:
        _log.info("skipped %d hidden or resource-fork entries", walk.skipped)
    for folder in walk.unreadable:
        _log.warning("cannot list folder %r", str(folder))
    for text in empty:
        _log.warning("%s", f"{text!r} holds no images and was passed over. {other_hint(text)}".rstrip())


def stands_for_many(path: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a path is a folder or a glob rather than a file."""
    if not isinstance(path, (str, os.PathLike)) or "\0" in os.fspath(path):
        return False
    return os.path.isdir(path) or is_glob(os.fspath(path))


def other_hint(path: str | os.PathLike[str]) -> str:
    """What to say of an input that is a list, a model, or a folder of one; empty for any other."""
    text = os.fspath(path)
    if text.lower().endswith(_LISTS):
        return f"Paths, one a line, are read from standard input: - < {shlex.quote(text)}"
    try:
        names = sorted(os.listdir(text)) if os.path.isdir(text) else [text]
    except (OSError, ValueError):
        return ""
    if not any(name.lower().endswith(_WEIGHTS) for name in names):
        return ""
    return f"It holds the weights of a model: did you mean -m {shlex.quote(text)}?"


def is_video(path: Any) -> bool:
    """Whether a path's extension is that of a video file."""
    return isinstance(path, (str, os.PathLike)) and Path(path).suffix.lower() in VIDEO_EXTENSIONS


def _public(item: Any) -> Any:
    """What was named; of an address, which is not fetched, no more than may stand in a message or a table."""
    return shown(item) if isinstance(item, str) and not os.path.lexists(item) else item


def nothing_found(named: Sequence[str], found: Sequence[Path], walk: Walk, extensions: frozenset[str]) -> str:
    """What to say where none of the files that were found is there, or none was found."""
    listed = ", ".join(repr(os.fspath(item)) for item in named[:3]) + (", ..." if len(named) > 3 else "")
    if found and is_address(str(found[0])):
        return (
            f"Inputs must be files; {shown(str(found[0]))!r} is a URL, which hierax does not fetch. Download it first."
        )
    if found:
        return f"Inputs must exist; got {listed}, and {str(found[0])!r} does not. {nearest_file(found[0])}".strip()
    notes = f", and {walk.skipped} hidden entries were skipped" if walk.skipped else ""
    if walk.unreadable:
        notes += f", and {len(walk.unreadable)} folders could not be listed"
    return (
        f"Inputs must hold at least one image; looked in {listed} for files ending in "
        f"{' '.join(sorted(extensions))}, found none{notes}. "
        f"{' '.join(filter(None, map(other_hint, named[:3]))) or _REMEDY}"
    )
