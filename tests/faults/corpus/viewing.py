"""A basis that is none, lies about its size, or blocks; a page that would take the place of an image."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

from ...members import write_png
from .case import Case, hierax, refused

NAME = "basis.safetensors"


def spoiled(name: str, spoil: Callable[[Path], object]) -> Case:
    """A file that is given as a basis: refused in a moment, whatever it is, and left as it is."""

    def make(folder: Path) -> None:
        write_png(folder / "a.png")
        spoil(folder / NAME)

    def act(folder: Path) -> bool:
        before = os.lstat(folder / NAME)
        first = hierax("view", "a.png", "-o", "out.html", "--basis", NAME)
        second = hierax("features", "a.png", "-o", "out.npz", "--plot", "out.png", "--basis", NAME)
        after = os.lstat(folder / NAME)
        left = sorted(os.listdir(folder)) == ["a.png", NAME]
        same = (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)
        return refused(first) and refused(second) and left and same

    return Case(f"a basis that is {name}", make=make, act=act, expect=bool)


def header(path: Path, table: dict, tail: bytes = b"") -> None:
    """A safetensors file with this header."""
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tail)


def sparse(path: Path) -> None:
    """Gigabytes that take no room, behind metadata that are right."""
    about = {"format": "hierax basis", "format_version": "1", "sha256": "0" * 64}
    header(
        path, {"__metadata__": about, "stage1.mean": {"dtype": "U8", "shape": [1 << 33], "data_offsets": [0, 1 << 33]}}
    )
    os.truncate(path, path.stat().st_size + (1 << 33))


def claims(path: Path) -> None:
    """A shape beyond any memory over eight bytes."""
    header(
        path, {"stage1.mean": {"dtype": "F64", "shape": [1 << 50], "data_offsets": [0, 8]}}, b"12345678"
    )  # fmt: skip


def itself(folder: Path) -> None:
    """A picture under the name of a page."""
    write_png(folder / "a.html")


def onto_itself(folder: Path) -> bool:
    """--overwrite is for pages: an image that is an input is none."""
    before = (folder / "a.html").read_bytes()
    return (
        refused(hierax("view", "a.html", "-o", "a.html", "--overwrite")) and (folder / "a.html").read_bytes() == before
    )


CASES = [
    spoiled("a pipe", os.mkfifo),
    spoiled("an endless device", lambda path: path.symlink_to("/dev/zero")),
    spoiled("a link to itself", lambda path: path.symlink_to(NAME)),
    spoiled("a dangling link", lambda path: path.symlink_to("nowhere/at.all")),
    spoiled("a folder", os.mkdir),
    spoiled("sparse gigabytes", sparse),
    spoiled("a claim of terabytes", claims),
    spoiled("deep JSON", lambda path: path.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000)),
    spoiled("a picture", write_png),
    Case("a page onto its own image", make=itself, act=onto_itself, expect=bool),
]
