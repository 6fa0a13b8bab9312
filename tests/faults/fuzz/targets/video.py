"""Clips, through PyAV (extra `video`)."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np

from hierax.data.video import read_clip

from ....members import encoded, noise, picture, write_clip
from ..mutate import any_bytes, one_of, put_number
from ..target import Target, Wrong


def act(folder: Path, data: bytes) -> None:
    """Read two views of four frames."""
    path = folder / "x.mp4"
    path.write_bytes(data)
    clip = read_clip(path, frames=4, stride=1, size=32, views=2)
    if clip.dtype != np.uint8 or clip.ndim != 5 or clip.shape[:2] != (2, 4) or clip.shape[4] != 3:
        raise Wrong(f"read {clip.dtype} {clip.shape}")


def seeds(folder: Path) -> list[bytes]:
    """Eight small frames in several containers and codecs, and one whose size changes on the way."""
    frames = np.stack([noise(32, 48, seed) for seed in range(8)])
    kinds = (
        ("a.mp4", "mpeg4"),
        ("a.avi", "mpeg4"),
        ("a.mkv", "mpeg4"),
        ("a.mpg", "mpeg1video"),
        ("a.ts", "mpeg2video"),
    )
    made = [write_clip(folder / name, frames, codec, gop=4).read_bytes() for name, codec in kinds]
    small, large = (
        write_clip(folder / f"{n}.mpg", frames[:, :n, :n], "mpeg1video", gop=4).read_bytes() for n in (16, 32)
    )
    gif = encoded(picture((48, 32)), "GIF", save_all=True, append_images=[picture((48, 32), seed) for seed in range(4)])
    return [*made, small + large, gif]


def boxes(data: bytes, rng: random.Random) -> bytes:
    """Another number close behind the name of a box or element."""
    places = [match.start() for match in re.finditer(rb"[a-z]{3}[a-z0-9 ]|\x1a\x45\xdf\xa3|\0\0\1", data)]
    found = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        put_number(found, max(0, rng.choice(places) + rng.randrange(-4, 40)), rng)
    return bytes(found)


TARGET = Target("video", act, seeds, one_of(any_bytes, boxes, boxes))
