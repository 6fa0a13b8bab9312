"""Images, videos, tables and sources that took gigabytes, never ended, raised raw errors or were read wrongly."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hierax.data.datasets.open import open_data
from hierax.errors import InputError

from .case import Case, hierax, refused


def bombs(form: str, **options: Any) -> Callable[[Path], None]:
    """Four files of some kilobytes that declare 25 megapixels each."""

    def make(folder: Path) -> None:
        from PIL import Image

        mode = "P" if form == "GIF" else "RGB"
        (folder / "images").mkdir()
        Image.new(mode, (5000, 5000)).save(folder / "images" / "0.any", form, **options)
        for number in (1, 2, 3):
            shutil.copy(folder / "images" / "0.any", folder / "images" / f"{number}.any")

    return make


def decode_all(folder: Path) -> list[str]:
    """Prepare the files in eight threads that together may take what one of them needs."""
    from hierax.config import PreprocessSpec
    from hierax.data.decode import decoded
    from hierax.data.loader import map_batches
    from hierax.data.memory import PIXELS
    from hierax.data.preprocess import preprocess

    PIXELS.total = 100 << 20
    os.sched_getaffinity = lambda _: set(range(8))  # type: ignore[assignment]

    def prepare(path: Path) -> Any:
        with decoded(path) as pixels:
            return preprocess(pixels, PreprocessSpec(size=(32, 32)))

    batches = map_batches(sorted((folder / "images").iterdir()), prepare, batch_size=4)
    return [error for batch in batches for error in batch.errors.values()]


def _tiffs(folder: Path) -> None:
    """A TIFF of 64 x 64 pixels in one tile of 940 MB; the second one in four million strips."""
    for name, parts in (
        ("tile.tif", ((322, 4, 1, 20_000), (323, 4, 1, 16_384), (324, 4, 1, 300), (325, 4, 1, 1000))),
        ("strips.tif", ((273, 1, 4_000_000, 300), (278, 3, 1, 1))),
    ):
        sizes = ((256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 8), (259, 3, 1, 5 if name == "tile.tif" else 1))
        entries = sorted((*sizes, (262, 3, 1, 1), (277, 3, 1, 1), *parts))
        rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows
        (folder / name).write_bytes(head + bytes(4_100_000 if name == "strips.tif" else 2000))


def _large_frames(folder: Path) -> None:
    """A video of some kilobytes whose frames take 25 MB each."""
    import av
    import numpy as np

    with av.open(str(folder / "large.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((2160, 3840, 3), np.uint8), format="rgb24")
        for number in range(24):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _prepare_clip(folder: Path) -> tuple[int, ...]:
    """What every command gives a network of clips."""
    from types import SimpleNamespace

    from hierax.config import PreprocessSpec
    from hierax.data.inputs import network_input

    config: Any = SimpleNamespace(is_video=True, input_size=(16, 32, 32))
    return tuple(network_input(folder / "large.mp4", config, PreprocessSpec(size=(32, 32), frame_stride=1)).shape)


def decode(name: str) -> Callable[[Path], Any]:
    from hierax.data.decode import decode_image

    return lambda folder: decode_image(folder / name)


def _text(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def _odd_names(folder: Path) -> None:
    from PIL import Image

    for name in (b"\xff.png", b"new\nline.png", b'co,m"ma.png', b"\xed\xa0\x80.png", b"a" * 251 + b".png"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            Image.new("RGB", (8, 8)).save(file, "PNG")


def _source(name: str, source: str, match: str = ".", make: Callable[[Path], None] | None = None) -> Case:
    more = {} if make is None else {"make": make}
    return Case(name, act=lambda folder: open_data(source), raises=InputError, match=match, **more)


def _tables_beside(folder: Path) -> None:
    """Images in no class folder, beside tables that never end or never begin."""
    (folder / "1.png").touch()
    os.mkfifo(folder / "pipe.csv")
    (folder / "zero.csv").symlink_to("/dev/zero")
    (folder / "line.csv").write_bytes(b"x" * 50_000_000)


def _loop_of_links(folder: Path) -> None:
    """A folder that holds itself: every image is found again and again."""
    (folder / "loop").symlink_to(".")
    (folder / "1.png").touch()
    (folder / "t.csv").write_text("id,label\n1,a\n")


def _missing_files(folder: Path) -> None:
    """Files that are nowhere, each below a folder of its own, beside thousands of folders."""
    for number in range(2000):
        (folder / f"d{number}").mkdir()
    rows = (f"s{number}/../../{number},{number % 3}\n" for number in range(100_000))
    (folder / "t.csv").write_text("id,label\n" + "".join(rows))


CASES = [
    Case("bombs_gif", decode_all, bombs("GIF", transparency=0), expect=lambda e: e == [], megabytes=450, seconds=30),
    Case("bombs_webp", decode_all, bombs("WEBP", lossless=True, method=0), expect=lambda e: e == [], megabytes=550, seconds=30),
    Case("bombs_jpeg", decode_all, bombs("JPEG", progressive=True, subsampling=0), expect=lambda e: e == [], megabytes=450, seconds=30),
    Case("tiff_tile", decode("tile.tif"), _tiffs, raises=InputError, match="tile", megabytes=50),
    Case("tiff_strips", decode("strips.tif"), _tiffs, raises=InputError, match="StripOffsets", megabytes=50),
    Case("large_frames", _prepare_clip, _large_frames, expect=lambda shape: shape == (3, 16, 32, 32), megabytes=300, seconds=20),
    Case("names", lambda folder: hierax("classify", folder, "--format", "jsonl"), _odd_names,
         expect=lambda ran: ran.code == 0 and ran.out.count("\n") == 5, seconds=10),
    Case("label_of_300_million", lambda folder: open_data("t.csv").classes, _text("t.csv", b"path,label\na,300000000\nb,7\n"),
         expect=lambda classes: classes == ["7", "300000000"], megabytes=50),
    Case("dates_as_labels", lambda folder: len(open_data("t.csv").classes),
         _text("t.csv", b"path,label\n" + b"".join(b"a,2024%02d%02d\n" % (m, d) for m in range(1, 13) for d in range(1, 29))),
         expect=lambda count: count == 336, megabytes=50),
    Case("label_of_5000_digits", lambda folder: open_data("t.csv").classes, _text("t.csv", b"path,label\na," + b"9" * 5000),
         expect=lambda classes: classes == ["9" * 5000], megabytes=50),
    _source("quote_left_open", "t.csv", "field larger", _text("t.csv", b'path,label\n"' + b"a,b\n" * 500_000)),
    _source("quote_glued", "t.csv", "line 2", _text("t.csv", b'path,label\n"a"b.png,x\n')),
    _source("nul_in_table", "t.csv", "NUL", _text("t.csv", b"path,label\na\0,x\n")),
    _source("utf16_table", "t.csv", "UTF-16", _text("t.csv", "path,label\na,x\n".encode("utf-16"))),
    _source("device_as_table", "t.csv", "device", lambda folder: (folder / "t.csv").symlink_to("/dev/zero")),
    _source("pipe_as_list", "t.txt", "named pipe", lambda folder: os.mkfifo(folder / "t.txt")),
    _source("shapes_without_end", "shapes:1" + "0" * 30, "100,000,000"),
    _source("shapes_of_negative_seed", "shapes:5@-1", "seed"),
    _source("shapes_of_long_seed", "shapes:5@" + "9" * 5000, "seed"),
    _source("name_too_long", "x" * 5000, "Training data"),
    Case("tables_beside_images", lambda folder: open_data("."), _tables_beside, raises=InputError, match="Use CLASS/IMAGE"),
    Case("table_beside_a_loop_of_links", lambda folder: open_data("t.csv").name(0), _loop_of_links,
         expect=lambda name: name == "1.png", megabytes=50),
    Case("table_of_missing_files", lambda folder: len(open_data("t.csv")), _missing_files,
         expect=lambda count: count == 100_000, seconds=10),
    Case("train_on_a_pipe", lambda folder: hierax("finetune", "t.csv", "out"), lambda folder: os.mkfifo(folder / "t.csv"),
         expect=refused, seconds=15),
]  # fmt: skip
