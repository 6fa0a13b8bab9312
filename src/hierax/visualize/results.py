"""How a classifier did: its confusion matrix, and pictures in rows with what was said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw

from ..errors import InputError
from .paper import (
    CORRECT,
    GAP,
    GRID,
    INK,
    PAPER,
    TEXT,
    WRONG,
    as_array,
    fitted,
    font_of,
    paper,
    shortened,
    upright,
    write_caption,
)


def confusion_matrix_picture(matrix: ndarray, labels: Sequence[str]) -> Image.Image:
    """True classes in rows, predicted classes in columns; right answers blue, mistakes red.

    The shade is the share of the row; the number, where cells have room for one, is the count.

    Args:
        matrix: Counts (classes, classes).
        labels: One name per class.

    Raises:
        InputError: The matrix is not square, is empty, or does not have one row per label.
    """
    counts = as_array(matrix)
    if counts.ndim != 2 or counts.shape != (len(labels), len(labels)) or not len(labels):
        raise InputError(f"A confusion matrix has one row and column per label; got {counts.shape}, {len(labels)}.")
    classes = len(labels)
    cell = max(2, min(40, 960 // classes))
    named, font = cell >= 14, font_of(min(TEXT, cell - 2))
    names = [shortened(str(label)) for label in labels] if named else []
    margin = int(max((font.getlength(name) for name in names), default=0)) + 2 * GAP
    top, side = margin + 3 * GAP, cell * classes
    title = _summary(counts)
    width = max(margin + side + 2 * GAP, int(font_of(TEXT + 2).getlength(title)) + 2 * GAP)
    sheet = paper(width, top + side + 2 * GAP)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, INK, font_of(TEXT + 2))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    sheet.paste(Image.fromarray(_shades(shares)).resize((side, side), Image.Resampling.NEAREST), (margin, top))
    for k, name in enumerate(names):
        middle = k * cell + cell / 2
        draw.text((margin - 8, top + middle), name, INK, font, anchor="rm")
        upright(sheet, name, font, (round(margin + middle), top - 8))
    if cell >= 22:
        edge = range(0, side + 1, cell)
        draw.line([(margin, top), (margin + side, top)], GRID)
        for offset in edge:
            draw.line([(margin + offset, top), (margin + offset, top + side)], GRID)
            draw.line([(margin, top + offset), (margin + side, top + offset)], GRID)
        for row, column in zip(*np.nonzero(counts), strict=True):
            ink = PAPER if shares[row, column] > 0.45 else INK
            place = (margin + (column + 0.5) * cell, top + (row + 0.5) * cell)
            draw.text(place, f"{counts[row, column]:.4g}", ink, font_of(cell // 3), anchor="mm")
    return sheet


def _summary(counts: ndarray) -> str:
    total, right = counts.sum(), np.trace(counts)
    return f"{right:.0f} of {total:.0f} right ({right / max(total, 1):.1%}). Rows: true. Columns: predicted."


def _shades(shares: Float[ndarray, "k k"]) -> UInt8[ndarray, "k k 3"]:
    """White to blue on the diagonal, white to red elsewhere; the square root lifts rare mistakes into sight."""
    full = np.where(np.eye(len(shares), dtype=bool)[..., None], CORRECT, WRONG)
    amount = np.sqrt(np.clip(shares, 0, 1))[..., None]
    return np.round(255 + amount * (full - 255.0)).astype(np.uint8)


def contact_sheet(
    images: Sequence[UInt8[ndarray, "h w 3"] | Image.Image],
    captions: Sequence[str],
    *,
    tile: int = 144,
    columns: int | None = None,
) -> Image.Image:
    """A grid of images with a caption each, such as the worst mistakes of an evaluation.

    Args:
        images: RGB images of any sizes.
        captions: One per image; a second line, after a newline, is drawn fainter.
        tile: Side of the square that each image is fitted into, in pixels.
        columns: Images in a row; None makes the sheet about 4:3.

    Raises:
        InputError: No image, or not one caption per image.
    """
    if not images or len(images) != len(captions):
        raise InputError(f"A contact sheet has one caption per image; got {len(images)} and {len(captions)}.")
    columns = columns or min(len(images), max(1, round(math.sqrt(len(images) * 4 / 3))))
    rows = -(-len(images) // columns)
    step_x, step_y = tile + GAP, tile + 3 * GAP + TEXT
    sheet = paper(columns * step_x + GAP, rows * step_y + GAP)
    for k, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = GAP + k % columns * step_x, GAP + k // columns * step_y
        picture = fitted(image, tile, Image.Resampling.LANCZOS)
        sheet.paste(picture, (x + (tile - picture.width) // 2, y + (tile - picture.height) // 2))
        write_caption(sheet, (x, y + tile), tile, *caption.split("\n", 1))
    return sheet
