"""Labels of one map from those of others, by how much their cells are alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def spread_labels(
    features: Float[Tensor, "c h w"],
    context: Sequence[tuple[Float[Tensor, "c h w"], Float[Tensor, "k h w"]]],
    *,
    radius: int,
    top_k: int,
    temperature: float,
) -> Float[Tensor, "k h w"]:
    """Labels of the cells of a map: a weighted mean of those of the cells in other maps that are most like each.

    Args:
        features: Cells of length 1.
        context: Such maps of the same size, with labels.
        radius: Rows and columns, each way, in which like cells are sought.
        top_k: How many count, of all maps together; ties with the last of them count too.
        temperature: A cell weighs exp(cosine / temperature).

    Source: `eval_video_segmentation.py` of DINO (arXiv:2104.14294).
    """
    _, height, width = features.shape
    keys = torch.stack([found for found, _ in context])  # (n, c, h, w)
    values = torch.stack([labels for _, labels in context])  # (n, k, h, w)
    places = torch.arange(width)
    near = (places[:, None] - places[None]).abs() <= radius  # (query column, key column)
    out = torch.empty(values.shape[1], height, width)
    for row in range(height):
        band = slice(max(row - radius, 0), min(row + radius + 1, height))
        found = keys[:, :, band].permute(1, 0, 2, 3)  # (c, n, rows, w)
        cosines = features[:, row].T @ found.flatten(1)  # (query, n * rows * w)
        outside = ~near[:, None].expand(width, found.shape[1] * found.shape[2], width).flatten(1)
        cosines = cosines.masked_fill(outside, -torch.inf)
        best = cosines.topk(min(top_k, cosines.shape[1]), dim=1).values
        kept = cosines >= best[:, -1:]
        weights = torch.where(kept & ~outside, ((cosines - best[:, :1]) / temperature).exp(), 0.0)
        weights = weights / weights.sum(1, keepdim=True)
        labels = values[:, :, band].permute(1, 0, 2, 3).flatten(1)  # (k, n * rows * w)
        out[:, row] = labels @ weights.T
    return out
