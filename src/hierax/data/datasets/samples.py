"""A set of samples to train on: read by position, so that any order, and any place to resume at, is a permutation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ...errors import InputError, nearest
from ..files import name_bytes, name_text
from .shapes import CLASSES, object_mask, render

Problems = Sequence[tuple[str, str]]
UNLABELLED = -1
# What splits are called; the first name that is there is taken.
SPLITS = {"train": ("train", "training"), "validation": ("validation", "val", "valid", "test", "testing")}
TESTS = ("test", "testing")  # of those, what may as well hold images without classes, or be a class
EVERYTHING = "all"  # the split that takes every row, and every sub-folder as a class
MOST_CLASSES = 200_000  # of a set; a head for as many, and its optimiser, take some gigabytes


def is_number(name: str) -> bool:
    """Whether a class name is a whole number."""
    return name.isascii() and name.isdigit()


def class_order(names: Iterable[str]) -> list[str]:
    """Class names in the order of their indices: by value where all are whole numbers, else by name."""
    names = set(names)
    if not all(map(is_number, names)):
        return sorted(names)
    return sorted(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))


def number_labels(texts: Sequence[str], *, indices: bool = False) -> tuple[list[int], list[str]]:
    """Labels as class indices, and the class names by index; an empty text is no label.

    With `indices`, whole numbers are the indices themselves, unless more than half of those up to the largest are
    missing: then they are names.

    Raises:
        InputError: More classes than `MOST_CLASSES`.
    """
    readable = {text: name_text(text) for text in set(texts)}
    classes = check_classes(class_order(set(readable.values()) - {""}))
    largest = classes[-1].lstrip("0") if indices and classes and all(map(is_number, classes)) else None
    if largest is not None and len(largest) < 10 and int(largest or 0) < 2 * len(classes):
        numbers = [int(text) if text else UNLABELLED for text in texts]
        return numbers, [str(index) for index in range(max(numbers) + 1)]
    index = {name: number for number, name in enumerate(classes)}
    return [index.get(readable[text], UNLABELLED) for text in texts], classes


def check_classes(names: list[str]) -> list[str]:
    """Refuse more classes than a head can have.

    Raises:
        InputError: More than `MOST_CLASSES`.
    """
    if len(names) > MOST_CLASSES:
        raise InputError(
            f"Data may have at most {MOST_CLASSES:,} classes; got {len(names):,}, such as {names[0][:80]!r}. Are these "
            "the names of samples? Name the column of their classes label."
        )
    return names


class TrainingData:
    """Samples by position.

    Attributes:
        labels: Class index of each sample, -1 where it has none.
        classes: Class names by index; empty where nothing is labelled.
        problems: What had to be left out, as (name, reason).
        notes: What a person should know about how the data was understood.
    """

    def __init__(self, labels: Sequence[int] | np.ndarray, classes: Sequence[str], problems: Problems = ()) -> None:
        self.labels: Int[np.ndarray, " n"] = np.asarray(labels, dtype=np.int64)
        self.classes, self.problems, self.notes = list(classes), list(problems), list[str]()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def used_classes(self) -> list[str]:
        """Names of the classes that have samples, in order."""
        return [self.classes[label] for label in np.unique(self.labels) if label >= 0]

    def name(self, index: int) -> str:
        """What to call a sample in messages."""
        raise NotImplementedError

    def read(self, index: int) -> Any:
        """The sample as `decode_image` takes it: a path, bytes, or RGB bytes as an array."""
        raise NotImplementedError

    def mask(self, index: int) -> Bool[np.ndarray, "h w"] | None:
        """Which pixels of a sample are its object; None where nobody knows."""
        return None

    def fingerprint(self) -> str:
        """A digest of names and labels, equal for equal sets."""
        digest = hashlib.sha256(self.labels.tobytes())
        digest.update(name_bytes("\0".join(self.classes)))
        for index in range(len(self)):
            digest.update(name_bytes(self.name(index)) + b"\0")
        return digest.hexdigest()[:16]


class FileData(TrainingData):
    """One file a sample."""

    def __init__(self, root: Path, names: list[str], labels: list[int], classes: list[str], problems: Problems) -> None:
        super().__init__(labels, classes, problems)
        self.root, self.names = root, names

    def name(self, index: int) -> str:
        """The path below the root."""
        return self.names[index]

    def read(self, index: int) -> Path:
        """The path."""
        return self.root / self.names[index]


class ShapeData(TrainingData):
    """The rendered shapes and textures, drawn when they are read."""

    def __init__(self, count: int, seed: int, size: int) -> None:
        super().__init__(np.arange(count) % len(CLASSES), CLASSES)
        self.seed, self.size = seed, size

    def name(self, index: int) -> str:
        """Index and seed."""
        return f"shape {index} of seed {self.seed}"

    def read(self, index: int) -> np.ndarray:
        """Draw it."""
        return render(index, seed=self.seed, size=self.size)[0]

    def mask(self, index: int) -> Bool[np.ndarray, "h w"] | None:
        """What was drawn, without the textures, which fill their frames."""
        return object_mask(index, seed=self.seed, size=self.size)

    def fingerprint(self) -> str:
        """Count, seed and size say it all."""
        return f"shapes-{len(self)}-{self.seed}-{self.size}"


class Subset(TrainingData):
    """Some samples of another set, in a given order."""

    def __init__(self, base: TrainingData, indices: Sequence[int] | np.ndarray) -> None:
        self.base, self.indices = base, np.asarray(indices, dtype=np.int64)
        super().__init__(base.labels[self.indices], base.classes)

    def name(self, index: int) -> str:
        """As in the whole set."""
        return self.base.name(int(self.indices[index]))

    def read(self, index: int) -> Any:
        """As in the whole set."""
        return self.base.read(int(self.indices[index]))

    def mask(self, index: int) -> Bool[np.ndarray, "h w"] | None:
        """As in the whole set."""
        return self.base.mask(int(self.indices[index]))


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
    """The same samples with labels that count in another list of classes, by name.

    Raises:
        InputError: A class with samples that the list does not have.
    """
    known = {name: index for index, name in enumerate(classes)}
    for name in data.used_classes:
        if name not in known:
            raise InputError(
                f"Validation classes must be among the {len(classes)} training classes; got {name!r}. "
                f"{nearest(name, classes)}Rename the folder or column value."
            )
    table = np.array([*(known.get(name, UNLABELLED) for name in data.classes), UNLABELLED], dtype=np.int64)
    data.labels, data.classes = table[data.labels], list(classes)
    return data
