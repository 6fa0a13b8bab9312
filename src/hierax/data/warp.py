"""Rotated, sheared and shifted images, pixel for pixel as Pillow's transforms compute them, the last two faster.

A shear or a shift moves every row by an amount of its own and mixes four neighbours in it, where Pillow mixes sixteen:
a seventh of the time, and within one grey level of the same (`tests/data/test_rand_augment.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
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


Pixels = UInt8[np.ndarray, "3 h w"]
_Warp = Callable[[Pixels, float, Look], Pixels]


def rotated(pixels: Pixels, degrees: float, look: Look) -> Pixels:
    """Turned counter-clockwise about its centre."""
    method = Image.Resampling.BICUBIC if look.bicubic else Image.Resampling.BILINEAR
    image = Image.merge("RGB", [Image.fromarray(channel) for channel in pixels])
    return np.stack([np.asarray(band) for band in image.rotate(degrees, method, fillcolor=look.fill).split()])


def sheared(axis: int) -> _Warp:
    """A shear along x (0) or y (1): a row, or column, is taken from `factor` times its own place further on."""

    def apply(pixels: Pixels, factor: float, look: Look) -> Pixels:
        return _slid(pixels, axis, factor * (np.arange(pixels.shape[1 + axis]) + 0.5), look)

    return apply


def translated(axis: int) -> _Warp:
    """A shift along x (0) or y (1): every pixel is taken from a `share` of the image's size further on."""

    def apply(pixels: Pixels, share: float, look: Look) -> Pixels:
        return _slid(pixels, axis, np.full(pixels.shape[1 + axis], share * pixels.shape[2 - axis]), look)

    return apply


def _slid(pixels: Pixels, axis: int, shifts: Float[np.ndarray, " rows"], look: Look) -> Pixels:
    """The image with each row (axis 0) or column (axis 1) taken from `shifts` pixels further on."""
    if axis == 1:
        turned = np.ascontiguousarray(pixels.swapaxes(1, 2))
        return np.ascontiguousarray(_slid(turned, 0, shifts, look).swapaxes(1, 2))
    channels, height, width = pixels.shape
    whole = np.floor(shifts).astype(int)
    margin = int(np.abs(whole).max()) + 2
    ends = np.repeat(pixels[:, :, :1], margin, 2), np.repeat(pixels[:, :, -1:], margin, 2)
    wide = np.concatenate([ends[0], pixels, ends[1]], 2)  # (3, height, width + 2 margin)
    near = np.empty((channels, height, width + 3), np.float32)
    changes = np.flatnonzero(np.diff(whole)) + 1
    for top, bottom in itertools.pairwise([0, *changes.tolist(), height]):  # rows that move by the same
        first = margin - 1 + int(whole[top])
        near[:, top:bottom] = wide[:, top:bottom, first : first + width + 3]
    taps = torch.from_numpy(near)
    weights = torch.from_numpy(_weights(shifts - whole, look.bicubic))[..., None]  # (4, height, 1)
    mixed = taps[..., :width] * weights[0]
    for tap in range(1, 4):
        mixed.addcmul_(taps[..., tap : tap + width], weights[tap])
    out = mixed.clamp_(0, 255).numpy().astype(np.uint8)
    _fill_uncovered(out, shifts, look.fill)
    return out


def _fill_uncovered(pixels: Pixels, shifts: Float[np.ndarray, " rows"], fill: tuple[int, int, int]) -> None:
    """Colour, in place, what each row took from beyond its ends."""
    width = pixels.shape[2]
    columns, colour = np.arange(width), np.array(fill, np.uint8)[:, None, None]
    left = np.ceil(-shifts - 0.5).clip(0, width).astype(int)  # a pixel's centre is half a pixel behind its place
    right = np.ceil(width - 0.5 - shifts).clip(0, width).astype(int)
    for part, uncovered in (
        (slice(0, left.max()), columns[: left.max()] < left[:, None]),
        (slice(right.min(), None), columns[right.min() :] >= right[:, None]),
    ):
        np.copyto(pixels[:, :, part], colour, where=uncovered)


def _weights(t: Float[np.ndarray, " rows"], bicubic: bool) -> Float[np.ndarray, "4 rows"]:
    """Of the pixels one before, at, one and two after a place, `t` behind a pixel's centre.

    Quirk(Pillow): its transforms take the cubic convolution with a = -1, its resizes that with a = -0.5.
    """
    if not bicubic:
        rows = [0 * t, 1 - t, t, 0 * t]
    else:
        rows = [-t * (1 - t) ** 2, 1 - 2 * t**2 + t**3, t * (1 + t - t**2), -(t**2) * (1 - t)]
    return np.stack(rows).astype(np.float32)
