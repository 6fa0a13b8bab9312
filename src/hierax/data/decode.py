"""One image of any kind to 8-bit RGB, as a person sees it.

Files, bytes and `PIL.Image` go through the same steps: identify, check the declared size, decode, scale deep
pixels to 8 bits, put transparency over a background, turn upright. Whatever goes wrong is an `InputError`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, UnidentifiedImageError

from ..errors import InputError
from .files import open_regular

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray"

MAX_PIXELS = 100_000_000  # of one image, width times height
# Only these decoders ever run. Phones write MPO under the name .jpg.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "MPO")
_WHITE = (255, 255, 255)  # shows through transparent pixels

_EXIF_ORIENTATION = 0x0112
_TURN_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
# PIL images decode themselves on first use, and two threads may hold the same one.
_IMAGE_LOCKS = tuple(threading.Lock() for _ in range(61))

_lock = threading.Lock()
_running = 0  # decodes under way
_undo = contextlib.ExitStack()  # what brings back the settings from before them
# Pillow logs about odd TIFF tags; without a handler the logging module would print that to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def decode_image(source: ImageSource) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image to RGB bytes.

    EXIF orientation is applied and broken EXIF ignored; transparency shows white. Integers of more than 8 bits keep
    their high bits, by the depth the file declares (65535 becomes 255). Floats are black at 0 and white at the
    smallest of 1, 255 and 65535 that holds the largest value, or at the largest value itself. Of an animation the
    first frame is taken. ICC profiles are not applied, because no origin of the weights applies them.

    Args:
        source: A path, the bytes of a file, a PIL image of any mode, or RGB bytes as a NumPy array (h, w, 3).

    Returns:
        RGB bytes. A contiguous NumPy source is returned itself; everything else is new and writable.

    Raises:
        InputError: The source cannot be opened, identified or decoded whole, declares more than `MAX_PIXELS` pixels
            (checked before any is allocated), or is of another type.
    """
    return check_rgb(source) if isinstance(source, np.ndarray) else np.array(open_rgb(source))


