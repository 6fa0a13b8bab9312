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
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, UnidentifiedImageError

from ..errors import InputError, brief
from .avif import coded_pixels
from .files import open_regular
from .inplace import with_fourth
from .memory import PIXELS
from .rgb import rgb_of
from .sources import other_hint
from .tiff import check_tiff

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray"

_Shrink: TypeAlias = Callable[[tuple[int, int]], int]  # of (height, width), how much smaller: 1, 2, 4 or 8

MAX_PIXELS = 200_000_000  # of one image, width times height, where nobody says otherwise: what phones take
_HIDDEN_PIXELS = 4 << 20  # of a coded picture that is far larger than what is shown of it
PIXELS_VARIABLE = "HIERAX_MAX_PIXELS"
# Only these decoders ever run. Phones write MPO under the name .jpg.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "MPO")

_JPEG = ("JPEG", "MPO")
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange height and width
_TURN_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1], 3: lambda pixels: pixels[::-1, ::-1], 4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1), 6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1), 8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}  # fmt: skip
# Bytes a pixel that Pillow's decoders take at most, the image included, as measured at 25 megapixels: WebP keeps two
# canvases and two copies, AVIF deep planes, TIFF a strip and the file.
_DECODER_BYTES = {"WEBP": 16, "AVIF": 20, "TIFF": 12}
_RGB_BYTES, _PREPARED_BYTES = 3, 11  # of our result beside the decoder's, and of a result that is being preprocessed


def _image_locks() -> tuple[threading.Lock, ...]:
    return tuple(threading.Lock() for _ in range(61))


_IMAGE_LOCKS = _image_locks()  # PIL images decode themselves on first use, and two threads may hold the same one

_limit: ContextVar[int | None] = ContextVar("_limit", default=None)  # of `at_most`
_lock = threading.Lock()
_running = 0  # decodes under way
_undo = contextlib.ExitStack()  # what brings back the settings from before them


def _forget() -> None:
    """Begin anew in a forked process, which has the locks of threads but not the threads."""
    global _lock, _running, _IMAGE_LOCKS
    _lock, _running, _IMAGE_LOCKS = threading.Lock(), 0, _image_locks()
    _undo.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
# Pillow logs about odd TIFF tags; without a handler the logging module would print that to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextlib.contextmanager
def at_most(pixels: int) -> Iterator[None]:
    """Refuse larger images for a block, in this thread alone, whatever else is said."""
    before = _limit.set(pixels)
    try:
        yield
    finally:
        _limit.reset(before)


