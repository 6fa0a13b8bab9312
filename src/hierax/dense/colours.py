"""What a network has to beat: colours of cells and of their surroundings, without any network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from .maps import CellMaps, View

NAME = "colour"
_STRIDE, _AROUND = 4, 7  # pixels of a cell; cells of its surroundings, each way


class Colours(CellMaps):
    """Mean and deviation of each colour in a cell, and its mean around it."""

    def __init__(self, view: View) -> None:
        self.view, self.strides, self.channels = view, {NAME: _STRIDE}, {NAME: 9}

    def maps(
        self, pixels: UInt8[ndarray, "h w 3"], weights: Mapping[str, Float[Tensor, "k c"]] | None = None
    ) -> dict[str, Float[Tensor, "c h w"]]:
        """As `CellMaps.maps`."""
        height, width = self.view.working_size((pixels.shape[0], pixels.shape[1]))
        resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        image = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float() / 255
        mean = F.avg_pool2d(image, _STRIDE)
        deviation = (F.avg_pool2d(image**2, _STRIDE) - mean**2).clamp(min=0).sqrt()
        around = F.avg_pool2d(mean, _AROUND, stride=1, padding=_AROUND // 2, count_include_pad=False)
        found = torch.cat([mean, deviation, around], 1)[0]
        return {NAME: found if weights is None else torch.einsum("kc,chw->khw", weights[NAME], found)}