def open_rgb(source: ImageSource, *, upright: bool = True) -> Image.Image:
    """`decode_image` without the copy to NumPy: a PIL image of mode RGB, already loaded.

    Args:
        source: As for `decode_image`.
        upright: Whether the orientation tag is obeyed; other packages do not.

    Raises:
        InputError: As `decode_image`.
    """
    if isinstance(source, np.ndarray):
        return Image.fromarray(check_rgb(source))
    # `repr` keeps odd file names printable.
    name = repr(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else "this image"
    try:
        with _pillow_session():
            if isinstance(source, Image.Image):
                with _IMAGE_LOCKS[id(source) % len(_IMAGE_LOCKS)]:
                    image = _decode(source, name, upright)
                    return image.copy() if image is source else image
            with _open_stream(source) as stream, Image.open(stream, formats=_formats()) as image:
                return _decode(image, name, upright)
    except InputError:
        raise
    except Exception as error:  # on hostile bytes Pillow's parsers raise almost anything
        raise InputError(_explain(source, name, error)) from error


def check_rgb(array: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Refuse an array that is not RGB bytes, saying how to convert it.

    Raises:
        InputError: Not uint8 (h, w, 3) with at least one pixel.
    """
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size > 0:
        return np.ascontiguousarray(array)
    remedy = "Convert it with PIL.Image.fromarray(array)."
    if np.issubdtype(array.dtype, np.floating):
        remedy = "Scale it to 0..255 and convert with .astype(numpy.uint8)."
    elif array.dtype != np.uint8:
        remedy = "Scale it to 0..255 by its bit depth and convert with .astype(numpy.uint8)."
    elif array.size == 0:
        remedy = "It holds no pixels."
    elif array.ndim == 3 and array.shape[0] == 3:
        remedy = "Move the channels last with array.transpose(1, 2, 0)."
    elif array.ndim == 4:
        remedy = "Pass the images one by one, as a list."
    elif array.ndim == 2:
        remedy = "Repeat the grey channel with numpy.stack([array] * 3, axis=-1)."
    raise InputError(
        f"A NumPy image must be uint8 of shape (height, width, 3); got {array.dtype} {tuple(array.shape)}. {remedy}"
    )


@functools.cache
def _formats() -> tuple[str, ...]:
    """The allowed decoders that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open_stream(source: Any) -> BinaryIO:
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) == 0:
            raise InputError("An image must hold data; got 0 bytes.")
        return io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        return open_regular(source)
    raise InputError(
        f"An image must be a path, bytes, a PIL image or a NumPy array; got {type(source).__name__}. Of an open file "
        "pass what .read() gives."
    )


def _explain(source: Any, name: str, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"An image may not declare more pixels than the limit; {name}: {error} Scale it down first."
    if isinstance(error, UnidentifiedImageError):
        return f"An image must be one of {', '.join(_formats())}; {name} is none of them{_guess(source)}."
    if isinstance(error, MemoryError):
        return f"An image must fit into memory; {name} does not."
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"An image must decode without errors; {name} does not: {reason}."


def _guess(source: Any) -> str:
    """What the first bytes of an unidentified file look like."""
    try:
        with _open_stream(source) as stream:
            head = stream.read(512)
    except InputError:
        return ""
    if head.lstrip()[:1] == b"<":
        return " (it looks like HTML, XML or SVG text)"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
        return " (it looks like HEIC; convert it to JPEG)"
    return ""


def _decode(image: Image.Image, name: str, upright: bool) -> Image.Image:
    """The steps after opening, in the order that matters: declared size, pixels, colour, orientation."""
    width, height = image.size
    if width * height == 0:
        raise InputError(f"An image must have at least one pixel; {name} is {width} x {height}.")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"An image may have at most {MAX_PIXELS:,} pixels; {name} declares {width} x {height} = "
            f"{width * height:,}. Scale it down first."
        )
    image.load()
    rgb, turn = _to_rgb(image), None
    if upright:
        with contextlib.suppress(Exception):  # a broken EXIF block says nothing about the pixels
            turn = _TURN_UPRIGHT.get(int(image.getexif().get(_EXIF_ORIENTATION, 1)))
    return rgb.transpose(turn) if turn is not None else rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_to_rgb(image)
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*_WHITE, 255))
        return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    """Grey pixels of more than 8 bits, which Pillow alone would clip to white."""
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=float(np.finfo(np.float32).max), neginf=0.0)
        grey = np.rint(values * np.float32(255.0 / _white_by_content(values, (1, 255, 65535))))
    else:
        white = _declared_white(image, tags)
        if white == 2**32 - 1:
            values = values.view(np.uint32)  # Pillow hands unsigned 32-bit pixels out as signed
        white = _white_by_content(values, (255, 65535)) if white is None else white
        # The high bits, as Pillow takes them from 16-bit colour: the same grey in both.
        grey = np.floor(values * np.float32(256.0 / (white + 1)))
    grey = np.clip(grey, 0, 255).astype(np.uint8)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:
        grey = 255 - grey  # white is zero; Pillow obeys that only up to 8 bits
    rgb = Image.fromarray(grey).convert("RGB")
    hidden = image.info.get("transparency")
    if isinstance(hidden, int) and image.mode != "F":
        rgb.paste(_WHITE, mask=Image.fromarray(np.where(values == hidden, 255, 0).astype(np.uint8)))
    return rgb


def _declared_white(image: Image.Image, tags: Any) -> int | None:
    """The largest value of the depth that the file declares, None where nothing declares one."""
    if _TIFF_BITS in tags:
        bits = int(tags[_TIFF_BITS][0])
        signed = tags.get(_TIFF_SAMPLE_FORMAT, (1,))[0] == 2
        return 2 ** (bits - 1 if signed else bits) - 1
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        return 65535
    return None


def _white_by_content(values: np.ndarray, scales: tuple[int, ...]) -> float:
    largest = float(values.max())
    return next((scale for scale in scales if largest <= scale), largest)


@contextlib.contextmanager
def _pillow_session() -> Iterator[None]:
    """Hold Pillow's switches while images are decoded; sessions run side by side.

    Truncated files are refused, whatever other packages have set. Pillow's own size limit is only ever raised: whoever
    decodes checks `MAX_PIXELS`. Its warnings are silenced meanwhile, by one filter that is added and removed, because
    `warnings.catch_warnings` would undo what other threads do.
    """
    global _running
    with _lock:
        if _running == 0:
            _undo.enter_context(_switched())
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                _undo.close()


@contextlib.contextmanager
def _switched() -> Iterator[None]:
    truncated, limit = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = None if limit is None else max(limit, MAX_PIXELS)
    warnings.filterwarnings("ignore", module=r"PIL\b")
    entry = warnings.filters[0]
    yield
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = truncated, limit
    with contextlib.suppress(ValueError):  # somebody else removed it
        warnings.filters.remove(entry)  # type: ignore[attr-defined]