def max_pixels() -> int:
    """How many pixels an image may declare: what `at_most` says, or HIERAX_MAX_PIXELS, or `MAX_PIXELS`.

    Raises:
        InputError: The variable is no positive whole number.
    """
    if (most := _limit.get()) is not None:
        return most
    text = os.environ.get(PIXELS_VARIABLE, "")
    if not text:
        return MAX_PIXELS
    if text.isdecimal() and len(text) < 16 and int(text):
        return int(text)
    raise InputError(
        f"--max-pixels and {PIXELS_VARIABLE} are whole numbers of at least 1; got {brief(text)}. "
        f"Write e.g. {MAX_PIXELS}."
    )


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
        InputError: The source cannot be opened, identified or decoded whole, declares more than `max_pixels()` pixels
            (checked before any is allocated), or is of another type.
    """
    with decoded(source) as pixels:
        return pixels


def open_rgb(source: ImageSource, *, upright: bool = True) -> Image.Image:
    """`decode_image` as a PIL image of mode RGB.

    Args:
        source: As for `decode_image`.
        upright: Whether the orientation tag is obeyed; other packages do not.

    Raises:
        InputError: As `decode_image`.
    """
    with decoded(source, upright=upright) as pixels:
        return Image.fromarray(pixels)


def decode_shrunk(source: ImageSource, shrink: _Shrink) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]:
    """`decode_image`, of a JPEG file at a half, a quarter or an eighth of its size each way where that is enough.

    The decoder leaves out frequencies, which costs a sixth of the time for a photograph of 12 megapixels. Averaged
    down to one size, the pixels differ from those of a whole decode by one to two grey levels on average.

    Args:
        source: As for `decode_image`.
        shrink: Told the upright (height, width) that the file declares, says by how much it may be decoded smaller.

    Returns:
        RGB bytes, which may be read-only and four bytes apart (`inplace.with_fourth`), and the upright (height, width)
        of the source.

    Raises:
        InputError: As `decode_image`; the limit is on the declared pixels.
    """
    asked: list[tuple[int, int]] = []

    def noted(size: tuple[int, int]) -> int:
        asked.append(size)
        return shrink(size)

    with decoded(source, shrink=noted) as pixels:
        return pixels, asked[0] if asked else (pixels.shape[0], pixels.shape[1])


@contextlib.contextmanager
def decoded(
    source: ImageSource, *, upright: bool = True, shrink: _Shrink | None = None, name: str = ""
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """`decode_image` for a block that goes on working with the pixels: their memory counts until it ends.

    Threads that decode wait for each other where their images together would need more than `memory.PIXELS`.

    Args:
        source: As for `decode_image`.
        upright: Whether the orientation tag is obeyed.
        shrink: As for `decode_shrunk`; the pixels may then be read-only and four bytes apart, too.
        name: What to call bytes in messages.

    Raises:
        InputError: As `decode_image`.
    """
    with contextlib.ExitStack() as held:
        pixels = _pixels(source, upright, held, shrink, name)
        # Turned only now that the decoder's memory is free.
        yield np.ascontiguousarray(pixels) if with_fourth(pixels) is None else pixels


def _pixels(
    source: ImageSource, upright: bool, held: contextlib.ExitStack, shrink: _Shrink | None = None, name: str = ""
) -> np.ndarray:
    if isinstance(source, np.ndarray):
        return check_rgb(source)
    name = _called(source, name)
    try:
        with _pillow_session():
            if isinstance(source, Image.Image):
                with _IMAGE_LOCKS[id(source) % len(_IMAGE_LOCKS)]:
                    if isinstance(source, ImageFile.ImageFile) and source.format == "TIFF" and source.fp is not None:
                        check_tiff(source.fp, name)  # not loaded yet
                    return _decode(source, name, upright, held)
            with _open_stream(source) as stream:
                check_tiff(stream, name)
                coded = coded_pixels(stream, name)
                with Image.open(stream, formats=_formats()) as image:
                    return _decode(image, name, upright, held, shrink, coded)
    except InputError:
        raise
    except Exception as error:  # on hostile bytes Pillow's parsers raise almost anything
        raise InputError(_explain(source, name, error)) from error


def upright_size(source: ImageSource) -> tuple[int, int]:
    """(height, width) of an image as it is decoded, by what its file declares; no pixels are read.

    Raises:
        InputError: As `decode_image`, but for what only the pixels show.
    """
    if isinstance(source, np.ndarray):
        height, width, _ = check_rgb(source).shape
        return height, width
    name = _called(source)
    try:
        with _pillow_session(), contextlib.ExitStack() as held:
            image = source
            if not isinstance(image, Image.Image):
                stream = held.enter_context(_open_stream(source))
                check_tiff(stream, name)
                coded_pixels(stream, name)
                image = held.enter_context(Image.open(stream, formats=_formats()))
            width, height = image.size
            return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)
    except InputError:
        raise
    except Exception as error:  # as in `_pixels`
        raise InputError(_explain(source, name, error)) from error


def _called(source: ImageSource, name: str = "") -> str:
    """What to call an image in messages; `repr` keeps odd file names printable."""
    return repr(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else repr(name) if name else "this image"


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
        remedy = f"Scale it down, or raise {PIXELS_VARIABLE}."
        return f"An image may not declare more pixels than the limit; {name}: {error} {remedy}"
    if isinstance(error, UnidentifiedImageError):
        hint = other_hint(source) if isinstance(source, (str, os.PathLike)) else ""
        return (
            f"An image must be one of {', '.join(_formats())}; {name} is none of them{_guess(source)}. {hint}".strip()
        )
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


def _decode(
    image: Image.Image,
    name: str,
    upright: bool,
    held: contextlib.ExitStack,
    shrink: _Shrink | None = None,
    coded: int | None = 0,
) -> np.ndarray:
    """The steps after opening, in the order that matters: declared size, memory, pixels, colour, orientation."""
    width, height = image.size
    if width * height == 0:
        raise InputError(f"An image must have at least one pixel; {name} is {width} x {height}.")
    if width * height > max_pixels():
        raise InputError(
            f"An image may have at most {max_pixels():,} pixels; {name} declares {width} x {height} = "
            f"{width * height:,}. Scale it down, or allow it: --max-pixels {width * height}, or "
            f"{PIXELS_VARIABLE}={width * height}."
        )
    if coded is not None and coded > max(_HIDDEN_PIXELS, 4 * width * height):
        raise InputError(
            f"An image may not hide most of its pixels; {name} declares {width} x {height} and codes {coded:,}. "
            "Save it anew."
        )
    # Of how many pixels an AVIF makes its picture is not always known: then it is decoded alone.
    held.enter_context(PIXELS.hold(PIXELS.total if coded is None else _bytes_to_decode(image, coded)))
    if shrink is not None and image.format in _JPEG:
        factor = shrink((width, height) if _orientation(image) in _SIDEWAYS else (height, width))
        image.draft(None, (max(width // factor, 1), max(height // factor, 1)))
    image.load()
    pixels = rgb_of(image, writable=shrink is None)
    turn = _TURN_UPRIGHT.get(_orientation(image)) if upright else None
    return turn(pixels) if turn is not None else pixels


def _orientation(image: Image.Image) -> int:
    """How the image is turned, 1 to 8; upright where a broken EXIF block hides it, which says nothing of the pixels."""
    with contextlib.suppress(Exception):
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    return 1


def _bytes_to_decode(image: Image.Image, coded: int) -> int:
    """How much memory an image takes at most until it is a network's input, by what it declares and codes."""
    decoder = _DECODER_BYTES.get(image.format or "", 8)
    if image.format in _JPEG:  # the coefficients of all scans, where there are several
        decoder = 4 + 2 * len(image.getbands())
    return max(image.width * image.height, coded) * max(decoder + _RGB_BYTES, _PREPARED_BYTES)


@contextlib.contextmanager
def _pillow_session() -> Iterator[None]:
    """Hold Pillow's switches while images are decoded; sessions run side by side.

    Truncated files are refused, whatever other packages have set. Pillow's own size limit is only ever raised: whoever
    decodes checks `max_pixels()`. Its warnings are silenced meanwhile, by one filter that is added and removed, because
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
    truncated, limit, ours = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, max_pixels()
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = None if limit is None else max(limit, ours, MAX_PIXELS)
    warnings.filterwarnings("ignore", module=r"PIL\b")
    entry = warnings.filters[0]
    yield
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = truncated, limit
    with contextlib.suppress(ValueError):  # somebody else removed it
        warnings.filters.remove(entry)  # type: ignore[attr-defined]
