"""Classes of cells by the labelled cells that are most like them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

TEMPERATURE = 0.07
_ROWS = 4096  # cells whose neighbours are sought at a time


def votes(
    rows: Float[Tensor, "n d"],
    support: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    *,
    classes: int,
    neighbours: int,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, "n classes"]:
    """Shares of the votes; one weighs exp(cosine / temperature).

    Args:
        rows: Cells that are asked about.
        support: Labelled cells, of length 1.
        labels: Their classes.
        classes: How many there are.
        neighbours: Labelled cells that vote on each.
        temperature: The smaller, the more the nearest decide.

    Source: the kNN protocol of DINO (arXiv:2104.14294).
    """
    out = torch.zeros(len(rows), classes)
    count = min(neighbours, len(support))
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        near = torch.nn.functional.normalize(rows[part], dim=1) @ support.T
        best = near.topk(count, dim=1)
        out[part].scatter_add_(1, labels[best.indices], (best.values / temperature).softmax(1))
    return out
