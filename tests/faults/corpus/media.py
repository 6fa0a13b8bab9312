"""Images and videos that unpack to more than they show, or that decoders of every kind have trouble with."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hierax.errors import HieraxError, InputError

from .case import Case, hierax
from .data import bombs, decode, decode_all

# --- AVIF: boxes that say one size around bitstreams of another -------------------------------------------------------


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def _full(kind: bytes, *parts: bytes, version: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24), *parts)


def _tile(side: int) -> tuple[bytes, bytes]:
    """The decoder's configuration and the bitstream of a square of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 10, 10)).save(file, "AVIF", speed=10)
    data = file.getvalue()
    places = {kind: data.index(kind) - 4 for kind in (b"av1C", b"mdat")}
    found = {kind: data[at : at + struct.unpack_from(">I", data, at)[0]] for kind, at in places.items()}
    return found[b"av1C"], found[b"mdat"][8:]


def grid(rows: int, columns: int, width: int, height: int, side: int = 64) -> bytes:
    """An AVIF that is put together from tiles, which are all the same bytes of the file."""
    settings, payload = _tile(side)
    count = rows * columns
    tiles = range(2, 2 + count)
    shape = struct.pack(">4B2H", 0, 0, rows - 1, columns - 1, width, height)
    kinds = [(1, b"grid"), *((tile, b"av01") for tile in tiles)]
    listed = [_full(b"infe", struct.pack(">2H", item, 0), kind, b"\0", version=2) for item, kind in kinds]
    made_of = _full(b"iref", _box(b"dimg", struct.pack(">2H", 1, count), struct.pack(f">{count}H", *tiles)))
    sizes = [_full(b"ispe", struct.pack(">2I", *size)) for size in ((width, height), (side, side))]
    owned = [struct.pack(">H3B", 1, 2, 1, 4), *(struct.pack(">H4B", tile, 3, 2, 0x83, 4) for tile in tiles)]
    shared = _box(b"ipco", *sizes, settings, _full(b"pixi", b"\x03\x08\x08\x08"))
    properties = _box(b"iprp", shared, _full(b"ipma", struct.pack(">I", count + 1), *owned))
    start = _box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")

    def meta(at: int) -> bytes:
        places = [(1, at, len(shape)), *((tile, at + len(shape), len(payload)) for tile in tiles)]
        rows = b"".join(struct.pack(">3H2I", item, 0, 1, offset, length) for item, offset, length in places)
        located = _full(b"iloc", b"\x44\0", struct.pack(">H", count + 1), rows)
        handled = _full(b"hdlr", bytes(4), b"pict", bytes(13)), _full(b"pitm", struct.pack(">H", 1))
        return _full(
            b"meta", *handled, located, _full(b"iinf", struct.pack(">H", count + 1), *listed), made_of, properties
        )

    at = len(start) + len(meta(0)) + 8
    return start + meta(at) + _box(b"mdat", shape, payload)


def _lying(folder: Path) -> None:
    """A picture of 8192 x 8192 whose box says 64 x 64."""
    from PIL import Image

    Image.new("RGB", (8192, 8192)).save(folder / "x.avif", speed=10)
    data = (folder / "x.avif").read_bytes()
    at = data.index(b"ispe") + 8
    (folder / "x.avif").write_bytes(data[:at] + struct.pack(">2I", 64, 64) + data[at + 8 :])


