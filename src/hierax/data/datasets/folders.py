"""Data sets to train on: folders of classes, tables, lists, shards and the rendered shapes, all read by position.

Whatever the layout, a set is a sequence of samples that can be read in any order. Epochs, ranks and workers then need
no more than a permutation, and a run can go on where it stopped.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, MissingExtraError, nearest
from ..sources import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, find_images
from .samples import SPLITS, UNLABELLED, FileData, ShapeData, Subset, TrainingData
from .shards import is_shards, open_shards, splits_of

_TABLES = (".csv", ".tsv", ".parquet")
_LISTS = (".txt", ".lst")
_PATH_COLUMNS = ("path", "file", "filename", "filepath", "image")
_LABEL_COLUMNS = ("label", "class", "target", "category")


def open_data(source: Any, *, split: str = "train", labelled: bool = True) -> TrainingData:
    """Understand what a person points at.

    Args:
        source: A folder with one sub-folder a class (or with `train` and `val` folders of such); a CSV, TSV or
            Parquet table with the columns path and label; a text file with a path on each line; WebDataset shards as
            a folder, a tar, "name-{0000..0099}.tar", a glob or http(s) URLs; "shapes:COUNT" or "shapes:COUNT@SEED";
            or, without labels, any folder, glob or sequence of paths.
        split: "train", "validation", or a name that the data uses.
        labelled: Whether every sample must have a class.

    Raises:
        InputError: Nothing there, no sample, or a layout that gives no labels where they are needed.
        MissingExtraError: A Parquet table without pyarrow.
    """
    if isinstance(source, TrainingData):
        return source
    if isinstance(source, (str, os.PathLike)) and str(source).startswith("shapes:"):
        data: TrainingData = _shapes(str(source))
    elif isinstance(source, (str, os.PathLike)) and is_shards(source):
        data = open_shards(source, split=split, aliases=SPLITS.get(split, (split,)), labelled=labelled)
    elif isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() in (*_TABLES, *_LISTS):
        data = _table(Path(source), split, labelled)
    elif labelled:
        data = _class_folders(source, split)
    else:
        data = _any_files(source, split)
    if not len(data):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in data.problems[:3])
        raise InputError(f"Training data must hold at least one sample; {str(source)!r} holds none. {reasons}")
    return data


def find_validation(source: Any) -> TrainingData | None:
    """The labelled validation split of a data source, None where it has none."""
    if isinstance(source, TrainingData) or not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    found = path.is_dir() and _split_folder(path, "validation") is not None
    if not str(source).startswith("shapes:") and is_shards(source):
        found = not splits_of(source).isdisjoint(SPLITS["validation"])
    elif path.suffix.lower() in _TABLES and path.is_file():
        found = _wanted(_read_table(path)[0].get("split", []), "validation") is not None
    return open_data(source, split="validation") if found else None


def hold_out(data: TrainingData, fraction: float, seed: int) -> tuple[TrainingData, TrainingData | None]:
    """Split off a share of every class, at random but always the same for a seed.

    Returns:
        What is left and what is held out; None where the share is nothing.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    held: list[np.ndarray] = []
    for label in np.unique(data.labels):
        members = rng.permutation(np.flatnonzero(data.labels == label))
        count = min(int(len(members) * fraction + 0.5), len(members) - 1)
        held.append(members[:count])
    chosen = np.sort(np.concatenate(held)) if held else np.array([], dtype=np.int64)
    if not len(chosen):
        return data, None
    return Subset(data, np.setdiff1d(np.arange(len(data)), chosen)), Subset(data, chosen)


def match_classes(data: TrainingData, classes: Sequence[str]) -> TrainingData:
    """The same samples with labels that count in another list of classes.

    Raises:
        InputError: A class that the list does not have.
    """
    if list(data.classes) == list(classes):
        return data
    known = {name: index for index, name in enumerate(classes)}
    used = {data.classes[label] for label in np.unique(data.labels) if label >= 0}
    for name in sorted(used):
        if name not in known:
            raise InputError(
                f"Validation classes must be among the {len(classes)} training classes; got {name!r}. "
                f"{nearest(name, classes)}Rename the folder or column value."
            )
    table = np.array([known.get(name, UNLABELLED) for name in data.classes], dtype=np.int64)
    data.labels, data.classes = table[data.labels], list(classes)
    return data


def _shapes(text: str) -> ShapeData:
    count, _, seed = text.removeprefix("shapes:").partition("@")
    seed, _, size = seed.partition("x") if seed else ("0", "", "")
    try:
        return ShapeData(int(count), int(seed), int(size or 96))
    except ValueError:
        raise InputError(f"Rendered data is written shapes:COUNT or shapes:COUNT@SEED; got {text!r}.") from None


def _split_folder(root: Path, split: str) -> Path | None:
    """The sub-folder of a split, by any of its names."""
    names = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir()}
    return next((names[name] for name in SPLITS.get(split, (split,)) if name in names), None)


def _existing_folder(source: Any) -> Path:
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"Labelled training data must be a path; got {type(source).__name__}.")
    path = Path(source)
    if path.is_dir():
        return path
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    what = "is a file of no known kind" if path.exists() else "does not exist"
    raise InputError(
        f"Training data must be a folder with one sub-folder a class, a table ({', '.join(_TABLES)}), a list "
        f"({', '.join(_LISTS)}) or shards (.tar); {str(path)!r} {what}. {nearest(path.name, siblings)}".strip()
    )


