"""Which files a person means by the inputs that they name."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import InputError
from ..net.address import is_address, shown
from .files import nearest_file

# fmt: off
IMAGE_EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
))
VIDEO_EXTENSIONS = frozenset((
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv",
))
# fmt: on

_WILDCARDS = frozenset("*?[")
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".pt", ".pth", ".bin", ".ckpt")
_REMEDY = "Name a file, a folder, a glob or '-'."
_log = logging.getLogger(__name__)


class FoundFiles(list[Path]):
    """The files that were found, in order, and what was passed over.

    Attributes:
        skipped: How many hidden entries, resource forks (`._name`) and `__MACOSX` folders were not taken.
        unreadable: Folders that could not be listed.
        repeated: How many folders came up again, and were not walked again.
    """

    def __init__(self, extensions: frozenset[str]) -> None:
        super().__init__()
        self.skipped = 0
        self.unreadable: list[Path] = []
        self.repeated = 0
        self._extensions, self._visited = extensions, set[tuple[int, int]]()

    def take(self, text: str) -> None:
        """A path as it was named: a folder is walked, anything else is taken."""
        if "\0" in text or not text:
            raise InputError(f"An input must be a path; got {text!r}.")
        if os.path.isdir(text):
            self.walk(text)
        else:
            self.append(Path(text))

    def take_glob(self, pattern: str) -> None:
        """Every match of a glob, sorted; links to folders are not followed by `**`."""
        parts = Path(pattern).parts
        wild = next(index for index, part in enumerate(parts) if _WILDCARDS & set(part))
        root, rest, deep = Path(*parts[:wild]), parts[wild:], "**" in parts
        rest = (*rest, "*") if rest[-1] == "**" else rest
        suffix = Path(pattern).suffix
        any_file = bool(suffix) and not _WILDCARDS & set(suffix)
        try:
            matches = sorted(root.glob(os.path.join(*rest)))
        except (OSError, ValueError, NotImplementedError, RecursionError) as error:
            raise InputError(f"A glob must be a valid pattern; got {pattern!r}: {error}.") from error
        for match in matches:
            if any(_hidden(part) and part not in parts for part in match.relative_to(root).parts):
                self.skipped += 1
            elif os.path.isdir(match):
                if not deep:  # `**` matches what is inside it by itself
                    self.walk(str(match))
            elif any_file or match.suffix.lower() in self._extensions:
                self.append(match)

    def walk(self, folder: str) -> None:
        """Every image below a folder, sorted; with a stack, because folders may nest deeper than calls."""
        stack = [Path(folder)]
        while stack:
            path = stack.pop()
            if not os.path.isdir(path):
                self.append(path)
                continue
            try:
                status = path.stat()
                if (status.st_dev, status.st_ino) in self._visited:
                    self.repeated += 1
                    continue
                self._visited.add((status.st_dev, status.st_ino))
                names = sorted(os.listdir(path), reverse=True)
            except OSError:
                self.unreadable.append(path)
                continue
            shown = [path / name for name in names if not _hidden(name)]
            self.skipped += len(names) - len(shown)
            wanted = [inner for inner in shown if inner.suffix.lower() in self._extensions or os.path.isdir(inner)]
            stack += [inner for inner in wanted if not _loops(inner)]


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
    named = [_public(item) for item in ([inputs] if isinstance(inputs, (str, os.PathLike)) else inputs)]
    if not named:
        raise InputError("Inputs must name a file, a folder, a glob or '-'; got none.")
    found, empty = FoundFiles(extensions), list[str]()
    for item in named:
        if not isinstance(item, (str, os.PathLike)) or isinstance(os.fspath(item), bytes):
            raise InputError(f"An input must be a path; got {type(item).__name__}.")
        text, before = os.fspath(item), (len(found), found.repeated)
        if text == "-":
            for line in getattr(sys.stdin, "buffer", sys.stdin):
                # Bytes are decoded as the file system does, so any name survives.
                if path := _public(os.fsdecode(line).rstrip("\r\n")):
                    found.take(path)
        elif "\0" not in text and not os.path.lexists(text) and _WILDCARDS & set(text):
            found.take_glob(text)
        else:
            found.take(text)
        if (len(found), found.repeated) == before:
            empty.append(text)
    if not any(os.path.lexists(path) for path in found):
        raise InputError(_nothing_found(named, found, extensions))
    if found.skipped:
        _log.info("skipped %d hidden or resource-fork entries", found.skipped)
    for folder in found.unreadable:
        _log.warning("cannot list folder %r", str(folder))
    for text in empty:
        _log.warning("%s", f"{text!r} holds no images and was passed over. {weights_hint(text)}".rstrip())
    return found


def stands_for_many(path: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a path is a folder or a glob rather than a file."""
    if not isinstance(path, (str, os.PathLike)) or "\0" in os.fspath(path):
        return False
    return os.path.isdir(path) or (bool(_WILDCARDS & set(os.fspath(path))) and not os.path.lexists(path))


def weights_hint(path: str | os.PathLike[str]) -> str:
    """What to say of an input that is a model, or a folder of one; empty for any other."""
    text = os.fspath(path)
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


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _loops(path: Path) -> bool:
    """Whether a path is a link to a folder that it lies in itself."""
    if not (os.path.islink(path) and os.path.isdir(path)):
        return False
    here = path.parent.resolve()
    return path.resolve() in (here, *here.parents)


def _nothing_found(named: list[Any], found: FoundFiles, extensions: frozenset[str]) -> str:
    listed = ", ".join(repr(os.fspath(item)) for item in named[:3]) + (", ..." if len(named) > 3 else "")
    if found and is_address(str(found[0])):
        return (
            f"Inputs must be files; {shown(str(found[0]))!r} is a URL, which hierax does not fetch. Download it first."
        )
    if found:
        return f"Inputs must exist; got {listed}, and {str(found[0])!r} does not. {nearest_file(found[0])}".strip()
    notes = f", and {found.skipped} hidden entries were skipped" if found.skipped else ""
    if found.unreadable:
        notes += f", and {len(found.unreadable)} folders could not be listed"
    return (
        f"Inputs must hold at least one image; looked in {listed} for files ending in "
        f"{' '.join(sorted(extensions))}, found none{notes}. "
        f"{' '.join(filter(None, map(weights_hint, named[:3]))) or _REMEDY}"
    )
