"""decode_image: whatever a folder of other people's pictures may hold."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from hierax.data import decode
from hierax.data.decode import decode_image, upright_size
from hierax.errors import InputError

from ..members import encoded, picture

TORTURE = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")


def tiff(values: np.ndarray, bits: int, kind: int, photometric: int = 1, order: str = "<") -> bytes:
    """An uncompressed single-strip grey TIFF; kind: 1 unsigned, 2 signed, 3 float."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, kind)]
    entries = b""
    for tag, form, value in tags:
        payload = struct.pack(order + "I", value) if form == 4 else struct.pack(order + "HH", value, 0)
        entries += struct.pack(order + "HHI", tag, form, 1) + payload
    directory = struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)
    magic = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    return magic + data + directory


RAMP = np.linspace(0, 65535, 64 * 256).round().astype(np.uint16).reshape(64, 256)


# ---- kinds of source -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_sources__all_the_same(tmp_path, form):
    """Path, str, bytes and PIL must agree to the bit; a second decoder for one of them would not."""
    image = picture()
    data = encoded(image, form, **({"lossless": True} if form == "WEBP" else {}))
    path = tmp_path / "picture.any"
    path.write_bytes(data)
    want = np.asarray(image)
    np.testing.assert_array_equal(decode_image(want), want)
    for source in (path, str(path), data, bytearray(data), memoryview(data), image):
        got = decode_image(source)
        assert got.dtype == np.uint8
        assert got.flags.writeable
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF", "GIF", "MPO"])
def test_sources__lossy_formats(form):
    """A missing decoder, or channels in the wrong order, is off by far more than compression."""
    image = picture()
    options = {"save_all": True, "append_images": [picture(seed=1)]} if form == "MPO" else {}
    got = decode_image(encoded(image, form, **options))
    assert np.abs(got.astype(int) - np.asarray(image)).mean() < (20 if form == "GIF" else 12)


def test_numpy__view_is_made_contiguous():
    """A reversed view handed on as it is would crash torch.from_numpy later."""
    image = np.asarray(picture())
    np.testing.assert_array_equal(decode_image(image[:, ::-1]), image[:, ::-1])


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (np.zeros((4, 4, 3), np.float32), "0..255"),
        (np.zeros((4, 4, 3), np.uint16), "bit depth"),
        (np.zeros((3, 4, 4), np.uint8), "transpose"),
        (np.zeros((4, 4), np.uint8), "stack"),
        (np.zeros((4, 4, 4), np.uint8), "PIL.Image.fromarray"),
        (np.zeros((2, 4, 4, 3), np.uint8), "one by one"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ],
)
def test_numpy__wrong_arrays_say_what_to_do(array, hint):
    """Guessing a conversion would give silent garbage."""
    with pytest.raises(InputError, match=hint):
        decode_image(array)


@pytest.mark.parametrize("source", [None, 3, [1, 2], object(), io.BytesIO(b"x"), b"", "", "a\0b"])
def test_sources__other_types_refused(source):
    """A TypeError or AttributeError from inside would be no answer."""
    with pytest.raises(InputError):
        decode_image(source)


# ---- fault 1, 10: what is no image ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"<!doctype html><p>404", "HTML"),
        (b"\xff\xd8\xff", "none of"),
        (bytes(range(256)) * 9, "none of"),
    ],
)
def test_not_an_image__names_the_file(tmp_path, data, words):
    """An error without the path is useless in a run over a million files."""
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        decode_image(path)
    assert str(path) in str(caught.value)


def test_only_regular_files(tmp_path):
    """Opening a FIFO would block for ever, reading /dev/zero would never end."""
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    reasons = {
        "fifo.jpg": "named pipe",
        "dangling.jpg": "link to a missing file",
        "loop.jpg": "cannot be opened",
        "zero.jpg": "device",
        "folder.jpg": "folder",
        "missing.jpg": "does not exist",
    }
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path has to be short
        try:
            listener.bind("socket.jpg")
        finally:
            os.chdir(here)
        for name, reason in {**reasons, "socket.jpg": "socket"}.items():
            with pytest.raises(InputError, match=reason) as caught:
                decode_image(tmp_path / name)
            assert str(caught.value).count(name) == str(caught.value).count("An input must") == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    """A PermissionError would stop the run."""
    path = tmp_path / "secret.jpg"
    path.write_bytes(encoded(picture(), "JPEG"))
    path.chmod(0)
    with pytest.raises(InputError, match="permission"):
        decode_image(path)


def test_url__is_not_fetched():
    """A URL must be refused in words, not looked up as a file."""
    with pytest.raises(InputError, match="URL"):
        decode_image("https://example.com/cat.jpg")


