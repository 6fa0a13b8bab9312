"""A clip as frames that come one at a time: a folder of images, or a video file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from numpy import ndarray

from ..errors import InputError
from .decode import decode_image
from .sources import IMAGE_EXTENSIONS
from .video import each_frame
from .walk import hidden


@dataclass(frozen=True)
class Frames:
    """The frames of a clip.

    Attributes:
        source: The folder or file.
        paths: Files of the frames in order; None of a video.
    """

    source: Path
    paths: tuple[Path, ...] | None

    def __iter__(self) -> Iterator[tuple[str, UInt8[ndarray, "h w 3"]]]:
        """Name and RGB bytes of each.

        Raises:
            InputError: One cannot be read, or has another size than the first.
        """
        size: tuple[int, ...] | None = None
        if self.paths is None:
            yield from ((f"{number:05}", pixels) for number, pixels in enumerate(each_frame(self.source)))
            return
        for path in self.paths:
            pixels = decode_image(path)
            size = size or pixels.shape
            if pixels.shape != size:
                raise InputError(
                    f"The frames of a clip have one size; {str(path)!r} has {pixels.shape[1]} x {pixels.shape[0]} "
                    f"pixels, those before it {size[1]} x {size[0]}."
                )
            yield path.stem, pixels


def open_frames(source: str | os.PathLike[str]) -> Frames:
    """A clip.

    Frames of a folder are taken in the order of their names, numbers in them by value: frame2 before frame10.

    Raises:
        InputError: Neither a folder of images nor a file.
    """
    path = Path(source).expanduser()
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"A clip is a folder of frames or a video file; {str(path)!r} does not exist.")
        return Frames(path, None)
    try:
        names = [name for name in os.listdir(path) if not hidden(name)]
    except OSError as error:
        raise InputError(f"A clip's folder must be readable; {str(path)!r}: {error.strerror}.") from error
    found = sorted((name for name in names if Path(name).suffix.lower() in IMAGE_EXTENSIONS), key=_natural)
    if not found:
        raise InputError(f"A clip's folder holds its frames as images; {str(path)!r} holds none.")
    stems = [Path(name).stem for name in found]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"Frames have different names; {twice!r} is there twice in {str(path)!r}. Remove one.")
    return Frames(path, tuple(path / name for name in found))


def _natural(name: str) -> list[tuple[int, str]]:
    """A name as its parts, numbers by their value."""
    return [
        (int(part), "") if part.isdecimal() and len(part) < 300 else (-1, part) for part in re.split(r"([0-9]+)", name)
    ]
