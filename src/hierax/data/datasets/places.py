"""Where images and labels are that are not where they are looked for, as in downloads of competitions.

A table may name images without their folder or extension; images may lie in one folder, with their classes in a table
beside it, or in their names.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

from ...errors import InputError
from ..files import open_regular
from ..sources import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS

_MEDIA = IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
# What the column of paths, and that of classes, is called; the first that is there is taken.
PATH_COLUMNS = ("path", "file", "filename", "filepath", "image", "file_name", "file_path", "image_path", "img_path",
                "image_name", "image_id", "img", "id")  # fmt: skip
LABEL_COLUMNS = ("label", "class", "target", "category", "class_name", "label_name", "labels")
_TRIED = 20  # rows of a table; where one of their files is there, all are taken as they stand
_FOLDERS, _DEPTH, _TABLES = 200, 2, 50  # that are looked into
# "train_images", "test1": the folder of a split under a longer name.
_MORE = re.compile(r"[ _-]?(?:images?|imgs?|pictures?|photos?|data|set|[0-9]+)")
# "cat.0.jpg", "great_dane_12.png", "rose (7).jpg": the class, and a number; for Python and for sed.
_WORDS, _NUMBER = "[A-Za-z]+([ _-][A-Za-z]+)*", "[ ._-]?[(]?[0-9]+[)]?[.]"
_NUMBERED = re.compile(f"(?P<name>{_WORDS}){_NUMBER}[A-Za-z0-9]+")


def split_word(name: str, words: Collection[str]) -> str:
    """A folder's name in lower case, or the word of these that it is a longer form of."""
    name = name.lower()
    return next((word for word in words if name.startswith(word) and _MORE.fullmatch(name, len(word))), name)


class _Folder:
    """What a table's names may mean in one folder."""

    def __init__(self, path: Path) -> None:
        self.path, self._below = path, dict[str, _Folder]()

    @cached_property
    def _files(self) -> dict[str, str]:
        """File names by what may stand for them: themselves, and the part before the extension where it is unique."""
        try:
            names = sorted(os.listdir(self.path))
        except (OSError, ValueError):  # a name of a table may hold anything
            return {}
        media = [(Path(name).stem, name) for name in names if Path(name).suffix.lower() in _MEDIA]
        often = Counter(stem for stem, _ in media)
        return {**{stem: name for stem, name in media if often[stem] == 1}, **{name: name for name in names}}

    def find(self, name: str) -> str | None:
        """The path below this folder that a name stands for, None where there is none."""
        head, tail = os.path.split(name.replace("\\", "/"))  # as Windows writes it
        folder = self._below.setdefault(head, _Folder(self.path / head)) if head else self
        stem, ending = os.path.splitext(tail)
        found = folder._files.get(tail) or (folder._files.get(stem) if ending.lower() in _MEDIA else None)
        return None if found is None else os.path.join(head, found)


def locate(table: Path, names: Sequence[str]) -> tuple[list[str], str, bool]:
    """What the names in a table stand for: paths as they are, or files of one folder near it, perhaps by their stems.

    Args:
        table: The table.
        names: Its column of paths, in which some may be empty.

    Returns:
        Paths relative to the table's folder, what a person should know of them, and whether any is there; names that
        are not found stay.

    Raises:
        InputError: Several folders hold as many of the files.
    """
    root, first = table.parent, [name for name in names if name][:_TRIED]
    if not first or any(os.path.isabs(name) or os.path.exists(root / name) for name in first):
        return list(names), "", bool(first)
    counts = {folder: sum(_in(folder, name) for name in first) for folder in map(_Folder, _folders_below(root))}
    if len([folder for folder, count in counts.items() if count]) > 1:
        counts = {folder: sum(_in(folder, name) for name in names) for folder, count in counts.items() if count}
    most = max(counts.values(), default=0)
    best = [folder for folder, count in counts.items() if count == most > 0]
    best = [folder for folder in best if folder.path.name.lower() == table.stem.lower()] or best
    if not best:
        return list(names), "", False
    places = [os.path.relpath(folder.path, root) for folder in best]
    if len(best) > 1:
        raise InputError(
            f"A table must name files that are found in one way; those of {str(table)!r} are in each of "
            f"{', '.join(places[:3])}. Write the folder before the names, as in {places[0]}/{first[0]}."
        )
    found = [(best[0].find(name) or "") if name else "" for name in names]
    pairs = list(zip(names, found, strict=True))
    paths = [os.path.normpath(os.path.join(places[0], path)) if path else name for name, path in pairs]
    where = "beside it" if places[0] == "." else f"in {places[0]}/"
    renamed = any(path and not name.endswith(os.path.basename(path)) for name, path in pairs)
    note = f"the files of {table.name} are {where}{', with the extensions that they have there' if renamed else ''}"
    return paths, note, True


