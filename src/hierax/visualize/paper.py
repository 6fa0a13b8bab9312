"""The sheet that everything is drawn on: colours, type, panels, captions.

Only Pillow and its built-in font, so that no plotting package is needed.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from ..atomic import atomic_file
from ..errors import InputError

PAPER, INK, FAINT, GRID = (252, 252, 250), (32, 36, 44), (122, 128, 138), (228, 229, 231)
LINES = ((38, 98, 196), (217, 95, 42), (34, 139, 97), (150, 75, 170), (196, 152, 20), (90, 96, 106))
CORRECT, WRONG = (38, 98, 196), (206, 60, 40)
GAP, TEXT = 12, 13
SMOOTHING = 3  # Charts are drawn this much larger and averaged down, since Pillow's lines have hard edges.


def stack_sheets(sheets: Sequence[Image.Image]) -> Image.Image:
    """Several sheets, one below another."""
    if not sheets:
        raise InputError("A stack needs at least one sheet; got none.")
    stack = paper(max(s.width for s in sheets), sum(s.height for s in sheets))
    top = 0
    for sheet in sheets:
        stack.paste(sheet, (0, top))
        top += sheet.height
    return stack


def write_picture(picture: Image.Image, path: str | Path) -> Path:
    """Write a picture whole or not at all, in the format that the file name ends with."""
    target = Path(path)
    with atomic_file(target) as partial:
        picture.save(partial)
    return target


def as_array(values: object) -> ndarray:
    """NumPy from NumPy or a tensor on any device."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def paper(width: int, height: int) -> Image.Image:
    """An empty sheet."""
    return Image.new("RGB", (width, height), PAPER)


def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Type of about that many pixels."""
    return ImageFont.load_default(max(size, 6))


def fitted(image: UInt8[ndarray, "h w 3"] | Image.Image, tile: int, resample: Image.Resampling) -> Image.Image:
    """Scale an image so that its longer side is `tile`."""
    picture = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image)
    scale = tile / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Small images are shown as what they are: pixels.
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 3 else resample)


def row_of(panels: Sequence[tuple[Image.Image, str, str]]) -> Image.Image:
    """Panels side by side, each with a name and a fainter detail below."""
    height = max(panel.height for panel, _, _ in panels)
    columns = [max(panel.width, _caption_width(name, detail)) for panel, name, detail in panels]
    sheet = paper(sum(columns) + GAP * (len(panels) + 1), height + GAP + 4 * TEXT)
    left = GAP
    for (panel, name, detail), width in zip(panels, columns, strict=True):
        sheet.paste(panel, (left, GAP + (height - panel.height) // 2))
        write_caption(sheet, (left, GAP + height), width, name, detail)
        left += width + GAP
    return sheet


def _caption_width(name: str, detail: str) -> int:
    return math.ceil(max(font_of(TEXT + 1).getlength(name), font_of(TEXT - 1).getlength(detail)))


def write_caption(sheet: Image.Image, corner: tuple[int, int], width: int, name: str, detail: str = "") -> None:
    """Write a name and a fainter detail below it, cut to a width."""
    draw, (x, y) = ImageDraw.Draw(sheet), corner
    draw.text((x, y + 5), _clipped(name, font_of(TEXT + 1), width), INK, font_of(TEXT + 1))
    draw.text((x, y + 9 + TEXT), _clipped(detail, font_of(TEXT - 1), width), FAINT, font_of(TEXT - 1))


def _clipped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of one line as fits, with dots where it was cut."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    cut = bisect.bisect(range(1, len(text)), width, key=lambda n: font.getlength(text[:n] + "..."))
    return text[:cut].rstrip() + "..."


def shortened(label: str, length: int = 24) -> str:
    """A label cut to so many characters."""
    return label if len(label) <= length else label[: length - 3].rstrip() + "..."


def upright(
    sheet: Image.Image, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, foot: tuple[int, int]
) -> None:
    """Write a line from bottom to top, ending its start at `foot`."""
    size = math.ceil(font.getlength(text)), TEXT + 6
    strip = Image.new("L", size)
    ImageDraw.Draw(strip).text((0, size[1] / 2), text, 255, font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    sheet.paste(INK, (foot[0] - turned.width // 2, foot[1] - turned.height), turned)
