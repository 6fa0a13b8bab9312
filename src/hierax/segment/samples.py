"""Labelled cells of a folder of images and masks, with their features; whatever is wrong with it has a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from .. import console
from ..data.labelled import mask_meaning, read_pair
from ..data.mask_classes import Classes, MaskClass
from ..data.pairs import Pairs, find_pairs
from ..dense.labels import CellLabels, balanced_choice, cell_labels
from ..dense.maps import Dense, read_image
from ..errors import InputError

_CELLS = 20_000  # that are learned from, of all images together
_NUMBERS = 60_000_000  # the same with their features: 240 MB


@dataclass
class Samples:
    """Labelled cells by image.

    Attributes:
        classes: Those that occur.
        names: Of the images.
        labels: Labelled cells of each.
        rows: Their features.
        problems: What was left out, as (name, reason).
        labelled: Share of all pixels that are labelled.
    """

    classes: list[MaskClass]
    names: list[str] = field(default_factory=list)
    labels: list[CellLabels] = field(default_factory=list)
    rows: list[Float[ndarray, "n c"]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    labelled: float = 0.0

    def joined(self, images: Sequence[int] | None = None) -> tuple[Float[ndarray, "n c"], Int[ndarray, " n"]]:
        """Features and classes of the cells of some images; None is all."""
        chosen = range(len(self.names)) if images is None else [int(image) for image in images]
        rows = [self.rows[image] for image in chosen]
        return np.concatenate(rows), np.concatenate([self.labels[image].labels for image in chosen])

    def right(self, image: int, answers: Int[ndarray, " n"]) -> Int[ndarray, " k"]:
        """Labelled pixels of an image that answers for its cells get right, by class."""
        counts = self.labels[image].counts
        cells = np.arange(len(answers))
        right = np.zeros(counts.shape[1], np.int64)
        np.add.at(right, answers, counts[cells, answers])
        return right

    def pixels_by_class(self) -> Int[ndarray, " k"]:
        """Labelled pixels of each class."""
        return np.sum([each.counts.sum(0) for each in self.labels], axis=0)


def read_samples(
    folder: str | Path,
    dense: Dense,
    *,
    classes: str | Path | None = None,
    unlabelled: str | int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Samples:
    """Labelled cells of a folder, and their features.

    Raises:
        InputError: No labels, one class, a mask of another size than its image, or of values that mean nothing.
    """
    pairs = find_pairs(folder)
    meaning = mask_meaning(pairs, classes, unlabelled)
    found = _labelled(pairs, meaning, dense)
    most = min(_CELLS, _NUMBERS // sum(dense.channels.values())) // max(len(found.names), 1)
    rng = np.random.default_rng(seed)
    images = {pair.name: pair.image for pair in pairs.pairs}
    with console.bar("stage maps", total=len(found.names), unit="img", wanted=progress) as bar:
        for place, name in enumerate(found.names):
            kept = found.labels[place].take(balanced_choice(found.labels[place].labels, max(most, 50), rng))
            found.labels[place] = kept
            found.rows.append(dense.cells(read_image(images[name]), kept.cells))
            bar.update()
    return found


def _labelled(pairs: Pairs, meaning: Classes, dense: Dense) -> Samples:
    """The labelled cells of each image, without features; classes that never occur are left out and named."""
    found = Samples(list(meaning.known), problems=pairs.problems())
    pixels = labelled = 0
    for pair in pairs.pairs:
        image, classes = read_pair(pair, meaning)
        pixels += classes.size
        labelled += int((classes >= 0).sum())
        if not (classes >= 0).any():
            found.problems.append((str(pair.mask), "a mask without a label: all of its pixels are unlabelled"))
            continue
        found.names.append(pair.name)
        found.labels.append(cell_labels(classes, dense.grid(image.shape[:2]), len(meaning)))
    if not found.names:
        raise InputError(
            f"Labels need a scribble at least; none of the {len(pairs.pairs)} masks in {str(pairs.folder)!r} has a "
            "labelled pixel. Draw some, or state another unlabelled value (--unlabelled)."
        )
    found.labelled = labelled / pixels
    return _without_absent(found)


def _without_absent(found: Samples) -> Samples:
    """The same without classes that no pixel, or no cell, is of."""
    pixels = found.pixels_by_class()
    cells = np.bincount(np.concatenate([each.labels for each in found.labels]), minlength=len(found.classes))
    for place, each in enumerate(found.classes):
        if not pixels[place]:
            found.problems.append((each.name, "a class that never occurs in the masks: the head will not know it"))
        elif not cells[place]:
            found.problems.append(
                (each.name, "a class drawn finer than a cell of the maps: the head will not know it; raise --size")
            )
    kept = np.flatnonzero(cells)
    if len(kept) < 2:
        only = found.classes[kept[0]].name if len(kept) else "none"
        raise InputError(
            f"Labels need two classes at least; only {only!r} is drawn. Draw a background too, or state the value that "
            "means nothing was drawn (--unlabelled)."
        )
    new = np.cumsum(cells > 0) - 1
    for place, each in enumerate(found.labels):
        found.labels[place] = CellLabels(each.cells, new[each.labels], each.counts[:, kept])
    found.classes = [found.classes[place] for place in kept]
    return found