def _deep_avif(folder: Path) -> None:
    import av

    with av.open(str(folder / "x.avif"), "w", format="avif") as container:
        stream = container.add_stream("libsvtav1", rate=1)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p10le"
        frame = av.VideoFrame(128, 96, "yuv420p10le")
        for plane, value in zip(frame.planes, (b"\x80\x02", b"\x00\x02", b"\x00\x02"), strict=True):
            plane.update(value * (plane.buffer_size // 2))
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)


# --- PNG, PPM, BMP and animations ---------------------------------------------------------------------------------------


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(*chunks: bytes, pixels: bytes = (b"\0" + bytes(192)) * 64) -> bytes:
    """64 x 64 black pixels, with other chunks before them."""
    head = _chunk(b"IHDR", struct.pack(">2I5B", 64, 64, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + _chunk(b"IDAT", zlib.compress(pixels)) + _chunk(b"IEND", b"")
    )


def _unpacking(head: bytes, kind: bytes) -> Callable[[], bytes]:
    """A PNG whose text or profile unpacks to 1 GB."""
    return lambda: _png(_chunk(kind, head + _gigabyte_of_zeros()))


def _gigabyte_of_zeros() -> bytes:
    """What zlib makes of 1 GB of zeros: one compressed mebibyte that refers to nothing before it, 1024 times."""
    deflate = zlib.compressobj(9, wbits=-15)
    mebibyte = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    adler = ((1 << 30) % 65521) << 16 | 1  # of zeros: the second sum counts the first, which stays 1
    return b"\x78\xda" + mebibyte * 1024 + b"\3\0" + struct.pack(">I", adler)


def _apng(frames: int) -> bytes:
    turn = [_chunk(b"fcTL", struct.pack(">5I2H2B", 2 * n, 64, 64, 0, 0, 1, 10, 0, 0)) for n in range(frames)]
    image = zlib.compress((b"\0" + bytes(192)) * 64)
    later = [part + _chunk(b"fdAT", struct.pack(">I", 2 * n + 1) + image) for n, part in enumerate(turn)]
    return (
        _png(_chunk(b"acTL", struct.pack(">2I", frames, 0)), turn[0])[:-12] + b"".join(later[1:]) + _chunk(b"IEND", b"")
    )


def _gif(frames: int) -> bytes:
    head = b"GIF89a" + struct.pack("<2H3B", 64, 64, 0xF0, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\x04\x01\0\0\0\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return head + frame * frames + b";"


def _ramp(kind: str, most: int) -> Callable[[], bytes]:
    """Sixteen grey steps from black to white, of `most` + 1 values."""
    steps = [round(most * n / 15) for n in range(16) for _ in range(3 if kind in "P3 P6" else 1)]
    if kind in "P2 P3":
        body = " ".join(map(str, steps)).encode()
    else:
        body = b"".join(step.to_bytes(1 if most < 256 else 2, "big") for step in steps)
    return lambda: f"{kind}\n4 4\n{most}\n".encode() + body


def _bmp(width: int, height: int, body: bytes, *, bits: int = 8, compression: int = 1) -> Callable[[], bytes]:
    colours = bytes(4 << bits) if bits <= 8 else b""
    start = 54 + len(colours)
    head = struct.pack("<IHHI", start + len(body), 0, 0, start)
    said = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, len(colours) // 4, 0)
    return lambda: b"BM" + head + said + colours + body


def _file(name: str, content: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content()) and None


def _refused(name: str, form: str, content: Callable[[], bytes], match: str = ".") -> Case:
    make = _file(f"x.{form}", content)
    return Case(name, decode(f"x.{form}"), make, raises=InputError, match=match, megabytes=60, seconds=2)


def _read(name: str, form: str, content: Callable[[], bytes], mean: float, **bounds: Any) -> Case:
    """A file that is read, to this mean value."""
    found = {"megabytes": 60, "seconds": 2, **bounds}
    return Case(
        name, decode(f"x.{form}"), _file(f"x.{form}", content), expect=lambda p: abs(p.mean() - mean) < 1, **found
    )


# --- videos -------------------------------------------------------------------------------------------------------------


def _clip(folder: Path, name: str, codec: str, *, cover: bool = False, subtitles: str = "") -> None:
    """24 frames of growing red, behind a cover or subtitles where these are asked for."""
    import av

    with av.open(str(folder / name), "w") as container:
        if subtitles:
            (folder / "s.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:00.500\nhello\n\n")
            with av.open(str(folder / "s.vtt")) as texts:
                text = container.add_stream_from_template(texts.streams[0])
                stream = container.add_stream(codec, rate=25)
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                for packet in texts.demux(texts.streams[0]):
                    if packet.dts is not None:
                        packet.stream = text
                        container.mux(packet)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width = picture.height = 512
            picture.pix_fmt, picture.disposition = "yuvj420p", 0x400
        if not subtitles:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if cover:
            still = av.VideoFrame.from_ndarray(np.full((512, 512, 3), 200, np.uint8), format="rgb24")
            for packet in (*picture.encode(still), *picture.encode()):
                container.mux(packet)
        for number in range(24):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[..., 0] = 5 * number
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _shape(name: str) -> Callable[[Path], tuple[int, ...]]:
    from hierax.data.video import read_clip

    return lambda folder: read_clip(folder / name, frames=16, stride=1).shape


def _damaged_clips(folder: Path) -> int:
    """Every hundredth truncation, and flips all over, of an MP4 and a WebM: a clip or our error."""
    from hierax.data.video import read_clip

    random, read = np.random.default_rng(0), 0
    for name in ("a.mp4", "a.webm"):
        whole = np.frombuffer((folder / name).read_bytes(), np.uint8)
        cut = [whole[: len(whole) * share // 100] for share in range(1, 100)]
        flipped = []
        for _ in range(150):
            places = random.integers(0, len(whole) if len(flipped) % 2 else 600, random.integers(1, 30))
            flipped.append(whole.copy())
            flipped[-1][places] ^= random.integers(1, 255, len(places), dtype=np.uint8)
        for data in (*cut, *flipped):
            (folder / f"x{name[1:]}").write_bytes(data.tobytes())
            try:
                read += read_clip(folder / f"x{name[1:]}", frames=8, stride=2).dtype == np.uint8
            except HieraxError:
                continue
    return read


def _both_clips(folder: Path) -> None:
    _clip(folder, "a.mp4", "mpeg4")
    _clip(folder, "a.webm", "libvpx-vp9")


def _embedded(folder: Path) -> bool:
    """Through the command line: a row for each file, and what cannot be read in its row."""
    (folder / "images").mkdir()
    for number, content in enumerate((_png(), _apng(50), _unpacking(b"c\0\0", b"zTXt")(), grid(2, 2, 128, 128))):
        (folder / "images" / f"{number}{'.avif' if content[4:8] == b'ftyp' else '.png'}").write_bytes(content)
    shutil.copy(folder / "images" / "0.png", folder / "images" / "again.png")
    ran = hierax("embed", folder / "images", "-o", folder / "v.npz")
    found = np.load(folder / "v.npz")
    errors = [bool(error) for error in found["error"]]
    return ran.code == 3 and errors == [False, False, True, False, False]


CASES = [
    _read("avif_grid", "avif", lambda: grid(2, 2, 100, 120), 73.7),
    _refused("avif_grid_of_64770_tiles", "avif", lambda: grid(255, 254, 16256, 16320), "at most 4"),
    _refused("avif_grid_of_5000_tiles", "avif", lambda: grid(50, 100, 6400, 3200), "at most 4096 items"),
    _refused("avif_corner_of_a_large_tile", "avif", lambda: grid(1, 1, 64, 64, 8192), "declares 64 x 64 and codes 67,108,864"),
    Case("avif_box_lies", decode("x.avif"), _lying, raises=InputError, match="hide most of its pixels", megabytes=60),
    Case("avif_of_10_bits", decode("x.avif"), _deep_avif, expect=lambda p: p.shape == (96, 128, 3) and abs(p.mean() - 160) < 8),
    Case("bombs_avif", decode_all, bombs("AVIF", speed=10, subsampling="4:4:4"), expect=lambda e: e == [], megabytes=600, seconds=30),
    Case("bombs_png", decode_all, bombs("PNG", compress_level=1), expect=lambda e: e == [], megabytes=450, seconds=30),
    _refused("png_text_of_a_gigabyte", "png", _unpacking(b"c\0\0", b"zTXt"), "too large"),
    _refused("png_international_text", "png", _unpacking(b"c\0\1\0\0\0", b"iTXt"), "too large"),
    _refused("png_profile_of_a_gigabyte", "png", _unpacking(b"c\0\0", b"iCCP"), "too large"),
    _refused("png_many_texts", "png", lambda: _png(_chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(900_000), 9)) * 300), "text"),
    _read("png_pixels_go_on", "png", lambda: _png(pixels=bytes(1 << 28)), 0),
    _read("apng_of_20000", "png", lambda: _apng(20_000), 0),
    _read("gif_of_20000", "gif", lambda: _gif(20_000), 0),
    *(_read(f"ppm_{kind}_of_{most}", "ppm", _ramp(kind, most), mean) for kind in ("P2", "P3", "P5", "P6")
      for most, mean in ((1, 127.5), (255, 127.5), (300, 127.5), (65535, 127.5))),
    *(_refused(f"ppm_of_{most}", "ppm", lambda most=most: f"P6\n4 4\n{most}\n".encode() + bytes(96)) for most in (0, -1, 65536, 10**30)),
    *(_refused(f"ppm_{number}", "ppm", lambda size=size: f"P6\n{size}\n255\n".encode() + bytes(48))
      for number, size in enumerate(("65500 65500", "14000 14000", "99999999 99999999", "4 " + "9" * 5000, "0 0", "-4 4"))),
    _read("bmp_rle", "bmp", _bmp(64, 64, b"\x40\x05\0\0" * 64 + b"\0\1"), 0),
    _read("bmp_rle_of_jumps", "bmp", _bmp(64, 64, b"\0\2\xff\xff" * 1000 + b"\0\1"), 0),
    _read("bmp_rle_of_4_bits", "bmp", _bmp(64, 64, b"\x40\x55\0\0" * 64 + b"\0\1", bits=4, compression=2), 0),
    _refused("bmp_rle_cut", "bmp", _bmp(64, 64, b"\x40\x05\0\0")),
    _refused("bmp_rle_over_the_edge", "bmp", _bmp(4, 4, b"\xff\x05" * 10_000 + b"\0\1")),
    _refused("bmp_of_2_31", "bmp", _bmp(2**31 - 1, 2**31 - 1, bytes(100), bits=24, compression=0), "pixels"),
    _refused("bmp_mirrored", "bmp", _bmp(-64, 64, bytes(64 * 64 * 3), bits=24, compression=0)),
    *(Case(f"clip_{name.replace('.', '_')}", _shape(name), lambda folder, name=name, codec=codec, more=more: _clip(folder, name, codec, **more),
           expect=lambda shape: shape == (1, 16, 48, 64, 3))
      for name, codec, more in (("vp9.webm", "libvpx-vp9", {}), ("vp8.webm", "libvpx", {}), ("cover.mp4", "mpeg4", {"cover": True}),
                                ("subtitles.webm", "libvpx-vp9", {"subtitles": "vtt"}))),
    Case("clips_damaged", _damaged_clips, _both_clips, expect=lambda read: read > 50, megabytes=400, seconds=60),
    Case("embed_media", _embedded, expect=bool, megabytes=300, seconds=30),
]  # fmt: skip
