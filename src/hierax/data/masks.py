"""Masks: PNG files whose pixels name classes, by a number or by a colour.

A mask is read as what its pixels hold, never as what they look like: a palette index or a grey level is a number from 0
to 255, a pixel of an RGB file a colour. Which class a value means, `classes` says.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from PIL import Image

from ..atomic import atomic_file
from ..errors import InputError, writing
from .decode import max_pixels
from .files import open_regular

Color = tuple[int, int, int]
TRANSPARENT = -1  # what a pixel holds that was left clear; it is never labelled
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # colour types of PNG that hold numbers
_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}
_REMEDY = "Save masks as PNG with a palette, in 8-bit grey or in RGB."


@dataclass(frozen=True)
class Mask:
    """What the pixels of a mask hold.

    Attributes:
        values: Numbers 0..255, or colours as 0xRRGGBB; `TRANSPARENT` where a pixel is clear.
        by_color: Whether they are colours.
        palette: Colour of each number, where the file has a palette.
    """

    values: Int[ndarray, "h w"]
    by_color: bool
    palette: tuple[Color, ...] | None = None

    def as_colors(self) -> Mask:
        """The same by colours; numbers without a palette are grey."""
        if self.by_color:
            return self
        colors = self.palette or tuple((level, level, level) for level in range(256))
        table = np.full(257, TRANSPARENT, np.int32)  # the last is for pixels that are clear
        table[: len(colors)] = [packed(color) for color in colors]
        return Mask(table[self.values], True)


def packed(color: Color) -> int:
    """A colour as 0xRRGGBB."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def unpacked(value: int) -> Color:
    """0xRRGGBB as a colour."""
    return (value >> 16 & 255, value >> 8 & 255, value & 255)


def read_mask(path: str | os.PathLike[str]) -> Mask:
    """Read a mask.

    Raises:
        InputError: No readable PNG of 8 bits or fewer, or too large.
    """
    name = repr(os.fspath(path))
    with open_regular(path) as stream:
        head = stream.read(33)
        depth, kind = _checked_head(head, name)
        stream.seek(0)
        try:
            with Image.open(stream, formats=("PNG",)) as image:
                image.load()
                return _mask_of(image, depth, kind, name)
        except InputError:
            raise
        except Exception as error:  # on hostile bytes Pillow's parsers raise almost anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"A mask must decode without errors; {name} does not: {reason}. {_REMEDY}") from error


def mask_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) that a mask declares; no pixel is decoded.

    Raises:
        InputError: As `read_mask`.
    """
    with open_regular(path) as stream:
        head = stream.read(33)
    _checked_head(head, repr(os.fspath(path)))
    width, height = struct.unpack(">II", head[16:24])
    return height, width


def write_mask(values: Int[ndarray, "h w"], colors: dict[int, Color], path: Path, *, overwrite: bool = False) -> None:
    """Write a mask as a palette PNG, whole or not at all.

    Args:
        values: Numbers 0..255.
        colors: Colour of each number; others are black.
        path: The file; its folder must exist.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        InputError: The file exists, or cannot be written.
    """
    palette = [0] * 768
    for value, color in colors.items():
        palette[3 * value : 3 * value + 3] = color
    image = Image.fromarray(np.asarray(values, np.uint8))
    image.putpalette(palette)
    with writing(path), atomic_file(path, replace=overwrite) as partial:
        image.save(partial, format="PNG")


def _checked_head(head: bytes, name: str) -> tuple[int, int]:
    """Bit depth and colour type of a PNG, by its first bytes.

    Raises:
        InputError: None, of 16 bits, or too large.
    """
    if len(head) < 33 or head[:8] != _SIGNATURE or head[12:16] != b"IHDR":
        raise InputError(
            f"A mask must be a PNG, which keeps every pixel's value; {name} is none, whatever its name says. {_REMEDY}"
        )
    width, height, depth, kind = struct.unpack(">IIBB", head[16:26])
    if depth > 8:
        raise InputError(
            f"A mask must have 8 bits or fewer; {name} has {depth}, and Pillow would drop half of each. {_REMEDY}"
        )
    if not 0 < width * height <= max_pixels():
        raise InputError(
            f"A mask may have at most {max_pixels():,} pixels; {name} declares {width} x {height} = {width * height:,}."
        )
    return depth, kind


def _mask_of(image: Any, depth: int, kind: int, name: str) -> Mask:
    if image.mode not in _MODES:
        raise InputError(f"A mask must hold numbers or colours; {name} is of mode {image.mode}. {_REMEDY}")
    if kind in (_GREY, _PALETTE) or image.mode == "LA":
        return _numbers(image, depth, kind, name)
    pixels = np.asarray(image.convert("RGBA") if image.mode == "RGBA" else image.convert("RGB"))
    values = pixels[..., 0].astype(np.int32) << 16 | pixels[..., 1].astype(np.int32) << 8 | pixels[..., 2]
    if pixels.shape[-1] == 4:
        values[pixels[..., 3] == 0] = TRANSPARENT
    return Mask(values, True)


def _numbers(image: Any, depth: int, kind: int, name: str) -> Mask:
    if image.mode == "LA":
        pixels = np.asarray(image)
        return Mask(np.where(pixels[..., 1] == 0, TRANSPARENT, pixels[..., 0]).astype(np.int32), False)
    values = np.asarray(image).astype(np.int32)
    if kind == _PALETTE:
        flat = image.getpalette() or []
        colors = tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3))
        if values.max() >= len(colors):
            raise InputError(
                f"A mask's numbers must be in its palette; {name} holds {values.max()} and has {len(colors)} colours. "
                f"{_REMEDY}"
            )
        return Mask(values, False, colors)
    if image.mode == "L" and depth < 8:  # Pillow stretches levels of 2 and 4 bits to 0..255
        values //= 255 // (2**depth - 1)
    return Mask(values, False)
