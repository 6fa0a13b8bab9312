"""What a TIFF declares beside its size: no gigabytes for tiles, no hours for strips, one meaning for every tag."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from hierax.data.decode import decode_image
from hierax.data.tiff import check_tiff
from hierax.errors import InputError

from ..members import encoded, picture

_FORMS = {1: "B", 3: "H", 4: "I", 9: "i", 16: "Q"}


def tiff(*entries, big=False, head=None) -> bytes:
    """A little-endian TIFF with these (tag, type, value or values) and pixels for 64 x 64 bytes of grey."""
    entry, space = ("<HHQ", 8) if big else ("<HHI", 4)
    start = head or (b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) if big else b"II*\0\x08\0\0\0")
    count = struct.pack("<Q" if big else "<H", len(entries))
    at = len(start) + len(count) + len(entries) * (struct.calcsize(entry) + space) + space
    rows, far = b"", b""
    for tag, kind, values in entries:
        values = values if isinstance(values, tuple) else (values,)
        raw = struct.pack(f"<{len(values)}{_FORMS[kind]}", *values)
        if len(raw) > space:
            raw, far = struct.pack("<Q" if big else "<I", at + len(far)), far + raw
        rows += struct.pack(entry, tag, kind, len(values)) + raw.ljust(space, b"\0")
    return start + count + rows + bytes(space) + far + bytes(64 * 64 + 400)


def grey(*more, compression=1, **options) -> bytes:
    """64 x 64 pixels, with more tags."""
    given = {tag for tag, *_ in more}
    usual = (
        (256, 3, 64),
        (257, 3, 64),
        (258, 3, 8),
        (259, 3, compression),
        (262, 3, 1),
        (273, 4, 400),
        (277, 3, 1),
        (278, 3, 64),
        (279, 4, 4096),
    )
    return tiff(*sorted([entry for entry in usual if entry[0] not in given] + list(more)), **options)


TILED = ((324, 4, 400), (325, 4, 4096))


@pytest.mark.parametrize("options", [{}, {"big": True}])
def test_ordinary(options):
    """A check that misreads the directory refuses photographs."""
    assert decode_image(grey(**options)).shape == (64, 64, 3)
    assert decode_image(grey((322, 3, 64), (323, 3, 64), *TILED, **options)).shape == (64, 64, 3)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_written_by_pillow(compression):
    """The same for what is really written."""
    pixels = decode_image(encoded(picture(), "TIFF", compression=compression))
    assert np.abs(pixels - np.asarray(picture()).astype(int)).mean() < 12


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (grey((322, 4, 20_000), (323, 4, 16_384), *TILED, compression=8), "tile"),  # 940 MB
        (grey((322, 4, 65_536), (323, 4, 8192), *TILED, compression=5, big=True), "tile"),
        (grey((322, 16, 2**40), (323, 4, 8192), *TILED, compression=5, big=True), "tile"),
        (grey((322, 9, 20_000), (323, 9, 16_384), *TILED, compression=8), "TileWidth"),  # libtiff takes signed ones
        (grey((322, 3, (64, 64)), (323, 3, 64), *TILED), "TileWidth"),
        (grey((273, 1, (0,) * 300_000), (278, 3, 1)), "StripOffsets"),  # quadratic in Pillow: minutes
        (grey((320, 3, (0,) * 300_000), (262, 3, 3)), "ColorMap"),
        (tiff(*[(256, 3, 64), (256, 3, 60_000), (257, 3, 64), (257, 3, 60_000)]), "twice"),
        (grey(*[(1000 + number, 3, 1) for number in range(5000)]), "tags"),
        (grey(big=True, head=b"MM\0+\0\x08\0\0" + struct.pack(">Q", 16)), "little-endian"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(data, words):
    """Pillow and libtiff allocate what these declare, or disagree about what it is."""
    with pytest.raises(InputError, match=words) as found:
        decode_image(data)
    assert len(str(found.value)) < 300


def test_opened_by_others():
    """An image that a caller opened and never loaded reaches libtiff too."""
    image = Image.open(io.BytesIO(grey((322, 4, 20_000), (323, 4, 16_384), *TILED, compression=8)))
    with pytest.raises(InputError, match="tile"):
        decode_image(image)
    image = Image.open(io.BytesIO(grey()))
    assert decode_image(image).shape == decode_image(image).shape == (64, 64, 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\x09", b"\x89PNG", b"II+\0" + b"\xff" * 20],
)
def test_others_pass(data):
    """What is no TIFF or ends early is for the decoder to refuse, from where the file stood."""
    file = io.BytesIO(data)
    file.seek(min(1, len(data)))
    check_tiff(file, "x")
    assert file.tell() == min(1, len(data))
