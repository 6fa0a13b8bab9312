"""Rotated, sheared and shifted images, pixel for pixel as Pillow's transforms compute them, the last two faster.

A shear or a shift moves every row by an amount of its own and mixes four neighbours in it, where Pillow mixes sixteen:
a third of the time, and within one grey level of the same (`tests/data/test_rand_augment.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image


@dataclass(frozen=True)
class Look:
    """What a warp needs to know besides its argument.

    Attributes:
        fill: Colour of what it uncovers, RGB bytes.
        bicubic: Bicubic instead of bilinear.
    """

    fill: tuple[int, int, int]
    bicubic: bool


_Warp = Callable[[Image.Image, float, Look], Image.Image]


def rotated(image: Image.Image, degrees: float, look: Look) -> Image.Image:
    """Turned counter-clockwise about its centre."""
    method = Image.Resampling.BICUBIC if look.bicubic else Image.Resampling.BILINEAR
    return image.rotate(degrees, method, fillcolor=look.fill)


def sheared(axis: int) -> _Warp:
    """A shear along x (0) or y (1): a row, or column, is taken from `factor` times its own place further on."""

    def apply(image: Image.Image, factor: float, look: Look) -> Image.Image:
        return _slid(image, axis, factor * (np.arange(image.size[1 - axis]) + 0.5), look)

    return apply


def translated(axis: int) -> _Warp:
    """A shift along x (0) or y (1): every pixel is taken from a `share` of the image's size further on."""

    def apply(image: Image.Image, share: float, look: Look) -> Image.Image:
        return _slid(image, axis, np.full(image.size[1 - axis], share * image.size[axis]), look)

    return apply


def _slid(image: Image.Image, axis: int, shifts: Float[np.ndarray, " rows"], look: Look) -> Image.Image:
    """The image with each row (axis 0) or column (axis 1) taken from `shifts` pixels further on."""
    if axis == 1:
        return _slid(image.transpose(Image.Transpose.TRANSPOSE), 0, shifts, look).transpose(Image.Transpose.TRANSPOSE)
    width, height = image.size
    words = np.asarray(image.convert("RGBX")).view(np.uint32)[..., 0]  # (height, width), a pixel each
    whole = np.floor(shifts)
    columns = np.arange(-1, width + 2, dtype=np.int32) + whole.astype(np.int32)[:, None]
    columns = columns.clip(0, width - 1) + np.arange(0, height * width, width, dtype=np.int32)[:, None]
    near = torch.from_numpy(words.ravel().take(columns).view(np.uint8)).float()  # (height, 4 (width + 3))
    weights = torch.from_numpy(_weights(shifts - whole, look.bicubic))[..., None]  # (4, height, 1)
    mixed = near[:, : 4 * width] * weights[0]
    for tap in range(1, 4):
        mixed.addcmul_(near[:, 4 * tap : 4 * (tap + width)], weights[tap])
    out = np.clip(mixed.numpy(), 0, 255).astype(np.uint8).view(np.uint32)  # (height, width)
    places = np.arange(width) + 0.5 + shifts[:, None]
    out[(places < 0) | (places >= width)] = np.array([*look.fill, 255], np.uint8).view(np.uint32)[0]
    return Image.frombuffer("RGBX", image.size, out, "raw", "RGBX", 0, 1).convert("RGB")


def _weights(t: Float[np.ndarray, " rows"], bicubic: bool) -> Float[np.ndarray, "4 rows"]:
    """Of the pixels one before, at, one and two after a place, `t` behind a pixel's centre.

    Quirk(Pillow): its transforms take the cubic convolution with a = -1, its resizes that with a = -0.5.
    """
    if not bicubic:
        rows = [0 * t, 1 - t, t, 0 * t]
    else:
        rows = [-t * (1 - t) ** 2, 1 - 2 * t**2 + t**3, t * (1 + t - t**2), -(t**2) * (1 - t)]
    return np.stack(rows).astype(np.float32)
