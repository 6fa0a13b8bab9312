"""Random erasing: noise in place of a rectangle, drawn where samples are read and filled in where they are normalised.

The noise is normal on normalised pixels, so it cannot be written into bytes. What travels with a sample is the
rectangle and the noise's seed.

Source: arXiv:1708.04896, with noise for each pixel, as published recipes mean it (timm's mode "pixel").
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_AREA = (0.02, 1 / 3)  # of the image
_ASPECT = (0.3, 1 / 0.3)
_TRIES = 10
_STREAM = 2  # apart from the other draws of a key


def rectangle(key: int, size: tuple[int, int], probability: float) -> Int[Tensor, " 5"]:
    """Where a sample is erased: top, left, height, width and the noise's seed; all zero where it is not.

    Args:
        key: The sample's random number.
        size: Height and width of the image.
        probability: Of a rectangle; one in which it fits nowhere after ten draws is left out too.
    """
    rng = np.random.Generator(np.random.PCG64([key, _STREAM]))
    height, width = size
    found = (0, 0, 0, 0, 0)
    if rng.random() < probability:
        for _ in range(_TRIES):
            area = height * width * rng.uniform(*_AREA)
            aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h < height and 0 < w < width:
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                found = (top, left, h, w, int(rng.integers(2**62)))
                break
    return torch.tensor(found, dtype=torch.int64)


def erase(pixels: Float[Tensor, "b 3 *time h w"], rectangles: Int[Tensor, "b 5"]) -> None:
    """Fill the rectangles with noise, in place; the frames of a clip get the same.

    Args:
        pixels: Normalised images or clips.
        rectangles: One for each sample, on the CPU.
    """
    generator = torch.Generator(pixels.device)
    for sample, (top, left, height, width, seed) in zip(pixels, rectangles.tolist(), strict=True):
        if height:
            shape = (len(sample), *[1] * (sample.ndim - 3), height, width)
            noise = torch.randn(shape, generator=generator.manual_seed(seed), device=pixels.device)
            sample[..., top : top + height, left : left + width] = noise
