"""What a class's probability does while the parts that a map ranks highest are taken away, or put in.

Source: deletion and insertion, arXiv:1806.07421.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from ..data.placing import placed
from ..model.encoder import Encoder
from ..model.explainers import predicted
from ..model.explainers.occlusion import probability

CELL = 8  # pixels of a side of what is taken away at once
_FIELDS = 4  # a side, of the blurred image that insertion begins with
_MOST = 1 << 21  # pixels of changed copies at a time


@torch.no_grad()
def deletion_and_insertion(
    encoder: Encoder, x: Float[Tensor, "1 3 h w"], cells: Float[ndarray, "rows columns"], *, steps: int = 20
) -> tuple[float, float]:
    """Areas under the probability of the class that is most probable at first, over the share that was changed.

    Cells of 8 pixels are taken in the order of the map. Deletion covers them with 0, the mean colour of the recipe;
    insertion puts them into the image averaged in 4 x 4 fields.

    Args:
        encoder: An image network with classes, in eval mode.
        x: One preprocessed image.
        cells: A map over it, of any grid.
        steps: In how many parts of equal size.

    Returns:
        Of deletion (less is better) and of insertion (more is better), each in 0..1.
    """
    taken = torch.from_numpy(taken_first(cells, (x.shape[2], x.shape[3]), steps)).to(x.device)  # (steps + 1, h, w)
    blurred = F.interpolate(F.adaptive_avg_pool2d(x.float(), _FIELDS), size=x.shape[2:], mode="bilinear").to(x.dtype)
    label = predicted(encoder, x)
    areas = []
    for start, end in ((x, torch.zeros_like(x)), (blurred, x)):
        heights = []
        for part in taken.split(max(1, _MOST // (x.shape[2] * x.shape[3]))):
            changed = torch.where(part[:, None], end, start)  # (part, 3, h, w)
            heights.append(probability(encoder, changed, label.expand(len(part))))
        curve = torch.cat(heights)
        areas.append(float((curve[1:] + curve[:-1]).mean() / 2))
    return areas[0], areas[1]


def taken_first(cells: Float[ndarray, "rows columns"], size: tuple[int, int], steps: int) -> Bool[ndarray, "steps h w"]:
    """Which pixels are changed after each step, none to all; cells of equal value are taken in reading order."""
    values = placed(cells, size, None)
    side = (size[0] // CELL, size[1] // CELL)
    means = values.reshape(side[0], CELL, side[1], CELL).mean((1, 3))
    rank = np.empty(means.size, np.int64)
    rank[np.argsort(-means.ravel(), kind="stable")] = np.arange(means.size)
    counts = np.round(np.linspace(0, means.size, steps + 1)).astype(np.int64)
    taken = rank.reshape(side) < counts[:, None, None]  # (steps + 1, rows, columns)
    return taken.repeat(CELL, 1).repeat(CELL, 2)
