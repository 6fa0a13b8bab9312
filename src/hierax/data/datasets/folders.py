"""Folders: one sub-folder a class, perhaps one folder a split around them, or just files at any depth."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError, nearest
from ..files import name_text
from ..sources import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, FoundFiles, find_images
from .places import labels_elsewhere, split_word, table_of_classes
from .samples import EVERYTHING, SPLITS, TESTS, UNLABELLED, FileData, check_classes, class_order

_MEDIA = IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
_REMEDY = "Use CLASS/IMAGE.jpg, or a table with path and label; `pretrain` takes images without classes."
_ALL = f"split='{EVERYTHING}' (--set split={EVERYTHING}), or --split {EVERYTHING} to `eval`"
_WORDS = frozenset(word for words in SPLITS.values() for word in words)


def class_folders(folder: Path, split: str) -> FileData:
    """The samples below a folder, or below its split's folder; a class is a sub-folder.

    Raises:
        InputError: No such split, a folder that may be a split or a class, or no class folder with samples.
    """
    root, layout = _split_folder(folder, split)
    folders: dict[str, Path] = {}
    for path in _sub_folders(root, but=layout.apart if root == folder else ()):
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
        remedy = labels_elsewhere(root, folder) or _REMEDY
        own = f" If {root.name!r} is itself a class, pass {_ALL}." if root != folder else ""
        raise InputError(
            f"Labelled training data must be folders of images, one folder a class; {str(root)!r} has {got}. "
            f"{remedy}{own}"
        )
    if split != EVERYTHING and (other := table_of_classes(root)) is not None:
        table, place, several = other
        raise InputError(
            f"A class folder must hold one class; {str(table)!r} gives several to the images in {place}/, such as "
            f"{', '.join(several[:3])}. Name the table as the data, `hierax finetune {shlex.quote(str(table))} OUT`; "
            f"if the folders are the classes all the same, pass {_ALL}."
        )
    data = FileData(root, names, labels, classes, problems)
    if empty := sorted(set(classes).difference(data.used_classes)):
        data.notes.append(f"{len(empty)} class folders are empty: {', '.join(empty[:5])}")
    if len(classes) == 1 and (hint := labels_elsewhere(folders[classes[0]], folder)):
        data.notes.append(hint)
    data.notes += layout.notes
    return data


def any_files(source: Any, split: str) -> FileData:
    """Samples without labels: the files that a folder, glob or sequence of paths stands for.

    Raises:
        InputError: As `class_folders`, or nothing was found.
    """
    root, layout, is_folder = Path(), Layout(), isinstance(source, (str, os.PathLike)) and os.path.isdir(source)
    if is_folder:
        root, layout = _split_folder(Path(source), split)
        source, layout = root, (layout if root == Path(source) else Layout(notes=layout.notes))
    found = find_images(source, extensions=_MEDIA)
    names = [os.path.relpath(path, root) if is_folder else str(path) for path in found]
    names = [name for name in names if not layout.apart or Path(name).parts[0] not in layout.apart]
    data = FileData(root, names, [UNLABELLED] * len(names), [], _unreadable(found))
    data.notes += layout.notes
    return data


@dataclass(frozen=True)
class Layout:
    """What the sub-folders of a folder are.

    Attributes:
        splits: Folders of splits by the split's name; where there is none, the folder itself is all of them.
        apart: Names of sub-folders that are no classes, where classes stand beside splits.
        doubtful: A sub-folder that cannot be a class by its name, nor a split by what it holds.
        notes: What a person should know about it.
    """

    splits: dict[str, Path] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()
    doubtful: Path | None = None
    notes: tuple[str, ...] = ()


def layout_of(root: Path) -> Layout:
    """What the sub-folders of a folder are: splits, classes, or classes and a validation split of these.

    A sub-folder with the name of a split is one where all folders with images have such names, or where both a
    training and a validation folder hold class folders; a validation folder also where its class folders have the
    names of those beside it. A folder named train or test is a class where it holds images itself, beside folders of
    other names.

    Raises:
        InputError: It may be either.
    """
    folders = {split_word(path.name, _WORDS): path for path in _sub_folders(root)}
    found = {
        split: next(folders[word] for word in words if word in folders)
        for split, words in SPLITS.items()
        if not folders.keys().isdisjoint(words)
    }
    others = [path.name for word, path in folders.items() if word not in _WORDS and _holds_media(path)] if found else []
    nested = [path for path in found.values() if _holds_classes(path)]
    if not others or len(nested) == len(SPLITS):
        held = found.get("validation")
        if held is not None and split_word(held.name, TESTS) in TESTS and nested == [found.get("train")]:
            note = f"{held.name}/ holds images without classes and is left alone: it cannot be validated on"
            return Layout({"train": found["train"]}, notes=(note,))
        return Layout(found)
    unclear, named = (nested or list(found.values()))[0], ", ".join(others[:3])
    if not nested and len(found) == 1:
        if split_word(unclear.name, _WORDS) not in (*SPLITS["train"], *TESTS):
            return Layout(doubtful=unclear)
        note = f"{unclear.name}/ is taken for a class, as it holds images itself, beside {named}"
        return Layout(notes=(f"{note}; move it out of the data if it is a split",))
    if "train" not in found and nested and set(_classes_of(unclear)) <= set(others):
        apart = frozenset(path.name for word, path in folders.items() if word in _WORDS)
        note = f"{unclear.name}/ is taken for the validation split, as it holds folders of the same classes"
        unused = ", ".join(sorted(f"{name}/" for name in apart - {unclear.name}))
        return Layout(found, apart, notes=(f"{note}; not used: {unused}" if unused else note,))
    raise InputError(
        f"A folder must be a split or a class; {str(unclear)!r} may be either: a split, by its name, or a class, "
        f"beside {named}. Name {str(unclear)!r} itself as the data if it is a split; pass {_ALL} if every sub-folder "
        f"of {str(root)!r} is a class."
    )


def _split_folder(root: Path, split: str) -> tuple[Path, Layout]:
    """Where the samples of a split are: the root itself where it has no split folders; and how it is laid out."""
    if split == EVERYTHING:
        return root, Layout()
    if split not in SPLITS:
        named = {path.name.lower(): path for path in _sub_folders(root)}
        if split.lower() not in named:
            hint = nearest(split, named)
            raise InputError(f"A split must be a sub-folder; {str(root)!r} has none named {split!r}. {hint}".strip())
        return named[split.lower()], Layout()
    layout = layout_of(root)
    if layout.doubtful is not None:
        raise InputError(
            f"A validation split must hold one folder a class; {str(layout.doubtful)!r} holds images itself, and is "
            f"no class by its name. Sort its images into CLASS folders, or move it out of {str(root)!r}; if it is a "
            f"class, pass {_ALL}."
        )
    if not layout.splits or split in layout.splits:
        return layout.splits.get(split, root), layout
    if layout.apart and split == "train":
        return root, layout
    other, folder = next(iter(layout.splits.items()))
    raise InputError(
        f"The {split} split must be there; {str(root)!r} has {folder.name!r} alone, which is the {other} split or a "
        f"class of that name. Pass split={other!r} to use it, or {_ALL} to take it for a class."
    )


def _sub_folders(root: Path, *, but: Collection[str] = ()) -> list[Path]:
    names = [name for name in _names(root) if not name.startswith((".", "__")) and name not in but]
    return [root / name for name in names if os.path.isdir(root / name)]


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


def _classes_of(folder: Path) -> list[str]:
    return [inner.name for inner in _sub_folders(folder) if _holds_media(inner)]


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
