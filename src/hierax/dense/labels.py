"""From labels of pixels to labels of cells, and back from scores of cells to classes of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

_BAND = 4_000_000  # scores that are resized at a time


@dataclass(frozen=True)
class CellLabels:
    """The labelled cells of an image.

    Attributes:
        cells: Their places in the grid, row by row, ascending.
        labels: The class that most labelled pixels of each have; of equal ones the first.
        counts: Labelled pixels of each cell, by class.
    """

    cells: Int[ndarray, " n"]
    labels: Int[ndarray, " n"]
    counts: Int[ndarray, "n k"]

    def take(self, chosen: Int[ndarray, " m"]) -> CellLabels:
        """Some of them."""
        return CellLabels(self.cells[chosen], self.labels[chosen], self.counts[chosen])


def cell_labels(classes: Int[ndarray, "h w"], grid: tuple[int, int], count: int) -> CellLabels:
    """Labels of the cells whose area holds the centre of a labelled pixel.

    Args:
        classes: Class of each pixel, -1 where it has none.
        grid: Cells, (height, width).
        count: How many classes there are.
    """
    y, x = np.nonzero(classes >= 0)
    rows = (2 * y + 1) * grid[0] // (2 * classes.shape[0])
    columns = (2 * x + 1) * grid[1] // (2 * classes.shape[1])
    keys, pixels = np.unique((rows * grid[1] + columns) * count + classes[y, x], return_counts=True)
    cells, places = np.unique(keys // count, return_inverse=True)
    counts = np.zeros((len(cells), count), np.int64)
    counts[places, keys % count] = pixels
    labels = counts.argmax(1) if len(cells) else np.zeros(0, np.int64)
    return CellLabels(cells, labels, counts)


def balanced_choice(labels: Int[ndarray, " n"], most: int, rng: np.random.Generator) -> Int[ndarray, " m"]:
    """At most so many samples, ascending, of which no class has more than its share while others need theirs."""
    if len(labels) <= most:
        return np.arange(len(labels))
    present, counts = np.unique(labels, return_counts=True)
    order = np.argsort(counts, kind="stable")  # what small classes leave goes to the larger ones
    left, chosen = most, []
    for done, place in enumerate(order):
        quota = min(int(counts[place]), left // (len(order) - done))
        members = np.flatnonzero(labels == present[place])
        chosen.append(rng.choice(members, quota, replace=False))
        left -= quota
    return np.sort(np.concatenate(chosen))


def pixel_classes(scores: Float[Tensor, "k h w"], size: tuple[int, int]) -> UInt8[ndarray, "h w"]:
    """The class with the highest score of each pixel, scores resized bilinearly to (height, width).

    Rows are resized in bands, so that not all scores of a large image are held at once.
    """
    count, height, _ = scores.shape
    rows = max(1, _BAND // (count * size[1]))
    out = np.empty(size, np.uint8)
    wide = F.interpolate(scores[None], size=(height, size[1]), mode="bilinear", align_corners=False)[0]  # (k, h, W)
    # Where the centre of each row of pixels lies between the centres of rows of cells.
    places = ((torch.arange(size[0], dtype=torch.float64) + 0.5) * height / size[0] - 0.5).clamp(0, height - 1)
    above = places.floor().long()
    below, share = (above + 1).clamp(max=height - 1), (places - above).float()[None, :, None]
    for top in range(0, size[0], rows):
        band = slice(top, top + rows)
        mixed = torch.lerp(wide[:, above[band]], wide[:, below[band]], share[:, band])
        out[band] = mixed.argmax(0).to(torch.uint8).numpy()
    return out
