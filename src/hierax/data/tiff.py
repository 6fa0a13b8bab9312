"""What the directory of a TIFF declares beside the image's size, checked before Pillow or libtiff believe it.

Both allocate by the size of a tile, which may be gigabytes for an image of 64 pixels, and go through as many strips as
are listed. Of a tag that is there twice they do not take the same one.
"""

from __future__ import annotations

import struct
from typing import IO, NamedTuple

from ..errors import InputError

_MAX_PARTS = 200_000  # strips or tiles; a row each in 60,000 rows and three planes is less
_MAX_TAGS = 4096
_TILE_PIXELS = 4 << 20  # of a tile that is larger than its image
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the types of whole numbers, for struct
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_SINGLE = {
    _WIDTH: "ImageWidth", _HEIGHT: "ImageLength", 259: "Compression", 262: "PhotometricInterpretation",
    277: "SamplesPerPixel", 278: "RowsPerStrip", 284: "PlanarConfiguration", 317: "Predictor",
    _TILE_WIDTH: "TileWidth", _TILE_HEIGHT: "TileLength",
}  # fmt: skip
_LISTS = {
    258: "BitsPerSample", 273: "StripOffsets", 279: "StripByteCounts", 320: "ColorMap", 324: "TileOffsets",
    325: "TileByteCounts", 338: "ExtraSamples", 339: "SampleFormat",
}  # fmt: skip


class _Layout(NamedTuple):
    """How classic TIFF and BigTIFF are laid out."""

    start: tuple[int, str]  # where the place of the first directory stands
    entries: str  # how many there are
    entry: str  # tag, type, count, value or its place


_CLASSIC, _BIG = _Layout((4, "I"), "H", "HHI4s"), _Layout((8, "Q"), "Q", "HHQ8s")


def check_tiff(file: IO[bytes], name: str) -> None:
    """Refuse a TIFF that asks for more than its size announces; leaves the file where it was.

    What is no TIFF, or ends early, passes: whoever decodes says so.

    Raises:
        InputError: A tag that decides is there twice or is no whole number, a tile is far larger than the image, or
            there are too many tags, strips or tiles.
    """
    position = file.tell()
    try:
        file.seek(0)
        _check(file, name)
    except struct.error:
        pass
    finally:
        file.seek(position)


def _check(file: IO[bytes], name: str) -> None:
    order = {b"II": "<", b"MM": ">"}.get((head := file.read(4))[:2])
    if order is None or len(head) < 4:
        return
    if head == b"MM\0+":  # Pillow looks for its directory in one place, libtiff in another
        raise InputError(f"A BigTIFF must be little-endian; {name} is not. Save it as TIFF or PNG.")
    layout = _BIG if head[2] == 43 else _CLASSIC
    file.seek(layout.start[0])
    file.seek(min(_read(file, order + layout.start[1])[0], 2**63 - 1))
    seen: set[int] = set()
    sides: dict[int, int] = {}
    if (entries := _read(file, order + layout.entries)[0]) > _MAX_TAGS:
        raise InputError(f"A TIFF may have at most {_MAX_TAGS:,} tags; {name} has {entries:,}.")
    for _ in range(entries):
        tag, kind, count, value = _read(file, order + layout.entry)
        word = _SINGLE.get(tag) or _LISTS.get(tag)
        if word is None:
            continue
        if tag in seen:
            raise InputError(f"A TIFF must have each tag once; {name} has {word} twice.")
        if kind not in _NUMBERS or count > (1 if tag in _SINGLE else _MAX_PARTS):
            raise InputError(
                f"A TIFF's tags must be whole numbers, one or for strips and tiles at most {_MAX_PARTS:,}; {name} has "
                f"{count:,} of type {kind} for {word}. Save it with larger tiles."
            )
        seen.add(tag)
        if tag in _SINGLE and count:
            (sides[tag],) = struct.unpack_from(order + _NUMBERS[kind], value)
    width, height = sides.get(_TILE_WIDTH, 0), sides.get(_TILE_HEIGHT, 0)
    image = sides.get(_WIDTH, 0) * sides.get(_HEIGHT, 0)
    if width * height > max(_TILE_PIXELS, image * 5 // 4):  # sides are rounded up to multiples of 16
        raise InputError(
            f"A TIFF's tile may have {_TILE_PIXELS:,} pixels, or a quarter more than the image; {name} has {width} x "
            f"{height} for {image:,} pixels. Save it with smaller tiles."
        )


def _read(file: IO[bytes], form: str) -> tuple[int, int, int, bytes]:
    return struct.unpack(form, file.read(struct.calcsize(form)))  # type: ignore[return-value]
