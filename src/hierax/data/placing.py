"""Maps of what a network saw, put back onto the image that it was shown."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ..config import PreprocessSpec
from .preprocess import resized_size, seen_from

# A map is constant from the centre of its outermost cells to the rim; falling by this much of itself a cell leaves the
# maximum at the centre of a cell, where argmax would find the corner of the image.
_FALL = 1e-4


def placed(
    cells: Float[ndarray, "rows columns"], size: tuple[int, int], spec: PreprocessSpec | None
) -> Float[ndarray, "h w"]:
    """A map of the network's input, bilinear, over the pixels of the image; 0 where the network saw nothing.

    Args:
        cells: Values of the cells of a grid over the network's input.
        size: Height and width of the image.
        spec: How it became the input; None where it is the input.
    """
    resized, start, seen = size, (0, 0), size
    if spec is not None:
        resized, seen = resized_size(size, spec), spec.size
        start = seen_from(resized, spec)
    down, across = (
        _weights(side, scaled / side, first, length, count)
        for side, scaled, first, length, count in zip(size, resized, start, seen, cells.shape, strict=True)
    )
    return (down @ cells.astype(np.float64) @ across.T).astype(np.float32)


def _weights(side: int, scale: float, first: int, length: int, count: int) -> Float[ndarray, "side count"]:
    """How much each of `count` cells gives each pixel; they cover `length` of the resized pixels from the `first`."""
    pixels = (np.arange(side) + 0.5) * scale - first  # in the input
    place = pixels / length * count - 0.5  # in cells, 0 at the centre of the first
    inside = np.clip(place, 0, count - 1)
    below = np.minimum(inside.astype(int), max(count - 2, 0))
    above = np.minimum(below + 1, count - 1)
    weights = np.zeros((side, count))
    rows = np.arange(side)
    weights[rows, below] += 1 - (inside - below)
    weights[rows, above] += inside - below
    weights *= (1 - _FALL * np.abs(place - inside))[:, None]
    weights[(pixels < 0) | (pixels > length)] = 0
    return weights
