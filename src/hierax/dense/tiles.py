"""Large images in tiles that overlap, and how much each tile counts where several do."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

STEP = 32  # pixels: where tiles may begin, so that cells of every stage coincide


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side, all multiples of 32, the last at the end.

    Args:
        side: Pixels, a multiple of 32.
        tile: Pixels of a tile, a multiple of 32.
        overlap: Pixels that neighbours share at least.
    """
    if side <= tile:
        return [0]
    count = math.ceil((side - overlap) / (tile - overlap))
    last = (side - tile) // STEP
    return [STEP * round(last * number / (count - 1)) for number in range(count)]


def tiles(size: tuple[int, int], tile: int, overlap: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each tile of an image of (height, width) pixels, row by row."""
    for top in starts(size[0], tile, overlap):
        for left in starts(size[1], tile, overlap):
            yield slice(top, min(top + tile, size[0])), slice(left, min(left + tile, size[1]))


def ramp(part: slice, side: int, overlap: int, stride: int) -> Float[Tensor, " cells"]:
    """How much each cell of a tile counts along one axis: less and less towards an edge that another tile covers.

    Args:
        part: The tile's pixels.
        side: The image's.
        overlap: Pixels over which it rises from nothing to one.
        stride: Pixels a cell.
    """
    place = torch.arange(part.start, part.stop, stride) + stride / 2
    rise = (place - part.start) / overlap if part.start > 0 else torch.ones(len(place))
    fall = (part.stop - place) / overlap if part.stop < side else torch.ones(len(place))
    return torch.minimum(rise, fall).clamp(max=1.0)
