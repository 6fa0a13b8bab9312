"""The pixels of a decoded image as 8-bit RGB, in bands of rows: whole copies on the way would multiply its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from .inplace import rgb_in_place

WHITE = (255, 255, 255)  # shows through transparent pixels
_BAND_PIXELS = 1 << 20
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339


def rgb_of(image: Image.Image, *, writable: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """Deep pixels scaled to 8 bits, transparency over white, every colour as RGB.

    Args:
        image: Loaded, of any mode.
        writable: Whether the result must be; where it need not, it may be the image's own memory, four bytes a pixel.
    """
    plain = image.mode == "RGB" and not image.has_transparency_data
    if not writable and plain and (pixels := rgb_in_place(image)) is not None:
        return pixels
    convert = _deep(image) if _is_deep(image) else _flat
    out = np.empty((image.height, image.width, 3), np.uint8)
    if image.width * image.height <= _BAND_PIXELS:
        out[:] = convert(image)
        return out
    for top, band in _bands(image):
        out[top : top + band.height] = convert(band)
    return out


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _flat(image: Image.Image) -> np.ndarray:
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*WHITE, 255))
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _deep(image: Image.Image) -> Callable[[Image.Image], np.ndarray]:
    """How a band of grey pixels of more than 8 bits becomes RGB; Pillow alone would clip it to white."""
    tags = getattr(image, "tag_v2", {})
    declared = None if image.mode == "F" else _declared_white(image, tags)
    unsigned = declared == 2**32 - 1

    def values(band: Image.Image) -> np.ndarray:
        found = np.asarray(band)
        if image.mode == "F":
            most = float(np.finfo(np.float32).max)
            return np.nan_to_num(found.astype(np.float32), nan=0.0, posinf=most, neginf=0.0)
        return found.view(np.uint32) if unsigned else found  # Pillow hands unsigned 32-bit pixels out as signed

    scales = (1, 255, 65535) if image.mode == "F" else (255, 65535)
    if declared is None:
        largest = max(float(values(band).max()) for _, band in _bands(image))
        white: float = next((scale for scale in scales if largest <= scale), largest)
    else:
        white = declared
    hidden = image.info.get("transparency")

    def convert(band: Image.Image) -> np.ndarray:
        found = values(band)
        if image.mode == "F":
            grey = np.rint(found * np.float32(255.0 / white))
        else:  # the high bits, as Pillow takes them from 16-bit colour: the same grey in both
            grey = np.floor(found * np.float32(256.0 / (white + 1)))
        grey = np.clip(grey, 0, 255).astype(np.uint8)
        if tags.get(_TIFF_PHOTOMETRIC) == 0:
            grey = 255 - grey  # white is zero; Pillow obeys that only up to 8 bits
        if isinstance(hidden, int) and image.mode != "F":
            grey = np.where(found == hidden, WHITE[0], grey)
        return grey[..., None]  # (rows, w, 1), the same in all three channels

    return convert


def _declared_white(image: Image.Image, tags: Any) -> int | None:
    """The largest value of the depth that the file declares, None where nothing declares one."""
    if _TIFF_BITS in tags:
        bits = int(tags[_TIFF_BITS][0])
        signed = tags.get(_TIFF_SAMPLE_FORMAT, (1,))[0] == 2
        return 2 ** (bits - 1 if signed else bits) - 1
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        return 65535
    return None
