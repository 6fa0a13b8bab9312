"""Runs of `embed` over folders of good, broken and hostile files, each accounted for exactly.

    python -m tests.faults.soak FOLDER SEED...

A run is made from its seed: which files, which output, which options. `test_soak.py` runs hundreds.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from hierax.cli import main

from ..members import encoded, noise, picture, save_learner
from .fuzz.targets import find_target

GOOD: dict[str, Callable[[int], bytes]] = {
    "jpg": lambda seed: encoded(picture((70, 50), seed), "JPEG"),
    "PNG": lambda seed: encoded(picture((40, 90), seed), "PNG"),
    "webp": lambda seed: encoded(picture(seed=seed), "WEBP"),
    "bmp": lambda seed: encoded(picture(seed=seed), "BMP"),
    "gif": lambda seed: encoded(picture(seed=seed), "GIF", save_all=True, append_images=[picture(seed=seed + 1)]),
    "TIFF": lambda seed: encoded(Image.fromarray(noise(9, 9, seed)[..., 0].astype(np.uint16) * 256), "TIFF"),
    "ppm": lambda seed: encoded(Image.fromarray(noise(1, 1, seed)), "PPM"),
    "jpeg": lambda seed: encoded(picture((3, 500), seed).convert("CMYK"), "JPEG"),
}


def _png(width: int, height: int) -> bytes:
    """A header that lies about its size, before hardly any pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (head, body, b"IEND")
    packed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


BROKEN: dict[str, Callable[[random.Random], bytes]] = {
    "empty": lambda rng: b"",
    "page": lambda rng: b"<!doctype html><title>Sign in</title>",
    "noise": lambda rng: rng.randbytes(rng.randrange(1, 5000)),
    "cut": lambda rng: GOOD["jpg"](1)[: rng.randrange(2, 900)],
    "lies": lambda rng: _png(65500, 65500),
    "short": lambda rng: _png(60000, 1000),
    "line": lambda rng: _png(1, 0),
}
NAMES = (
    "a b",
    "a,b",
    "=1+1",
    "a\nb",
    'q"q',
    "\x1b[31mred",
    "-o",
    "\u00e9" * 40,
    "\U0001f4a5",
    "{0..3}",
    "x" * 240,
    "[a]",
    "*",
    "~",
)


def one(folder: Path, seed: int, model: Path) -> dict[str, int]:
    """One run; how many of its files became vectors, errors, or either.

    Raises:
        AssertionError: Something was lost, counted twice, raised, or left behind.
    """
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    images = folder / "images"
    (images / "deep" / "__MACOSX").mkdir(parents=True)
    must = _files(images, rng)
    out = folder / f"out.{rng.choice(('npz', 'parquet'))}"
    options = ["--batch-size", str(rng.choice((1, 2, 7, 32))), *rng.choice(([], ["--normalize"], ["--fast"]))]
    inputs, stdin = [str(images)], b""
    if rng.random() < 0.3:
        inputs, stdin = ["-"], b"".join(os.fsencode(path) + b"\n" for path in must if b"\n" not in os.fsencode(path))
        must = {path: fate for path, fate in must.items() if b"\n" not in os.fsencode(path)}
    changing = threading.Thread(target=_change, args=(images, rng.random()))
    changing.start()
    code, said = _run(["embed", *inputs, "-o", str(out), "-m", str(model), *options], stdin)
    changing.join()
    assert "Traceback" not in said, said
    assert "internal error" not in said, said
    rows = _rows(out)
    names = {os.fsencode(path).decode("utf-8", "backslashreplace"): fate for path, fate in must.items()}
    assert len(rows) == len(must), f"seed {seed}: {len(must)} files became {len(rows)} rows"
    assert {name for name, _, _ in rows} == set(names), f"seed {seed}: other files than were there"
    counts = dict.fromkeys(("vectors", "errors", "either"), 0)
    for name, finite, error in rows:
        assert finite == (not error), (
            f"seed {seed}: {name!r} has {'a' if finite else 'no'} vector and the error {error!r}"
        )
        assert names[name] in (finite, None), f"seed {seed}: {name!r} came out as {error or 'a vector'}"
        counts["either" if names[name] is None else "vectors" if finite else "errors"] += 1
    assert code == (3 if any(error for *_, error in rows) else 0), f"seed {seed}: exit code {code}: {said}"
    left = [path.name for path in folder.iterdir() if path not in (images, out) and "lock" not in path.name]
    assert not left, f"seed {seed}: left behind {left}"
    return counts


