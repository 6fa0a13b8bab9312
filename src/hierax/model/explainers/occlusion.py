"""Occlusion: what a class loses when a part of the image is covered, measured part by part; slow, and exact."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..encoder import Encoder

_MOST = 1 << 21  # pixels of covered copies at a time


@torch.no_grad()
def occlusion(
    encoder: Encoder, x: Float[Tensor, "b 3 h w"], classes: Int[Tensor, " b"], stage: int = -2
) -> Float[Tensor, "b rows columns"]:
    """By how much the class's probability falls, cell by cell of a stage's grid; negative where it rises.

    Squares of two cells a side slide over the image by one cell and over its edges by one, so that four of them cover
    each cell: its value is their mean. A square is covered by 0, the mean colour of the checkpoint's recipe.

    Args:
        encoder: An image network with classes, in eval mode.
        x: Preprocessed images.
        classes: Which class of each.
        stage: Whose cells, counted from 0.
    """
    cell = encoder.strides[stage]
    rows, columns = (side // cell for side in x.shape[2:])
    corners = [(row, column) for row in range(-1, rows) for column in range(-1, columns)]
    whole = probability(encoder, x, classes)  # (b,)
    at_once = max(1, _MOST // (x.shape[2] * x.shape[3]))
    drops = torch.zeros(len(x), len(corners), dtype=torch.float64, device=x.device)
    for index, image in enumerate(x):
        for first in range(0, len(corners), at_once):
            part = corners[first : first + at_once]
            covered = image.repeat(len(part), 1, 1, 1)
            for copy, (down, across) in zip(covered, _squares(part, cell), strict=True):
                copy[:, down, across] = 0
            left = probability(encoder, covered, classes[index].expand(len(part)))
            drops[index, first : first + len(part)] = whole[index] - left
    squares = drops.reshape(len(x), rows + 1, columns + 1)
    mean = (squares[:, 1:, 1:] + squares[:, 1:, :-1] + squares[:, :-1, 1:] + squares[:, :-1, :-1]) / 4
    return mean.float()


def _squares(corners: list[tuple[int, int]], cell: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of pixels of squares whose corner is that cell."""
    for corner in corners:
        down, across = (slice(max(0, place * cell), (place + 2) * cell) for place in corner)
        yield down, across


def probability(encoder: Encoder, x: Float[Tensor, "b 3 h w"], classes: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Probability of a class of each image, float64."""
    return encoder(x).double().softmax(-1).gather(1, classes[:, None])[:, 0]
