"""The token order of the packages that lay mask units out contiguously ("unrolled"), from our grids.

A coordinate is written in base `stride`, `steps` digits after the coarse part. Unrolled order counts the finest
digit slowest and the coarse position fastest, so that a maximum over a leading axis pools and a stride picks a unit.

Source: arXiv:2306.00989, the reordering of its reference implementation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def unroll(x: Float[Tensor, "b *grid c"], steps: int, stride: tuple[int, ...] = (2, 2)) -> Float[Tensor, "b n c"]:
    """Tokens of a grid in unrolled order.

    Args:
        x: Token grid; each axis a multiple of stride ** steps.
        steps: Query pools that the order still has room for; 0 is raster order.
        stride: Query stride along each axis.
    """
    b, *grid, c = x.shape
    # Every digit is an axis of its own, counted from 1.
    shape = [n for g, s in zip(grid, stride, strict=True) for n in (g // s**steps, *[s] * steps)]
    coarse = [1 + axis * (steps + 1) for axis in range(len(grid))]
    finest_first = [start + digit for digit in range(steps, 0, -1) for start in coarse]
    return x.reshape(b, *shape, c).permute(0, *finest_first, *coarse, len(shape) + 1).reshape(b, -1, c)


def unrolled_order(grid: tuple[int, ...], steps: int, stride: tuple[int, ...] = (2, 2)) -> Int[Tensor, " n"]:
    """Row-major index of each token of a grid, in unrolled order; its argsort leads back to the grid."""
    index = torch.arange(torch.Size(grid).numel()).reshape(1, *grid, 1)
    return unroll(index, steps, stride).flatten()
