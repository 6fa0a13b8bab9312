"""Position tables resized by two matrix products: the numbers of `resize_table`, in operators that every runtime has.

A resize operator inside an exported graph has other coefficients, borders or antialiasing in every runtime; a product
has none of these. The matrices are computed from the input's size, in the graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Of torch's cubic kernel; with antialiasing it is another.
_COEFFICIENT, _ANTIALIASED = -0.75, -0.5
_BORDER = 2  # cells beyond the edge that the kernel reaches


def resize_by_products(
    table: Float[Tensor, "1 *grid c"], grid: tuple[int, ...], antialias: bool
) -> Float[Tensor, "1 *new c"]:
    """Bicubic resize of a 2-D position table to a grid whose sides may be symbols; see `resize_table`."""
    _, rows, columns, c = table.shape
    cells = table[0]
    if not antialias:  # the cells at the edge go on beyond it
        wide = F.pad(cells.permute(2, 0, 1)[None], [_BORDER] * 4, mode="replicate")
        cells = wide[0].permute(1, 2, 0)
    down = _matrix(rows, grid[0], antialias, table)
    along = _matrix(columns, grid[1], antialias, table)
    cells = (down @ cells.flatten(1)).unflatten(1, (-1, c))  # (h, columns, c)
    return (along @ cells)[None]


def _matrix(old: int, new: int, antialias: bool, like: Tensor) -> Float[Tensor, "new old"]:
    """What each of the new cells takes of the old ones, which without antialiasing have a border."""
    centre = (torch.arange(new, dtype=like.dtype, device=like.device) + 0.5) * old / new - 0.5
    if not antialias:
        place = torch.arange(-_BORDER, old + _BORDER, dtype=like.dtype, device=like.device)
        return _cubic(place - centre[:, None], _COEFFICIENT)
    place = torch.arange(old, dtype=like.dtype, device=like.device)
    # Where the table shrinks, the kernel widens.
    scale = (torch.full_like(centre[:1], old) / new).clamp(min=1)
    weights = _cubic((place - centre[:, None]) / scale, _ANTIALIASED)
    return weights / weights.sum(1, keepdim=True)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel (Keys 1981) of a coefficient, 0 from 2 on."""
    near = distance.abs().clamp(max=2)
    inner = ((a + 2) * near - (a + 3)) * near * near + 1
    outer = ((a * near - 5 * a) * near + 8 * a) * near - 4 * a
    return torch.where(near <= 1, inner, outer)
