"""The neck between SAM 2's trunk and its mask decoder: every stage's map at one width, and where each cell lies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError

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


class Sam2Maps(NamedTuple):
    """What SAM 2's mask decoder takes of an image, finest first: strides 4, 8 and 16."""

    features: list[Tensor]
    """Maps (b, c_i, h / s_i, w / s_i)."""

    positions: list[Tensor]
    """Where each cell lies, (b, dim, h / s_i, w / s_i)."""


class Sam2Neck(nn.Module):
    """From the stage maps of a trunk to the three maps of SAM 2's mask decoder, as its `forward_image` gives them.

    Attributes:
        fpn: The pyramid, whose coarsest map is left out.
        conv_s0: The decoder's own projection of the finest map to an eighth of the width; absent without `high_res`.
        conv_s1: That of the next, to a quarter.
        channels: Width of each map.
        strides: Pixels per cell of each map.

    Source: SAM 2 (arXiv:2408.00714).
    """

    strides = (4, 8, 16)

    def __init__(
        self, widths: Sequence[int], dim: int = 256, *, top_down: Sequence[int] = (2, 3), high_res: bool = True
    ) -> None:
        """Build it for stages of these widths, finest first."""
        super().__init__()
        self.fpn = FeaturePyramidNeck(widths, dim, top_down=top_down)
        self.conv_s0 = nn.Conv2d(dim, dim // 8, kernel_size=1) if high_res else nn.Identity()
        self.conv_s1 = nn.Conv2d(dim, dim // 4, kernel_size=1) if high_res else nn.Identity()
        self.channels = [dim // 8, dim // 4, dim] if high_res else [dim] * 3

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> Sam2Maps:
        """The three maps, and the positions of their cells.

        Args:
            maps: Un-normed maps of all stages, finest first: what `hierax.backbone(source)` gives.

        Raises:
            InputError: Another number of maps, others than of its widths, or not each twice as fine as the next.
        """
        found, wanted = [each.shape[1] for each in maps], [conv.in_channels for conv in self.fpn.convs][::-1]
        if found != wanted:
            raise InputError(
                f"The neck takes the maps of all stages, finest first, {', '.join(map(str, wanted))} wide; got "
                f"{', '.join(map(str, found)) or 'none'}. Take them from hierax.backbone of the same checkpoint."
            )
        sizes = [tuple(each.shape[-2:]) for each in maps]
        if any(fine != (2 * h, 2 * w) for fine, (h, w) in itertools.pairwise(sizes)):
            raise InputError(
                f"Each map of the neck has twice the cells of the next, in height and width; got "
                f"{', '.join(f'{h}x{w}' for h, w in sizes)}. Pad images to multiples of 32 before the backbone: "
                "pad=True crops its maps."
            )
        features, positions = self.fpn(maps)
        fine, middle, coarse = features[:3]
        return Sam2Maps([self.conv_s0(fine), self.conv_s1(middle), coarse], positions[:3])


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
