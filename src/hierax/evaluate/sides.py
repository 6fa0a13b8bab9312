"""Which labelled samples are judged, and by which others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import console
from ..data.datasets.open import find_validation, open_data
from ..data.datasets.samples import UNLABELLED, Subset, TrainingData, match_classes
from ..data.datasets.tables import TABLES, read_table
from ..errors import InputError

AUTO = "auto"
SEARCHED = ("gallery", "query")  # what retrieval benchmarks call their splits


@dataclass(frozen=True)
class Sides:
    """Samples to learn or search from, and those that are judged.

    Attributes:
        train: Labelled samples.
        test: Labelled samples in the same classes; None where those of `train` are judged, each by the others.
        names: What the splits are called; none where all samples are taken.
        problems: What had to be left out, as (name, reason).
    """

    train: TrainingData
    test: TrainingData | None
    names: tuple[str, ...]
    problems: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.train) + (0 if self.test is None else len(self.test)) + len(self.problems)

    @property
    def classes(self) -> list[str]:
        """Class names by index."""
        return self.train.classes


def open_sides(data: Any, split: str = AUTO, *, gallery: bool = False) -> Sides:
    """Understand what a person points at as labelled samples to judge features on.

    Args:
        data: As for `open_data`.
        split: "auto" takes training and validation where there are both, else all there is; any other split is taken
            alone, each of its samples judged by the others.
        gallery: Whether splits named gallery and query are looked for, and classes may differ between the splits.

    Raises:
        InputError: As `open_data`, or fewer than two classes.
    """
    names = (split,)
    test = None
    if split != AUTO:
        train = open_data(data, split=split)
    elif gallery and _has_gallery(data):
        names = SEARCHED
        train, test = (open_data(data, split=name) for name in SEARCHED)
    else:
        train, test = open_data(data), find_validation(data)
        names = () if test is None else ("train", "validation")
    problems = [problem for side in (train, test) if side is not None for problem in side.problems]
    for side in filter(None, (train, test)):
        for note in side.notes:
            console.say(note)
    train = _labelled(train)
    if test is not None:
        test = _labelled(test)
        if gallery:  # where a class that cannot be found is counted as such
            train = match_classes(train, list(dict.fromkeys([*train.classes, *test.classes])))
        test = match_classes(test, train.classes)
    if len(np.unique(train.labels)) < 2:
        raise InputError(
            f"Features are judged by how they tell classes apart, so there must be two or more; got "
            f"{', '.join(map(repr, train.used_classes)) or 'none'}. Point at a folder with one sub-folder a class."
        )
    if test is None and np.bincount(train.labels).max() < 2:
        raise InputError(
            f"To judge an image by others of its class there must be some; each of the {len(train)} classes has one "
            "image. Add images, or a validation split."
        )
    return Sides(train, test, names, problems)


def _labelled(data: TrainingData) -> TrainingData:
    """Those samples that have a class."""
    known = np.flatnonzero(data.labels != UNLABELLED)
    if not len(known):
        raise InputError("Features are judged on labelled images; none of these has a class.")
    return data if len(known) == len(data) else Subset(data, known)


def _has_gallery(data: Any) -> bool:
    """Whether a folder or table has splits of these names."""
    if not isinstance(data, (str, os.PathLike)):
        return False
    path = Path(data)
    if os.path.isdir(path):
        return set(SEARCHED) <= {name.lower() for name in os.listdir(path) if os.path.isdir(path / name)}
    if path.suffix.lower() in TABLES and os.path.isfile(path):
        table = read_table(path)
        return all(table.wanted_split(name) is not None for name in SEARCHED)
    return False
