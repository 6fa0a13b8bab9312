"""Images with the class of each pixel: masks read by what their values mean, and held against their images."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Int
from numpy import ndarray

from ..errors import InputError
from .decode import decode_image
from .mask_classes import Classes, classes_file, classes_of, read_classes, with_unlabelled
from .masks import Mask, read_mask
from .pairs import Pair, Pairs


def mask_meaning(pairs: Pairs, classes: str | Path | None, unlabelled: str | int | None) -> Classes:
    """What the values of masks mean: by a file that is named or lies in the folder, else by what they hold.

    Raises:
        InputError: As `read_classes` and `classes_of`.
    """
    file = classes_file(pairs.folder) if classes is None else Path(classes).expanduser()
    if file is not None:
        return with_unlabelled(read_classes(file), unlabelled)
    return classes_of(((str(pair.mask), read_mask(pair.mask)) for pair in pairs.pairs), unlabelled)


def read_pair(pair: Pair, meaning: Classes) -> tuple[ndarray, Int[ndarray, "h w"]]:
    """RGB bytes of an image, and the class of each pixel.

    Raises:
        InputError: One cannot be read, they differ in size, or a value means nothing.
    """
    pixels, mask = decode_image(pair.image), read_mask(pair.mask)
    check_size(pair, pixels.shape[:2], mask)
    return pixels, meaning.decode(mask, str(pair.mask))


def check_size(pair: Pair, size: tuple[int, ...], mask: Mask) -> None:
    """Refuse a mask of another size than its image.

    Raises:
        InputError: It is.
    """
    height, width = mask.values.shape
    if (height, width) != tuple(size):
        turned = (
            " The image is turned by its orientation tag: draw on the upright one." if (width, height) == size else ""
        )
        raise InputError(
            f"A mask has the size of its image; {str(pair.mask)!r} is {width} x {height} and {str(pair.image)!r} "
            f"{size[1]} x {size[0]}.{turned} Save it at the image's size."
        )