def test_odd_names__message_prints(tmp_path):
    """A name that is not UTF-8 must not make printing the error fail."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n,.jpg")
    with pytest.raises(InputError) as caught:
        decode_image(path)
    str(caught.value).encode("utf-8")
    with open(path, "wb") as file:
        file.write(encoded(picture(), "PNG"))
    assert decode_image(path).shape == (32, 48, 3)


# ---- fault 2, 3: damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_truncated__refused(form):
    """A decoder that fills the rest with grey gives a confident vector for half a picture."""
    options = {"compression": "tiff_lzw"} if form == "TIFF" else {}
    data = encoded(picture((96, 64)), form, **options)
    for percent in range(0, 99):
        with pytest.raises(InputError):
            decode_image(data[: len(data) * percent // 100])


def test_truncated__whatever_others_set(monkeypatch):
    """Other packages tell Pillow, for the whole process, to fill up truncated files with grey."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(picture((64, 64)), "PNG")[:-900]
    taken: list[int] = []

    def work():
        for _ in range(100):
            with contextlib.suppress(InputError):
                taken.append(len(decode_image(data)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == []
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@TORTURE
@given(
    data=st.binary(max_size=400),
    start=st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"II*\0",
            b"MM\0*",
            b"BM",
            b"P5 ",
            b"P6\n",
            b"Pf\n",
            b"RIFF\x20\0\0\0WEBPVP8 ",
            b"\0\0\0\x1cftypavif",
        ]
    ),
)
def test_random_bytes__only_input_error(data, start):
    """Pillow's parsers raise struct.error, SyntaxError, ValueError and more; none may come through."""
    try:
        got = decode_image(start + data)
    except InputError:
        return
    assert got.dtype == np.uint8
    assert got.ndim == 3


SEEDS = [
    encoded(picture((40, 30)), form, **options)
    for form, options in [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("GIF", {}), ("BMP", {}),
        ("TIFF", {}), ("TIFF", {"compression": "tiff_deflate"}), ("TIFF", {"compression": "jpeg"}), ("PPM", {}), ("AVIF", {}),
    ]
] + [encoded(picture((40, 30)).convert("P"), "PNG", transparency=3), encoded(picture().convert("CMYK"), "JPEG")]  # fmt: skip


@TORTURE
@given(st.data())
def test_bit_flips__only_input_error(data):
    """Damaged files either decode or are refused; no other exception, no crash."""
    seed = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(seed) * 8 - 1))
        seed[position // 8] ^= 1 << position % 8
    try:
        got = decode_image(bytes(seed))
    except InputError:
        return
    assert got.dtype == np.uint8


# ---- fault 4: bombs ----------------------------------------------------------------------------------------------


def test_bomb__refused_before_pixels(tmp_path):
    """A decoder that allocates first would need gigabytes for these files of a few hundred kilobytes."""
    import resource

    lying = png(65500, 65500, 8, 2, b"\0")
    rows = zlib.compressobj(1)
    body = b"".join(rows.compress(bytes(3_200_100)) for _ in range(80)) + rows.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32000, 8000, 8, 0, 0, 0, 0))
    real = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    gif = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;"
    bitmap = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 65500, 65500, 1, 24, 0, 0, 0, 0, 0, 0) + b"abc"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (lying, real, gif, bitmap, b"P6 65500 65500 255\n" + b"x" * 99):
        with pytest.raises(InputError, match="pixels"):
            decode_image(data)
    text = chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(30_000_000), 1))
    with pytest.raises(InputError):
        decode_image(png(4, 4, 8, 0, bytes(20), extra=text))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_max_pixels__is_the_exact_limit(monkeypatch):
    """Off by one, or a limit that is obeyed only where there is a file."""
    data = encoded(picture((50, 40)), "PNG")
    monkeypatch.setattr(decode, "MAX_PIXELS", 2000)
    assert decode_image(data).shape == (40, 50, 3)
    monkeypatch.setattr(decode, "MAX_PIXELS", 1999)
    for source in (data, picture((50, 40))):
        with pytest.raises(InputError, match="1,999"):
            decode_image(source)
    monkeypatch.setenv("HIERAX_MAX_PIXELS", "2000")
    assert decode_image(data).shape == (40, 50, 3)
    for text in ("0", "-1", "many", "9" * 5000):
        monkeypatch.setenv("HIERAX_MAX_PIXELS", text)
        with pytest.raises(InputError, match="at least 1"):
            decode_image(data)