def _class_folders(source: Any, split: str) -> FileData:
    root = _existing_folder(source)
    inside = _split_folder(root, split)
    if inside is None and split not in SPLITS:
        names = [entry.name for entry in root.iterdir() if entry.is_dir()]
        raise InputError(
            f"A split must be a sub-folder; {str(root)!r} has none named {split!r}. {nearest(split, names)}".strip()
        )
    root = inside or root
    folders = sorted(
        (entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__"))),
        key=lambda entry: entry.name,
    )
    names: list[str] = []
    labels: list[int] = []
    empty = []
    problems: list[tuple[str, str]] = []
    for label, folder in enumerate(folders):
        found = _walk(folder, problems)
        names += [path.relative_to(root).as_posix() for path in found]
        labels += [label] * len(found)
        if not found:
            empty.append(folder.name)
    if not names:
        flat = len(_walk(root, []))
        got = f"{flat} images in no sub-folder" if flat else f"{len(folders)} sub-folders and no image in any"
        raise InputError(
            f"Labelled training data must be folders of images, one folder a class; {str(root)!r} has {got}. "
            "Use CLASS/IMAGE.jpg, or a table with path and label; `pretrain` takes images without classes."
        )
    data = FileData(root, names, labels, [folder.name for folder in folders])
    data.problems = problems
    if empty:
        data.notes.append(f"{len(empty)} class folders are empty: {', '.join(empty[:5])}")
    return data


def _walk(folder: Path, problems: list[tuple[str, str]]) -> list[Path]:
    """Images and videos at any depth; folders that cannot be listed are named."""
    try:
        found = find_images(folder, extensions=IMAGE_EXTENSIONS | VIDEO_EXTENSIONS)
    except InputError:
        return []
    problems += [(str(path), "is a folder that cannot be listed") for path in found.unreadable]
    return list(found)


def _any_files(source: Any, split: str) -> FileData:
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        source = _split_folder(Path(source), split) or source
    found = find_images(source, extensions=IMAGE_EXTENSIONS | VIDEO_EXTENSIONS)
    names = [str(path) for path in found]
    root = Path(source) if isinstance(source, (str, os.PathLike)) and Path(source).is_dir() else None
    if root is not None:
        names = [os.path.relpath(name, root) for name in names]
    data = FileData(root or Path(), names, [UNLABELLED] * len(names))
    data.problems = [(str(path), "is a folder that cannot be listed") for path in found.unreadable]
    return data


def _table(path: Path, split: str, labelled: bool) -> FileData:
    """Rows of a table or a list; a `split` column, where there is one, selects."""
    columns = _read_table(path)[0] if path.suffix.lower() in _TABLES else _read_list(path)
    paths = next((columns[name] for name in _PATH_COLUMNS if name in columns), None)
    if paths is None:
        raise InputError(f"A table must have a column named path; {str(path)!r} has {', '.join(columns)}.")
    labels = next((columns[name] for name in _LABEL_COLUMNS if name in columns), None)
    if labels is None and labelled:
        raise InputError(f"A table must have a column named label; {str(path)!r} has {', '.join(columns)}.")
    splits = columns.get("split")
    wanted = _wanted(splits or [], split)
    problems: list[tuple[str, str]] = []
    names: list[str] = []
    texts: list[str] = []
    for row, name in enumerate(paths):
        if splits is not None and splits[row].strip().lower() != wanted:
            continue
        text = labels[row].strip() if labels is not None else ""
        if not name or (labelled and not text):
            problems.append((f"row {row + 2} of {path.name}", "no path" if not name else "no label"))
            continue
        names.append(name)
        texts.append(text)
    classes = _ordered(set(texts) - {""}) if labels is not None else []
    index = {name: number for number, name in enumerate(classes)}
    data = FileData(path.parent, names, [index.get(text, UNLABELLED) for text in texts], classes)
    data.problems = problems
    return data


def _wanted(column: Sequence[str], split: str) -> str | None:
    """The name that a split goes by in a column, None where it has none of that split."""
    present = {text.strip().lower() for text in column}
    return next((name for name in (split.lower(), *SPLITS.get(split, ())) if name in present), None)


def _ordered(names: set[str]) -> list[str]:
    """Class names sorted, by value where all are whole numbers."""
    return sorted(names, key=int) if all(name.isascii() and name.isdigit() for name in names) else sorted(names)


def _read_list(path: Path) -> dict[str, list[str]]:
    """A text file: a path on each line, with a label behind a tab if there is one."""
    rows = [line.split("\t") for line in _text(path).splitlines() if line.strip()]
    columns = {"path": [row[0].strip() for row in rows]}
    if rows and all(len(row) == 2 for row in rows):
        columns["label"] = [row[1] for row in rows]
    return columns


def _read_table(path: Path) -> tuple[dict[str, list[str]], int]:
    """Columns by lower-case name, every cell as text, and the number of rows."""
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise MissingExtraError("data", "pyarrow") from error
        try:
            table = parquet.read_table(path)
        except Exception as error:
            raise InputError(f"A Parquet table must be readable; {str(path)!r}: {error}.") from error
        columns = {
            name.lower(): ["" if value is None else str(value) for value in table[name].to_pylist()]
            for name in table.column_names
        }
        return columns, table.num_rows
    dialect = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = list(csv.reader(_text(path).splitlines(), delimiter=dialect))
    if not rows:
        raise InputError(f"A table must start with a row of column names; {str(path)!r} is empty.")
    header = [name.strip().lower() for name in rows[0]]
    body = [row for row in rows[1:] if any(cell.strip() for cell in row)]
    padded = [row + [""] * (len(header) - len(row)) for row in body]
    return {name: [row[column] for row in padded] for column, name in enumerate(header)}, len(body)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"Training data must be readable; {str(path)!r}: {error.strerror or error}.") from error
