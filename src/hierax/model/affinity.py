"""Labels of one map from those of others, by how much their cells are alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_BLOCK = 12  # cells each way


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
    keys = torch.stack([found for found, _ in context], 1)  # (c, n, h, w)
    values = torch.stack([labels for _, labels in context], 1)  # (k, n, h, w)
    out = torch.empty(len(values), height, width)
    for rows in _blocks(height):
        for columns in _blocks(width):
            down, across = _around(rows, radius, height), _around(columns, radius, width)
            above, beside = _far(rows, down, radius), _far(columns, across, radius)
            outside = above[:, None, :, None] | beside[None, :, None, :]  # (rows, columns, key rows, key columns)
            outside = outside.flatten(2).flatten(0, 1).repeat(1, len(context))  # (queries, n * keys)
            cosines = features[:, rows, columns].flatten(1).T @ keys[:, :, down, across].flatten(1)
            cosines.masked_fill_(outside, -torch.inf)
            best = cosines.topk(min(top_k, cosines.shape[1]), dim=1).values
            weights = ((cosines - best[:, :1]) / temperature).exp_()
            weights.masked_fill_((cosines < best[:, -1:]) | outside, 0.0)
            weights /= weights.sum(1, keepdim=True)
            labels = values[:, :, down, across].flatten(1) @ weights.T
            out[:, rows, columns] = labels.reshape(-1, rows.stop - rows.start, columns.stop - columns.start)
    return out


def _blocks(side: int) -> Iterator[slice]:
    """Queries that share one neighbourhood; of more each would be compared with cells that are too far from it."""
    return (slice(start, min(start + _BLOCK, side)) for start in range(0, side, _BLOCK))


def _around(block: slice, radius: int, side: int) -> slice:
    return slice(max(block.start - radius, 0), min(block.stop + radius, side))


def _far(queries: slice, keys: slice, radius: int) -> Bool[Tensor, "q k"]:
    """Whether rows or columns lie further apart than the radius."""
    places = [torch.arange(part.start, part.stop) for part in (queries, keys)]
    return (places[0][:, None] - places[1][None]).abs() > radius
