"""Images: every format that is decoded, with checksums mended so that changes get past them."""

from __future__ import annotations

import random
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, features

from hierax.data.decode import decode_image

from ....members import encoded, picture
from ..mutate import any_bytes, one_of, put_number
from ..target import Target, Wrong

# Bytes in which sizes and depths are declared.
_HEADERS = {b"\x89PNG": 40, b"GIF8": 60, b"BM": 60, b"II*\0": 260, b"MM\0*": 260, b"RIFF": 60, b"P": 16, b"\0\0\0": 400}


def act(folder: Path, data: bytes) -> None:
    """Decode the file, as every command does."""
    path = folder / "x.img"
    path.write_bytes(data)
    image = decode_image(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise Wrong(f"decoded to {image.dtype} {image.shape}")


def seeds(folder: Path) -> list[bytes]:
    """A small image in each format and mode that matters."""
    small = picture((20, 12))
    clear = small.convert("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    found = [
        encoded(small, "JPEG", exif=exif, icc_profile=b"\0" * 200),
        encoded(small, "JPEG", progressive=True),
        encoded(small.convert("CMYK"), "JPEG"),
        encoded(small, "BMP"),
        encoded(small.quantize(8), "BMP"),
        encoded(small, "PPM"),
        encoded(small.convert("1"), "PPM"),
        b"P2 3 2 65535\n1 2 3 4 5 65535\n",
        b"Pf 2 2 -1.0\n" + struct.pack("<4f", 0, 1, 2, 3),
        encoded(small.convert("P"), "GIF", save_all=True, append_images=[small.rotate(90)], transparency=0),
        *(encoded(small.convert(mode), "PNG") for mode in ("RGBA", "LA", "L", "1", "P")),
        encoded(small, "PNG", pnginfo=_texts(), exif=exif, save_all=True, append_images=[small.rotate(90)]),
        encoded(Image.fromarray(np.arange(240, dtype=np.uint16).reshape(12, 20) * 256), "PNG"),
        *(
            encoded(small, "TIFF", compression=name)
            for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        encoded(Image.fromarray(np.linspace(0, 1, 240, dtype=np.float32).reshape(12, 20)), "TIFF"),
        encoded(small, "TIFF", save_all=True, append_images=[small]),
    ]
    for form in ("WEBP", "AVIF"):
        if features.check(form.lower()):
            found += [encoded(small, form), encoded(clear, form, save_all=True, append_images=[clear.rotate(90)])]
    if features.check("webp"):
        found.append(encoded(small, "WEBP", lossless=True))
    return found


def _texts() -> object:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("a", "b" * 40, zip=True)
    info.add_itxt("c", "d" * 40, zip=True)
    return info


def header(data: bytes, rng: random.Random) -> bytes:
    """Another number in the first fields."""
    found, reach = bytearray(data), next((n for head, n in _HEADERS.items() if data.startswith(head)), 600)
    for _ in range(rng.choice((1, 1, 2, 3))):
        put_number(found, rng.randrange(min(reach, len(found)) + 1), rng)
    return bytes(found)


def png_chunks(data: bytes, rng: random.Random) -> bytes:
    """PNG chunks changed, moved, doubled and left out, their checksums right again."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append([data[at + 4 : at + 8], bytearray(data[at + 8 : at + 8 + length])])
        at += 12 + length
    if data[:4] != b"\x89PNG" or not chunks:
        return data
    for _ in range(rng.choice((1, 2, 3))):
        place = rng.randrange(len(chunks))
        kind, body = chunks[place]
        way = rng.randrange(6)
        if way < 2:
            put_number(body, rng.randrange(len(body) + 1), rng)
        elif way == 2:
            body[:] = any_bytes(bytes(body), rng)
        elif way == 3 and kind in (b"IDAT", b"fdAT"):
            body[:] = zlib.compress(any_bytes(zlib.decompress(bytes(body)), rng))
        elif way == 4:
            chunks.insert(rng.randrange(len(chunks)), [kind, bytearray(body)])
        else:
            chunks[place][0] = rng.choice(
                (b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IEND")
            )
    if rng.random() < 0.05:
        bomb = zlib.compress(bytes(30_000_000))
        chunks.insert(1, [rng.choice((b"zTXt", b"iCCP", b"IDAT")), bytearray(b"a\0\0" + bomb)])
    packed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:8] + b"".join(packed)


def jpeg_segments(data: bytes, rng: random.Random) -> bytes:
    """JPEG segments doubled, moved or with another marker; their sizes follow."""
    if data[:2] != b"\xff\xd8":
        return data
    starts = [match.start() for match in re.finditer(rb"\xff[\xc0-\xfe]", data)]
    first, second = sorted(rng.sample(starts, 2))
    part = data[first:second]
    way = rng.randrange(4)
    if way == 0:
        return data[:second] + part * rng.choice((1, 2, 50)) + data[second:]
    if way == 1:
        return data[:first] + data[second:]
    if way == 2:
        return data[: first + 1] + bytes([rng.randrange(0xC0, 0xFF)]) + data[first + 2 :]
    found = bytearray(data)
    put_number(found, first + rng.randrange(2, 20), rng)
    return bytes(found)


def tiff_tags(data: bytes, rng: random.Random) -> bytes:
    """Entries of a TIFF directory with another tag, type, count or value."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return data
    (at,) = struct.unpack(f"{order}I", data[4:8])
    (count,) = struct.unpack(f"{order}H", data[at : at + 2])
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        entry = at + 2 + 12 * rng.randrange(count)
        offset, form, values = rng.choice(
            ((0, "H", (256, 257, 258, 259, 262, 273, 274, 277, 279, 284, 317, 320, 322, 325, 338, 339, 347)), (2, "H", range(16)),
             (4, "I", (0, 1, 2, 3, 1000, 2**31, 2**32 - 1)), (8, "I", (0, 1, 2, 8, 16, 32, 64, 5, 50000, 65535, 2**31, 2**32 - 1)))
        )  # fmt: skip
        found[entry + offset : entry + offset + struct.calcsize(form)] = struct.pack(
            f"{order}{form}", rng.choice(values)
        )
    return bytes(found)


TARGET = Target(
    "images",
    act,
    seeds,
    one_of(any_bytes, header, header, png_chunks, png_chunks, jpeg_segments, tiff_tags, tiff_tags),
    weight=2,
)