def test_max_pixels__can_exceed_pillows_limit(monkeypatch):
    """Pillow refuses above twice its own limit, which other packages set for the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert decode_image(encoded(picture((50, 40)), "PNG")).shape == (40, 50, 3)
    assert Image.MAX_IMAGE_PIXELS == 500


def test_long_and_thin():
    """1 x 60000 is a picture, not a bomb."""
    assert decode_image(Image.new("RGB", (60000, 1))).shape == (1, 60000, 3)
    assert decode_image(encoded(Image.new("L", (1, 60000)), "PNG")).shape == (60000, 1, 3)
    assert decode_image(encoded(Image.new("L", (1, 1)), "PNG")).shape == (1, 1, 3)


# ---- fault 5: depth ----------------------------------------------------------------------------------------------


def _grey_rows(values: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)


@pytest.mark.parametrize(
    "data",
    [
        png(256, 64, 16, 0, _grey_rows(RAMP)),
        encoded(Image.fromarray(RAMP), "TIFF"),
        tiff(RAMP, 16, 1),
        tiff(RAMP, 16, 1, order=">"),
        tiff(65535 - RAMP, 16, 1, photometric=0),
        tiff((RAMP >> 1).astype(np.int16), 16, 2),
        tiff(RAMP.astype(np.uint32) * 65537, 32, 1),
        tiff((RAMP / 65535).astype(np.float32), 32, 3),
        tiff((RAMP / 257).astype(np.float32), 32, 3),
        tiff(RAMP.astype(np.float32), 32, 3),
        b"P5 256 64 65535\n" + RAMP.astype(">u2").tobytes(),
    ],
    ids=["png", "pil", "le", "be", "white-is-zero", "signed", "u32", "f-1", "f-255", "f-65535", "pgm"],
)
def test_deep_grey__linear_ramp(data):
    """Pillow alone clips 16 bits to white, a mean of 254.5; the ramp's mean is 127.5."""
    got = decode_image(data)
    assert got.shape == (64, 256, 3)
    assert abs(got.mean() - 127.5) < 1
    assert got.min() == 0
    assert got.max() == 255
    assert np.abs(got[..., 0].astype(float) - RAMP / 257).max() <= 1
    assert (got[..., 0] == got[..., 2]).all()


def test_deep_colour__equals_deep_grey():
    """The same values in 16-bit RGB and 16-bit grey must be the same picture."""
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in RAMP)
    np.testing.assert_array_equal(decode_image(png(256, 64, 16, 2, rows)), decode_image(tiff(RAMP, 16, 1)))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_deep_pil_modes(mode):
    """A PIL image of a 16-bit mode is handled as the file is."""
    raw = RAMP.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    assert abs(decode_image(Image.frombytes(mode, (256, 64), raw)).mean() - 127.5) < 1


def test_mode_i__by_content():
    """A 32-bit image declares no useful depth: 8-bit values must stay as they are."""
    grey = picture().convert("L")
    np.testing.assert_array_equal(decode_image(grey.convert("I"))[..., 0], np.asarray(grey))


def test_float__nan_and_negative_are_black():
    """NaN cast to bytes is undefined."""
    values = np.array([[np.nan, -5.0, 0.5, 1.0]], np.float32)
    assert decode_image(Image.fromarray(values))[0, :, 0].tolist() == [0, 0, 128, 255]


def test_deep_transparency():
    """The transparent grey value of a 16-bit PNG must show white, as a viewer shows it."""
    data = png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 1000, 65279), extra=chunk(b"tRNS", struct.pack(">H", 1000)))
    assert decode_image(data)[0].tolist() == [[255] * 3, [254] * 3]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_one_bit(form):
    """1-bit pixels are 0 and 255, not 0 and 1."""
    image = Image.new("1", (9, 5))
    image.putpixel((3, 2), 1)
    got = decode_image(encoded(image, form))
    assert got[2, 3].tolist() == [255] * 3
    assert got.sum() == 255 * 3


