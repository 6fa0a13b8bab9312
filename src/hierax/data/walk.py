"""Files below folders and behind globs, one by one in sorted order: no more than a folder is held at a time."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError

WILDCARDS = frozenset("*?[")


class Walk:
    """Finds files, each real folder once, and counts what it passes over.

    Args:
        extensions: Lower-case extensions, with the dot, that count in folders.

    Attributes:
        skipped: How many hidden entries, resource forks (`._name`) and `__MACOSX` folders were not taken.
        unreadable: Folders that could not be listed.
        repeated: How many folders came up again, and were not walked again.
    """

    def __init__(self, extensions: frozenset[str]) -> None:
        self.skipped = self.repeated = 0
        self.unreadable: list[Path] = []
        self._extensions, self._visited = extensions, set[tuple[int, int]]()

    def take(self, text: str) -> Iterator[Path]:
        """A path as it was named: a folder is walked, anything else is taken.

        Raises:
            InputError: No path.
        """
        if "\0" in text or not text:
            raise InputError(f"An input must be a path; got {text!r}.")
        if os.path.isdir(text):
            yield from self.folder(text)
        else:
            yield Path(text)

    def folder(self, folder: str) -> Iterator[Path]:
        """Every image below a folder, sorted; with a stack, because folders may nest deeper than calls."""
        stack = [self._entries(Path(folder))]
        while stack:
            path, inside = next(stack[-1], (None, False))
            if path is None:
                stack.pop()
            elif not inside:
                yield path
            elif not _loops(path):
                stack.append(self._entries(path))

    def counts(self, name: str) -> bool:
        """Whether a file of this name counts inside a folder."""
        return os.path.splitext(name)[1].lower() in self._extensions

    def _entries(self, folder: Path) -> Iterator[tuple[Path, bool]]:
        """What counts in a folder, and whether it is a folder itself; nothing where it was listed before."""
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self._visited:
                self.repeated += 1
                return
            self._visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                names, folders = [], set()
                for entry in entries:
                    if hidden(entry.name):
                        self.skipped += 1
                    elif _is_folder(entry):
                        folders.add(entry.name)
                    elif self.counts(entry.name):
                        names.append(entry.name)
        except OSError:
            self.unreadable.append(folder)
            return
        for name in sorted([*names, *folders]):
            yield folder / name, name in folders

    def glob(self, pattern: str) -> Iterator[Path]:
        """Every match of a glob, sorted; links to folders are not followed by `**`.

        Raises:
            InputError: No valid pattern.
        """
        parts = Path(pattern).parts
        wild = next(index for index, part in enumerate(parts) if WILDCARDS & set(part))
        root, rest, deep = Path(*parts[:wild]), parts[wild:], "**" in parts
        rest = (*rest, "*") if rest[-1] == "**" else rest
        suffix = Path(pattern).suffix
        any_file = bool(suffix) and not WILDCARDS & set(suffix)
        try:
            several = sum(part == "**" for part in rest) > 1 or ".." in rest
            matches = iter(sorted(root.glob(os.path.join(*rest)))) if several else _matches(root, rest)
            for match in matches:
                if any(hidden(part) and part not in parts for part in match.relative_to(root).parts):
                    self.skipped += 1
                elif os.path.isdir(match):
                    if not deep:  # `**` matches what is inside it by itself
                        yield from self.folder(str(match))
                elif any_file or self.counts(match.name):
                    yield match
        except (OSError, ValueError, NotImplementedError, RecursionError) as error:
            raise InputError(f"A glob must be a valid pattern; got {pattern!r}: {error}.") from error


def hidden(name: str) -> bool:
    """Whether a name is passed over inside folders."""
    return name.startswith(".") or name == "__MACOSX"


def _matches(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Matches of a pattern with at most one `**`, sorted by their parts, a folder's names at a time."""
    head, rest = parts[0], parts[1:]
    if head == "**":
        yield from _deep(folder, rest, ())
    elif not WILDCARDS & set(head):
        if os.path.lexists(folder / head):
            yield from _matches(folder / head, rest) if rest else (folder / head,)
    else:
        for name in _names(folder):
            if fnmatch.fnmatchcase(name, head):
                yield from _matches(folder / name, rest) if rest else (folder / name,)


def _deep(folder: Path, rest: tuple[str, ...], below: tuple[str, ...]) -> Iterator[Path]:
    """Everything below a folder whose last names match the rest of a pattern."""
    for name in _names(folder):
        path, names = folder / name, (*below, name)[-len(rest) :]
        inside = os.path.isdir(path) and not os.path.islink(path)
        if len(names) == len(rest) and all(map(fnmatch.fnmatchcase, names, rest)):
            yield path
        if inside:
            yield from _deep(path, rest, (*below, name))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder or "."))
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _loops(path: Path) -> bool:
    """Whether a path is a link to a folder that it lies in itself."""
    if not (os.path.islink(path) and os.path.isdir(path)):
        return False
    here = path.parent.resolve()
    return path.resolve() in (here, *here.parents)
