"""Embedding under random faults: every input is accounted for, nothing hangs, and what was stopped goes on."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

import hierax
from hierax.errors import HieraxError

from ..members import write_png

pytest.importorskip("pyarrow")
LIMIT_S = 60.0  # for one run, on a machine that has others


def good(path: Path, rng: random.Random) -> None:
    """An image of a size and kind by chance."""
    from PIL import Image

    width, height = rng.choice([(1, 1), (3, 500), (64, 48), (700, 20), (200, 150)])
    mode = rng.choice(["RGB", "L", "RGBA", "P", "LA", "1", "CMYK", "I;16"])
    pixels = np.random.default_rng(rng.randrange(1000)).integers(0, 255, (height, width, 4), np.uint8)
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path, "PNG")
        return
    image = Image.fromarray(pixels[..., :3]).convert("RGB" if mode == "RGBA" else mode)
    image.save(path, "TIFF" if mode == "CMYK" else "PNG")


def truncated(path: Path, rng: random.Random) -> None:
    write_png(path, rng.randrange(100))
    os.truncate(path, rng.randrange(path.stat().st_size))


def flipped(path: Path, rng: random.Random) -> None:
    write_png(path, rng.randrange(100))
    data = bytearray(path.read_bytes())
    for _ in range(30):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def bomb(path: Path, rng: random.Random) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = rng.choice([65500, 30000])
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(99999)))
        + chunk(b"IEND", b"")
    )


def looped(path: Path, rng: random.Random) -> None:
    path.with_suffix("").symlink_to(path.parent)


# Rows 1 to 15 of what a folder may hold; each gives one row or none.
JUNK = {
    "empty": lambda path, rng: path.touch(),
    "html": lambda path, rng: path.write_text("<html>404</html>"),
    "noise": lambda path, rng: path.write_bytes(rng.randbytes(2000)),
    "truncated": truncated,
    "flipped": flipped,
    "bomb": bomb,
    "fifo": lambda path, rng: os.mkfifo(path),
    "dangling": lambda path, rng: path.symlink_to("nowhere"),
    "zero": lambda path, rng: path.symlink_to("/dev/zero"),
    "folder": lambda path, rng: path.mkdir(),
    "loop": looped,
    "hidden": lambda path, rng: write_png(path.with_name(f"._{path.name}")),
    "not utf-8": lambda path, rng: write_png(os.fsdecode(os.fsencode(path.with_suffix("")) + b"\xff\xe9.png")),
    "odd name": lambda path, rng: write_png(path.with_name(f'{path.stem}\n,"\N{GRINNING FACE}.PNG')),
    "upper case": lambda path, rng: write_png(path.with_suffix(".PNG")),
}


def hostile(folder: Path, rng: random.Random) -> None:
    """Twenty entries, some of them images."""
    folder.mkdir()
    for number in range(20):
        path = folder / f"{number:02d}.png"
        make = good if rng.random() < 0.6 else JUNK[rng.choice(sorted(JUNK))]
        make(path, rng)
    write_png(folder / "99.png")


def shard(path: Path, rng: random.Random) -> None:
    """A tar with what tars get wrong."""
    with tarfile.open(path, "w") as archive:
        for number in range(6):
            info = tarfile.TarInfo(rng.choice([f"{number}.png", "../x.png", "same.png", f"deep/{number}.a.png"]))
            image = io.BytesIO()
            good_bytes(image, number)
            info.size = len(image.getvalue())
            if rng.random() < 0.15:
                info.type, info.size = rng.choice([tarfile.FIFOTYPE, tarfile.SYMTYPE]), 0
            archive.addfile(info, io.BytesIO(image.getvalue()[: info.size]))
    if rng.random() < 0.5:
        os.truncate(path, rng.randrange(512, path.stat().st_size))


def good_bytes(file: io.BytesIO, seed: int) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 30, 3), np.uint8)).save(file, "PNG")


@pytest.fixture(scope="module")
def predictor():
    """The embedded model."""
    return hierax.load()


def ended(predictor, source, out, at: float, how: int, limit: float) -> None:
    """A run in a process that is killed, or loses a worker, after so many seconds."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setsid()
            hierax.embed(source, out, model=predictor, workers=2, rows_per_part=4, batch_size=4, progress=False)
            code = 0
        except (HieraxError, KeyboardInterrupt):
            code = 3
        finally:
            os._exit(code)
    time.sleep(at)
    if how == 0:  # a worker
        for pid in (
            Path(f"/proc/{child}/task/{child}/children").read_text().split() if os.path.exists(f"/proc/{child}") else ()
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    else:
        os.kill(child, how)
    end = time.monotonic() + limit
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError("it hangs")
        time.sleep(0.01)


def one_run(folder: Path, seed: int, predictor) -> None:
    """A hostile folder or tar, runs that are ended at random moments, then one to the end; all is accounted for."""
    rng = random.Random(seed)
    if rng.random() < 0.3:
        (folder / "tars").mkdir()
        for number in range(3):
            shard(folder / "tars" / f"{number}.tar", rng)
        source = folder / "tars"
    else:
        hostile(folder / "album", rng)
        source = folder / "album"
    whole = hierax.embed(source, folder / "whole", model=predictor, workers=0, progress=False)
    wanted = hierax.open_store(folder / "whole").to_arrow(["id", "path", "path_bytes", "error"])
    for _ in range(rng.randrange(3)):
        how = rng.choice([0, signal.SIGKILL, signal.SIGKILL, signal.SIGINT])
        ended(predictor, source, folder / "out", rng.random() * 0.6, how, LIMIT_S)
    done = hierax.embed(source, folder / "out", model=predictor, workers=2, rows_per_part=4, progress=False)
    store = hierax.open_store(folder / "out")
    found = store.to_arrow(["id", "path", "path_bytes", "error"])
    assert found["id"].to_pylist() == list(range(whole.rows + whole.errors))
    assert found.select(["id", "path", "path_bytes"]).equals(wanted.select(["id", "path", "path_bytes"]))
    for ours, theirs in zip(found["error"].to_pylist(), wanted["error"].to_pylist(), strict=True):
        assert (ours is None) == (theirs is None) or "SIGKILL" in (ours or "")
    assert done.rows + done.errors == len(store) == len(found)
    assert np.isfinite(store.vectors()).all()
    assert not [name for name in os.listdir(folder / "out") if name.startswith(".")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
@pytest.mark.parametrize("seed", range(20))
def test_random_faults(tmp_path, predictor, seed):
    """A hang, a traceback, a row that is lost or there twice."""
    one_run(tmp_path, seed, predictor)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_random_faults__many(tmp_path, predictor, seed):
    """As above, two hundred times."""
    one_run(tmp_path, seed, predictor)
