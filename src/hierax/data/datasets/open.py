"""From what a person points at to samples that can be read in any order.

Epochs, ranks and workers then need no more than a permutation, and a run can go on where it stopped.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import HieraxError, InputError
from ...net.transfer import shown
from ..files import nearest_file
from .folders import any_files, class_folders, layout_of
from .samples import EVERYTHING, SPLITS, ShapeData, TrainingData
from .shapes import LEAST_SIDE, MOST_IMAGES, MOST_SIDE
from .shards import is_shards, open_shards, splits_of
from .tables import LISTS, TABLES, open_table, read_table

_NUMBER = re.compile(r"[0-9]{1,30}")


def open_data(source: Any, *, split: str = "train", labelled: bool = True) -> TrainingData:
    """Understand what a person points at.

    Args:
        source: A folder with one sub-folder a class (or with `train` and `val` folders of such); a CSV, TSV or
            Parquet table with the columns path and label; a text file with a path on each line; WebDataset shards as
            a folder, a tar, "name-{0000..0099}.tar", a glob or http(s) URLs; "shapes:COUNT" or "shapes:COUNT@SEED";
            or, without labels, any folder, glob or sequence of paths.
        split: "train", "validation", a name that the data uses, or "all" for folders whose sub-folders are all
            classes whatever they are called, and for every row of a table.
        labelled: Whether every sample must have a class.

    Raises:
        InputError: Nothing there, no sample, a folder that may be a split or a class, or a layout that gives no
            labels where they are needed.
        MissingExtraError: A Parquet table without pyarrow.
    """
    if isinstance(source, TrainingData):
        return source
    with _readable(source):
        data = _opened(source, split, labelled)
    if not len(data):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in data.problems[:3])
        raise InputError(f"Training data must hold at least one sample; {shown(str(source))!r} holds none. {reasons}")
    return data


@contextlib.contextmanager
def _readable(source: Any) -> Iterator[None]:
    """Say it where the system refuses: names too long, folders closed to us or nested too deep."""
    try:
        yield
    except (OSError, RecursionError) as error:
        if isinstance(error, HieraxError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Training data must be readable; {shown(str(source))[:500]!r}: {reason}.") from error


def _opened(source: Any, split: str, labelled: bool) -> TrainingData:
    text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    if text.startswith("shapes:"):
        return _shapes(text)
    if text and is_shards(text):
        return open_shards(text, split=split, labelled=labelled)
    if Path(text).suffix.lower() in (*TABLES, *LISTS):
        return open_table(Path(text), split, labelled)
    return class_folders(_existing_folder(source), split) if labelled else any_files(source, split)


def find_validation(source: Any, *, beside: str = "train") -> TrainingData | None:
    """The labelled validation split of a data source, None where it has none besides the split that is trained on."""
    if not isinstance(source, (str, os.PathLike)) or beside in (EVERYTHING, "validation", *SPLITS["validation"]):
        return None
    path = Path(source)
    with _readable(source):
        if not str(source).startswith("shapes:") and is_shards(source):
            found = not splits_of(source).isdisjoint(SPLITS["validation"])
        elif path.suffix.lower() in TABLES and os.path.isfile(path):
            found = read_table(path).wanted_split("validation") is not None
        else:
            found = os.path.isdir(path) and "validation" in layout_of(path).splits
    return open_data(source, split="validation") if found else None


def _shapes(text: str) -> ShapeData:
    count, _, seed = text.removeprefix("shapes:").partition("@")
    seed, _, size = seed.partition("x") if seed else ("0", "", "")
    numbers = [int(part) if _NUMBER.fullmatch(part) else -1 for part in (count, seed, size or "96")]
    bounds = (range(MOST_IMAGES + 1), range(1 << 63), range(LEAST_SIDE, MOST_SIDE + 1))
    if not all(number in bound for number, bound in zip(numbers, bounds, strict=True)):
        raise InputError(
            f"Rendered data is written shapes:COUNT or shapes:COUNT@SEED, with up to {MOST_IMAGES:,} images and a seed "
            f"from 0 to 2**63 - 1; got {text[:100]!r}."
        )
    return ShapeData(*numbers)


def _existing_folder(source: Any) -> Path:
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"Labelled training data must be a path; got {type(source).__name__}.")
    path = Path(source)
    if os.path.isdir(path):
        return path
    what = "is a file of no known kind" if os.path.exists(path) else "does not exist"
    raise InputError(
        f"Training data must be a folder with one sub-folder a class, a table ({', '.join(TABLES)}), a list "
        f"({', '.join(LISTS)}) or shards (.tar); {shown(str(path))[:300]!r} {what}. {nearest_file(path)}".strip()
    )
