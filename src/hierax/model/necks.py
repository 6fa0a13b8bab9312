"""The neck between SAM 2's trunk and its mask decoder: every stage's map at one width, and where each cell lies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Maps = list[Float[Tensor, "b c h w"]]
_TEMPERATURE = 10_000


class FeaturePyramidNeck(nn.Module):
    """Projects each stage's map to one width and adds coarser maps to some of the finer ones.

    Attributes:
        convs: One projection a stage, the deepest first.
        top_down: Stages, counted from 0, that receive the next coarser one.

    Source: SAM 2 (arXiv:2408.00714), whose neck adds to stage 3 only and whose decoder takes the three finest maps.
    """

    def __init__(self, channels: Sequence[int], dim: int = 256, *, top_down: Sequence[int] = (2, 3)) -> None:
        """Build the projections; `channels` are those of the stages, finest first."""
        super().__init__()
        self.top_down = tuple(top_down)
        # Quirk(SAM 2): the projections stand in the order of the way down, deepest first.
        self.convs = nn.ModuleList(nn.Conv2d(width, dim, kernel_size=1) for width in reversed(channels))

    def forward(self, maps: Sequence[Float[Tensor, "b _ h w"]]) -> tuple[Maps, Maps]:
        """Maps of one width and the positions of their cells, both finest first.

        Args:
            maps: Un-normed maps of all stages, finest first, channels first.
        """
        deepest = len(maps) - 1
        features: Maps = []
        for stage in range(deepest, -1, -1):
            x = self.convs[deepest - stage](maps[stage])
            if stage in self.top_down and stage != deepest:
                # In float32 whatever the type, as there.
                coarser = F.interpolate(features[-1].float(), scale_factor=2.0, mode="nearest")
                x = x + coarser.to(x.dtype)
            features.append(x)
        features.reverse()
        return features, [sine_position(x) for x in features]


def sine_position(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Sines and cosines of the row (first half of the channels) and column of every cell, the same for each sample.

    Source: the sine position encoding of DETR (arXiv:2005.12872), normalised to a full turn.
    """
    b, c, h, w = x.shape
    index = torch.arange(c // 2, device=x.device)
    wavelength = _TEMPERATURE ** (2 * (index // 2).to(x.dtype) / (c // 2))
    rows, columns = (_waves(side, wavelength) for side in (h, w))  # (h, c / 2), (w, c / 2)
    table = torch.cat([rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)], dim=-1)
    return table.permute(2, 0, 1).expand(b, c, h, w)


def _waves(side: int, wavelength: Float[Tensor, " c"]) -> Float[Tensor, "side c"]:
    place = torch.arange(1, side + 1, dtype=wavelength.dtype, device=wavelength.device)
    angle = (place / (side + 1e-6) * 2 * math.pi)[:, None] / wavelength
    return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1)
