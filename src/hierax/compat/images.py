"""PIL images to RGB the way both packages see them: as stored, not turned by their orientation tag."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ..data.decode import FORMATS, MAX_PIXELS, open_rgb
from ..data.files import open_regular
from ..data.pillow_session import pillow_session
from ..errors import HieraxError, InputError

_TAGS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")


def stored_rgb(image: Image.Image) -> Image.Image:
    """An image as RGB, transparency over white, deep pixels scaled to 8 bits, orientation tags not obeyed.

    Raises:
        InputError: The image cannot be decoded.
    """
    with _refusing("this image"):
        image.load()
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    bare = image.copy()
    for tag in _TAGS:
        bare.info.pop(tag, None)
    return open_rgb(bare)


def open_stored(path: str | Path) -> Image.Image:
    """Open an image file and load its pixels, in its own mode.

    Raises:
        InputError: Not a readable image file.
    """
    Image.init()
    with _refusing(repr(str(path))), open_regular(path) as stream:
        image = Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"An image may have at most {MAX_PIXELS:,} pixels; {path} declares {image.size}.")
        image.load()
        return image


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Decode with Pillow's switches held, and turn what it raises into one error."""
    try:
        with pillow_session():
            yield
    except HieraxError:
        raise
    except Exception as error:  # on hostile bytes Pillow's parsers raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"An image must decode without errors; {name} does not: {reason}.") from error
