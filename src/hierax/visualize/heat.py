"""Maps of values over images: cool where a value speaks against, warm where it speaks for, and a scale in digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

Picture: TypeAlias = UInt8[ndarray, "h w 3"]
PAPER, INK = (252, 252, 250), (32, 36, 44)
# From nothing to the most, lightness rising with the value, so that the order survives in grey: dark plum, red, orange,
# pale yellow. What speaks against: from nothing to light blue.
_FOR = ((26, 18, 46), (120, 28, 92), (206, 66, 62), (246, 148, 48), (252, 246, 178))
_AGAINST = ((26, 18, 46), (24, 62, 118), (36, 128, 190), (176, 226, 250))
_LEAST, _SHARE = 0.15, 0.75  # of the colours in an overlay, where a map is 0 and where it is strongest
_BAR, _TYPE = 12, 12  # pixels


def heat_colors(values: Float[ndarray, "h w"], largest: float) -> Picture:
    """Colours of values from -largest to largest.

    Args:
        values: Finite numbers.
        largest: The value that has the lightest colour.
    """
    scaled = np.clip(np.abs(values) / largest, 0, 1) if largest > 0 else np.zeros_like(values)
    return np.where((values < 0)[..., None], _ramp(scaled, _AGAINST), _ramp(scaled, _FOR)).astype(np.uint8)


def _ramp(share: Float[ndarray, "h w"], anchors: Sequence[tuple[int, int, int]]) -> Float[ndarray, "h w 3"]:
    places = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(share, places, channel) for channel in zip(*anchors, strict=True)], -1).round()


def overlay(image: Picture, values: Float[ndarray, "h w"], largest: float) -> Picture:
    """A map over the grey image; where it says nothing the image shows through, darkened.

    Args:
        image: RGB pixels.
        values: One for each pixel.
        largest: As for `heat_colors`.
    """
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float64)[..., None]
    share = np.clip(np.abs(values) / largest, 0, 1)[..., None] if largest > 0 else np.zeros((*values.shape, 1))
    weight = _LEAST + (_SHARE - _LEAST) * np.sqrt(share)
    mixed = (1 - weight) * (24 + 0.82 * grey) + weight * heat_colors(values, largest)
    return np.clip(mixed, 0, 255).round().astype(np.uint8)


def scale_bar(least: float, largest: float, height: int) -> Picture:
    """The colours from `least` at the bottom to the largest at the top, with digits at the ends and at 0.

    Args:
        least: The smallest value, at most 0.
        largest: The value with the lightest colour.
        height: Pixels.
    """
    texts = [(largest, 0.0), (0.0, largest / (largest - least) if least < largest else 1.0), (least, 1.0)]
    room = 1.2 * _TYPE / height
    texts = [text for text in texts if text[0] == 0 or abs(text[1] - texts[1][1]) > room]  # 0 is always told
    font = ImageFont.load_default(_TYPE)
    sheet = Image.new("RGB", (_BAR + 5 + math.ceil(font.getlength("-0.0000")), height), PAPER)
    if largest > least:
        values = np.linspace(largest, least, height)[:, None].repeat(_BAR, 1)
        sheet.paste(Image.fromarray(heat_colors(values, max(largest, -least))))
    draw = ImageDraw.Draw(sheet)
    for value, place in texts:
        middle = min(max(place * height, _TYPE / 2 + 1), height - _TYPE / 2 - 3)
        draw.text((_BAR + 5, middle - _TYPE / 2 - 1), digits(value), INK, font)
    return np.asarray(sheet)


def digits(value: float) -> str:
    """A number in two significant digits, short."""
    return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