def _files(images: Path, rng: random.Random) -> dict[Path, bool | None]:
    """Write the files of a run; whether each must become a vector, None where it may be either."""
    must: dict[Path, bool | None] = {}
    fuzz = find_target("images")
    for number in range(rng.randrange(3, 25)):
        home = images / rng.choice((".", "deep"))
        stem = f"{number}{rng.choice(NAMES) if rng.random() < 0.4 else ''}"
        ending = rng.choice(list(GOOD))
        path, kind = home / f"{stem}.{ending}", rng.random()
        if kind < 0.5:
            path.write_bytes(GOOD[ending](rng.randrange(100)))
            must[path] = True
        elif kind < 0.7:
            path.write_bytes(BROKEN[rng.choice(list(BROKEN))](rng))
            must[path] = False
        elif kind < 0.8:
            path.write_bytes(fuzz.mutate(GOOD[ending](1), rng))
            must[path] = None
        else:
            must |= _oddity(path, rng)
    sure = images / "sure.png"  # at least one, or there is nothing to do
    sure.write_bytes(GOOD["PNG"](0))
    (images / "deep" / "__MACOSX" / "._a.jpg").write_bytes(b"fork")
    (images / ".hidden.png").write_bytes(b"")
    (images / "notes.txt").write_bytes(b"no image")
    return {**must, sure: True}


def _oddity(path: Path, rng: random.Random) -> dict[Path, bool | None]:
    """What is no ordinary file."""
    kind = rng.randrange(6)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to("/nowhere.png")
    elif kind == 2:
        path.symlink_to("/dev/zero")
    elif kind == 3:
        path.symlink_to(path.name)  # itself
    elif kind == 4:
        path = path.with_name(os.fsdecode(os.fsencode(path.stem[:20]) + b"\xff\xfe.png"))
        path.write_bytes(GOOD["PNG"](2))
        return {path: True}
    else:
        path = path.with_name(f"goes-{path.name[:200]}")  # while the run goes on
        path.write_bytes(GOOD["PNG"](3))
        return {path: None}
    return {path: False}


def _change(images: Path, chance: float) -> None:
    """Cut, empty and replace files while they are read."""
    for path in images.rglob("goes-*"):
        with contextlib.suppress(OSError):
            if chance < 0.5:
                os.truncate(path, int(chance * 100))
            else:
                path.write_bytes(b"<html>")


def _run(arguments: list[str], stdin: bytes) -> tuple[int, str]:
    """Exit code and what was said on stderr."""
    kept, err = sys.stdin, io.StringIO()
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            return main(arguments), err.getvalue()
    finally:
        sys.stdin = kept


def _rows(out: Path) -> list[tuple[str, bool, str]]:
    """Name, whether there is a finite vector, and the error of each row."""
    if out.suffix == ".npz":
        with np.load(out) as data:
            finite = np.isfinite(data["embedding"]).all(1)
            return [(str(n), bool(f), str(e)) for n, f, e in zip(data["path"], finite, data["error"], strict=True)]
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(out).to_pylist()
    return [
        (r["path"], r["embedding"] is not None and bool(np.isfinite(r["embedding"]).all()), r["error"] or "")
        for r in table
    ]


if __name__ == "__main__":
    place = Path(sys.argv[1])
    network = save_learner(place / "model")
    for number in map(int, sys.argv[2:]):
        print(json.dumps({"seed": number, **one(place / "run", number, network)}), flush=True)
