"""Masks over their images, with the names of their colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw

from .sheets import INK, PAPER, Picture, drawn_font, stack_sheets, timeline_sheet

_MOST_SIDE = 288  # pixels of what is drawn of an image; sheets show less
_GAP, _LINE, _SQUARE = 12, 20, 13


def overlay(
    image: Picture, classes: Int[ndarray, "h w"], colors: Sequence[tuple[int, int, int]], *, share: float = 0.6
) -> Picture:
    """An image under its classes, made smaller where it is large.

    Args:
        image: RGB pixels.
        classes: Class of each pixel; negative ones show the image.
        colors: One a class.
        share: Of a class's colour in a pixel.
    """
    step = max(1, -(-max(image.shape[:2]) // _MOST_SIDE))
    image, classes = image[::step, ::step], classes[::step, ::step]
    table = np.array([*colors, (0, 0, 0)], np.float32)
    strength = np.where(classes >= 0, share, 0.0).astype(np.float32)[..., None]
    mixed = image * (1 - strength) + table[classes] * strength
    return np.round(mixed).astype(np.uint8)


def overlay_sheet(
    images: Sequence[Picture],
    names: Sequence[str],
    columns: Mapping[str, Sequence[Picture]],
    legend: Mapping[str, tuple[int, int, int]],
    *,
    note: str = "",
) -> Picture:
    """One row an image: the image, then its overlays; below them what the colours mean.

    Args:
        images: RGB images.
        names: What stands under each.
        columns: Overlays of all images, by what stands under them, from left to right.
        legend: Colour of each class by its name.
        note: What stands below all.

    Raises:
        InputError: No image.
    """
    sheet = timeline_sheet(images, names, columns)
    wide = max(sheet.shape[1], 420)
    return stack_sheets([sheet, _legend(legend, wide)], note=note)


def _legend(names: Mapping[str, tuple[int, int, int]], width: int) -> UInt8[ndarray, "h w 3"]:
    font, places, x, y = drawn_font(), [], _GAP, 4
    for name, color in names.items():
        room = _SQUARE + 6 + round(font.getlength(name)) + 16
        if x + room > width and x > _GAP:
            x, y = _GAP, y + _LINE
        places.append((x, y, name, color))
        x += room
    sheet = Image.new("RGB", (width, y + _LINE + 6), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, y, name, color in places:
        draw.rectangle((x, y, x + _SQUARE, y + _SQUARE), fill=color, outline=INK)
        draw.text((x + _SQUARE + 6, y - 2), name, INK, font)
    return np.asarray(sheet)