def _in(folder: _Folder, name: str) -> bool:
    return bool(name) and folder.find(name) is not None


def _folders_below(root: Path) -> list[Path]:
    """A folder and those near below it."""
    found, level = {os.path.realpath(root): root}, [root]
    for _ in range(_DEPTH):
        level = [path for folder in level for path in _sub_folders(folder)][:_FOLDERS]
        for path in level:
            found.setdefault(os.path.realpath(path), path)  # links may lead in circles
    return list(found.values())[:_FOLDERS]


def _sub_folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry) for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []


def labels_elsewhere(root: Path, given: Path) -> str:
    """Where the classes of images that lie in one folder seem to be, and the command that uses them; else nothing.

    Args:
        root: The folder.
        given: What was named as the data, which may hold it.
    """
    tables = [table for folder in dict.fromkeys((root, given, root.parent)) for table in _label_tables(folder)]
    if tables:
        best = max(tables, key=lambda table: (table.stem.lower() == root.name.lower(), "label" in table.stem.lower()))
        command = f"hierax finetune {shlex.quote(str(best))} OUT"
        return f"The classes may stand in {str(best)!r}: name it as the data, `{command}`."
    kinds = _numbered(root)
    if kinds:
        place, table = shlex.quote(str(root)), shlex.quote(str(root / "labels.csv"))
        line = f"(echo path,label; ls {place} | sed -nE 's/^({_WORDS}){_NUMBER}.*/&,\\1/p') > {table}"
        return (
            f"Their names seem to begin with the class ({', '.join(kinds[:3])}): write a table of them, in a POSIX "
            f"shell by `{line}`, and name it as the data, `hierax finetune {table} OUT`."
        )
    return ""


def _label_tables(folder: Path) -> list[Path]:
    """Tables in a folder that have a column of paths and one of classes, but for those that are to be filled in."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith((".csv", ".tsv")))
    except OSError:
        return []
    return [
        folder / name for name in names[:_TABLES] if "submission" not in name.lower() and _is_labelled(folder / name)
    ]


def _is_labelled(table: Path) -> bool:
    return _first_rows(table) is not None


def _first_rows(table: Path) -> list[tuple[str, str]] | None:
    """Name and class in the first rows of a table, None where it has no such columns."""
    try:
        with open_regular(table) as file:
            lines = [file.readline(10_000).decode("utf-8-sig", "replace") for _ in range(_TRIED + 1)]
        rows = [*csv.reader(lines, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")]
    except (InputError, OSError, csv.Error):  # a pipe, say
        return None
    names = [name.strip().lower() for name in (rows or [[]])[0]]
    at = next((names.index(name) for name in PATH_COLUMNS if name in names), None)
    of = next((names.index(name) for name in LABEL_COLUMNS if name in names), None)
    if at is not None and of is None and len(names) == 2:
        of = 1 - at
    if at is None or of is None:
        return None
    return [(row[at], row[of]) for row in rows[1:] if len(row) == len(names)]


def table_of_classes(root: Path) -> tuple[Path, str, list[str]] | None:
    """A table that gives several classes to images of one sub-folder, which then is none; the folder, the classes."""
    for table in _label_tables(root):
        rows = _first_rows(table) or []
        try:
            paths, _, there = locate(table, [name for name, _ in rows])
        except InputError:
            continue
        folders = {Path(path).parts[0] for path in paths if len(Path(path).parts) > 1 and os.path.isfile(root / path)}
        classes = sorted({label for _, label in rows})
        if there and len(folders) == 1 and len(classes) > 1:
            return table, folders.pop(), classes
    return None


def _numbered(folder: Path) -> list[str]:
    """Words that file names begin with, where nearly all are a word and a number, and words are few; else none."""
    try:
        names = [name for name in os.listdir(folder) if Path(name).suffix.lower() in _MEDIA]
    except OSError:
        return []
    words = Counter(match["name"] for name in names if (match := _NUMBERED.fullmatch(name)))
    few = 2 <= len(words) <= max(2, len(names) // 2)
    return sorted(words) if few and sum(words.values()) >= 0.9 * len(names) else []
