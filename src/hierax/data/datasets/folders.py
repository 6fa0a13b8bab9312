"""Folders: one sub-folder a class, perhaps one folder a split around them, or just files at any depth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...errors import InputError, nearest
from ..files import name_text
from ..sources import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, FoundFiles, find_images
from .samples import EVERYTHING, SPLITS, UNLABELLED, FileData, check_classes, class_order

_MEDIA = IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
_WORDS = frozenset(word for words in SPLITS.values() for word in words)


def class_folders(folder: Path, split: str) -> FileData:
    """The samples below a folder, or below its split's folder; a class is a sub-folder.

    Raises:
        InputError: No such split, a folder that may be a split or a class, or no class folder with samples.
    """
    root = _split_folder(folder, split)
    folders: dict[str, Path] = {}
    for path in _sub_folders(root):
        if (same := folders.setdefault(name_text(path.name), path)) is not path:
            raise InputError(
                f"Class folders must differ in name; {str(same)!r} and {str(path)!r} read alike. Rename one."
            )
    classes = check_classes(class_order(folders))
    names: list[str] = []
    labels: list[int] = []
    problems: list[tuple[str, str]] = []
    for label, name in enumerate(classes):
        found = _walk(folders[name])
        names += [path.relative_to(root).as_posix() for path in found]
        labels += [label] * len(found)
        problems += _unreadable(found)
    if not labels:
        flat = len(_walk(root))
        got = f"{flat} images in no sub-folder" if flat else f"{len(folders)} sub-folders and no image in any"
        remedy = f" If {root.name!r} is itself a class, pass split='{EVERYTHING}'." if root != folder else ""
        raise InputError(
            f"Labelled training data must be folders of images, one folder a class; {str(root)!r} has {got}. Use "
            f"CLASS/IMAGE.jpg, or a table with path and label; `pretrain` takes images without classes.{remedy}"
        )
    data = FileData(root, names, labels, classes, problems)
    if empty := sorted(set(classes).difference(data.used_classes)):
        data.notes.append(f"{len(empty)} class folders are empty: {', '.join(empty[:5])}")
    return data


def any_files(source: Any, split: str) -> FileData:
    """Samples without labels: the files that a folder, glob or sequence of paths stands for.

    Raises:
        InputError: As `class_folders`, or nothing was found.
    """
    root = Path()
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        source = root = _split_folder(Path(source), split)
    found = find_images(source, extensions=_MEDIA)
    names = [str(path) if root == Path() else os.path.relpath(path, root) for path in found]
    return FileData(root, names, [UNLABELLED] * len(names), [], _unreadable(found))


def splits_in(root: Path) -> dict[str, Path]:
    """Split folders by the split's name; none where the sub-folders are classes.

    A sub-folder with the name of a split is one where all folders with images have such names, or where both a
    training and a validation folder hold class folders. It is a class where it holds images itself, beside folders
    of other names.

    Raises:
        InputError: It may be either.
    """
    folders = {path.name.lower(): path for path in _sub_folders(root)}
    found = {
        split: next(folders[word] for word in words if word in folders)
        for split, words in SPLITS.items()
        if not folders.keys().isdisjoint(words)
    }
    others = [path.name for word, path in folders.items() if word not in _WORDS and _holds_media(path)] if found else []
    nested = [path for path in found.values() if _holds_classes(path)]
    if not others or len(nested) == len(SPLITS):
        return found
    if not nested and len(found) == 1:
        return {}
    unclear = (nested or list(found.values()))[0]
    raise InputError(
        f"A folder must be a split or a class; {str(unclear)!r} may be either: a split, by its name, or a class, "
        f"beside {', '.join(others[:3])}. Name {str(unclear)!r} itself as the data if it is a split; pass "
        f"split='{EVERYTHING}' if every sub-folder of {str(root)!r} is a class."
    )


def _split_folder(root: Path, split: str) -> Path:
    """Where the samples of a split are: the root itself where it has no split folders."""
    if split == EVERYTHING:
        return root
    if split not in SPLITS:
        named = {path.name.lower(): path for path in _sub_folders(root)}
        if split.lower() not in named:
            hint = nearest(split, named)
            raise InputError(f"A split must be a sub-folder; {str(root)!r} has none named {split!r}. {hint}".strip())
        return named[split.lower()]
    found = splits_in(root)
    if not found or split in found:
        return found.get(split, root)
    other, folder = next(iter(found.items()))
    raise InputError(
        f"The {split} split must be there; {str(root)!r} has {folder.name!r} alone, which is the {other} split or a "
        f"class of that name. Pass split={other!r} to use it, or split='{EVERYTHING}' to take it for a class."
    )


def _sub_folders(root: Path) -> list[Path]:
    return [root / name for name in _names(root) if not name.startswith((".", "__")) and os.path.isdir(root / name)]


def _names(folder: Path) -> list[str]:
    """What is in a folder, sorted.

    Raises:
        InputError: It cannot be listed.
    """
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"Folders of data must be readable; {str(folder)!r}: {error.strerror or error}.") from error


def _holds_classes(folder: Path) -> bool:
    """Whether images are in sub-folders only."""
    flat = any(map(_is_media, _names(folder)))
    return not flat and any(_holds_media(inner) for inner in _sub_folders(folder))


def _holds_media(folder: Path) -> bool:
    return any(_is_media(name) for _, _, names in os.walk(folder) for name in names)


def _is_media(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in _MEDIA


def _walk(folder: Path) -> FoundFiles:
    try:
        return find_images(folder, extensions=_MEDIA)
    except InputError:
        return FoundFiles(_MEDIA)


def _unreadable(found: FoundFiles) -> list[tuple[str, str]]:
    return [(str(path), "is a folder that cannot be listed") for path in found.unreadable]