# ---- fault 6: colour ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa", "P"])
def test_alpha__over_white(mode):
    """Dropping alpha shows the colours that a viewer hides, often black."""
    grey = Image.new("RGBA", (4, 4), (100, 100, 100, 0))
    grey.paste((200, 200, 200, 255), (0, 0, 2, 4))
    if mode == "P":
        image = grey.convert("RGBA").quantize(4)
    elif mode in ("La", "RGBa"):
        image = grey.convert("LA" if mode == "La" else "RGBA").convert(mode)
    else:
        image = grey.convert(mode)
    if mode == "PA" and image.convert("RGBA").getpixel((3, 3))[3]:
        pytest.skip("this Pillow loses alpha when it makes PA images")
    got = decode_image(image)
    assert np.abs(got[0, 0].astype(int) - 200).max() <= 1
    assert got[0, 3].tolist() == [255] * 3


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_transparent_colour(mode):
    """A tRNS chunk without an alpha channel is transparency too."""
    image = Image.new("RGB", (4, 2), (200, 0, 0)).convert(mode)
    image.putpixel((0, 0), (9, 9, 9) if mode == "RGB" else 9)
    if mode == "P":
        image.putpalette([200, 0, 0] * 256)
    data = encoded(image, "PNG", transparency=(9, 9, 9) if mode == "RGB" else 9)
    got = decode_image(data)
    assert got[0, 0].tolist() == [255] * 3
    assert got[0, 1].tolist() != [255] * 3


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_colour_spaces(mode):
    """Reading CMYK without Adobe's inversion gives a negative."""
    image = picture()
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        other = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    else:
        other = image.convert(mode)
    for source in [other] + ([encoded(other, "JPEG", quality=95)] if mode in ("CMYK", "YCbCr") else []):
        assert np.abs(decode_image(source).astype(int) - np.asarray(image)).mean() < 8


# ---- fault 7: orientation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(form, orientation):
    """Turning the wrong way, twice (TIFF turns itself), or not at all."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = (255, 0, 0)
    upright[8:, :16] = (0, 255, 0)
    upright[:8, 16:] = (0, 0, 255)
    stored = {  # how a camera stores an upright scene, row 0 / column 0 as the EXIF standard names them
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1], 7: upright[::-1, ::-1].swapaxes(0, 1), 8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(form, {})
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif.tobytes(), **options)
    for source in (data, Image.open(io.BytesIO(data))):
        got = decode_image(source)
        assert got.shape == upright.shape
        assert np.abs(got.astype(int) - upright).mean() < 4


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 40],
)
def test_orientation__broken_exif_ignored(exif):
    """A broken EXIF block must cost neither the picture nor a warning."""
    image = picture()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = decode_image(encoded(image, "JPEG", exif=exif, quality=95))
    assert np.abs(got.astype(int) - np.asarray(image)).mean() < 6


def test_pil_image_is_left_alone():
    """The caller's image must keep its mode, size and orientation tag."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(picture(), "PNG", exif=exif.tobytes())))
    first, second = decode_image(image), decode_image(image)
    np.testing.assert_array_equal(first, second)
    assert image.size == (48, 32)


def test_same_pil_image_in_many_threads():
    """A PIL image loads itself on first use: two threads at once would read the file twice at the same place."""
    data = encoded(picture((300, 200)), "PNG")
    want = decode_image(data)
    for _ in range(10):
        image, results = Image.open(io.BytesIO(data)), []
        threads = [threading.Thread(target=lambda i=image, r=results: r.append(decode_image(i))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 6
        assert all((result == want).all() for result in results)


# ---- fault 8: animations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_animation__first_frame(form):
    """The last frame, or a blend, is another picture."""
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "lime", "blue")]
    got = decode_image(encoded(frames[0], form, save_all=True, append_images=frames[1:]))
    assert np.abs(got.astype(int) - (255, 0, 0)).mean() < 3


# ---- manners -----------------------------------------------------------------------------------------------------


def test_warnings__do_not_leak(monkeypatch):
    """Pillow warns above half of its limit; with warnings as errors that would even refuse the file."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1900)
    data = encoded(picture((50, 40)), "PNG")
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode_image(data)
        decode_image(encoded(picture().convert("P"), "PNG", transparency=b"\0\x80"))
    assert caught == []
    assert warnings.filters == before


def test_other_formats_refused():
    """Decoders outside the list, such as EPS, run other programs or old code."""
    with pytest.raises(InputError, match="JPEG"):
        decode_image(encoded(picture(), "ICO"))
    with pytest.raises(InputError, match="none of"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


# ---- the size alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_upright_size__as_decoded(tmp_path, turn):
    """A phone's upright photograph lies on its side in the file: by its header it would be taken for a wide one."""
    exif = Image.Exif()
    exif[0x0112] = turn
    picture((48, 32)).save(tmp_path / "a.jpg", exif=exif)
    expected = decode_image(tmp_path / "a.jpg").shape[:2]
    assert upright_size(tmp_path / "a.jpg") == upright_size((tmp_path / "a.jpg").read_bytes()) == expected
    assert upright_size(decode_image(tmp_path / "a.jpg")) == expected
    with Image.open(tmp_path / "a.jpg") as image:
        assert upright_size(image) == expected


def test_upright_size__reads_no_pixels(tmp_path):
    """A cut file has a size; what is no image is refused as ever."""
    data = encoded(picture((48, 32)), "PNG")
    assert upright_size(data[: len(data) // 2]) == (32, 48)
    with pytest.raises(InputError, match="must be one of"):
        upright_size(b"no image at all")
