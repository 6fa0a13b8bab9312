"""Masks, files of classes and heads that took memory, were read as something else, or named a model to fetch."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hierax.errors import CheckpointError, InputError

from .case import Case, hierax, refused


def _png(width: int, height: int, depth: int, kind: int, data: bytes = b"", palette: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    colors = chunk(b"PLTE", palette) if palette else b""
    return b"\x89PNG\r\n\x1a\n" + head + colors + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def _rows(width: int, height: int, value: bytes) -> bytes:
    return (b"\0" + value * width) * height


def _labels(mask: bytes, classes: str | None = None) -> Callable[[Path], None]:
    """One image of 16 x 16 pixels, and its mask."""

    def make(folder: Path) -> None:
        for name in ("images", "masks"):
            (folder / name).mkdir()
        (folder / "images" / "a.png").write_bytes(_png(16, 16, 8, 2, _rows(16, 16, b"\x80\x20\x20")))
        (folder / "masks" / "a.png").write_bytes(mask)
        if classes is not None:
            (folder / "classes.csv").write_text(classes)

    return make


def _train(folder: Path) -> Any:
    from hierax.segment import train

    return train(folder, kind="knn")


def _head(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[[Path], None]:
    """A head for the embedded model's first stage whose description or tensors are not what they should be."""

    def make(folder: Path) -> None:
        import torch

        from hierax.weights.safetensors_files import save_safetensors

        about: dict[str, Any] = {
            "kind": "linear", "model": "hiera_nano_96", "sha256": "0" * 64, "parameters": "0" * 64,
            "stages": ["stage1"], "channels": [32], "size": 96, "tile": 192, "input_size": [96, 96],
            "classes": [{"name": name, "color": [0, 0, 0], "index": index} for index, name in enumerate("ab")],
        }  # fmt: skip
        tensors: dict[str, Any] = {"weights.stage1": torch.ones(2, 32), "bias": torch.ones(2)}
        change(about, tensors)
        text = {"format": "hierax.segment.head", "version": "1", "head": json.dumps(about)}
        save_safetensors(folder / "h.safetensors", tensors, text)
        (folder / "a.png").write_bytes(_png(16, 16, 8, 2, _rows(16, 16, b"\x80\x20\x20")))

    return make


def _pipe(folder: Path) -> None:
    _labels(GREY)(folder)
    (folder / "masks" / "a.png").unlink()
    os.mkfifo(folder / "masks" / "a.png")


def _load(folder: Path) -> Any:
    from hierax.segment import load_head

    return load_head(folder / "h.safetensors")


def _predict(folder: Path) -> Any:
    return hierax("segment", "predict", "h.safetensors", "a.png", "-o", "masks")


def _bad_label(about: dict[str, Any], tensors: dict[str, Any]) -> None:
    import torch

    about["kind"] = "knn"
    tensors |= {"weights.stage1": torch.ones(4, 32), "bias": torch.ones(4), "support": torch.ones(3, 4).half()}
    tensors["support_labels"] = torch.tensor([0, 1, 200], dtype=torch.uint8)


def _infinite(about: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["bias"] = tensors["bias"] / 0


def _text(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


GREY = _png(16, 16, 8, 0, _rows(16, 16, b"\x01"))
CASES = [
    Case("mask_of_a_gigapixel", _train, _labels(_png(65000, 65000, 8, 0)), raises=InputError, match="at most", megabytes=150),
    Case("mask_of_16_bits", _train, _labels(_png(16, 16, 16, 0, _rows(16, 16, b"\0\1"))), raises=InputError, match="8 bits or fewer"),
    Case("mask_of_16_bits_in_colour", _train, _labels(_png(16, 16, 16, 2, _rows(16, 16, b"\0\1" * 3))), raises=InputError, match="8 bits or fewer"),
    Case("mask_cut_short", _train, _labels(GREY[:-30]), raises=InputError, match="decode"),
    Case("mask_beyond_its_palette", _train, _labels(_png(16, 16, 8, 3, _rows(16, 16, b"\x09"), b"\1\2\3" * 4)), raises=InputError, match="palette"),
    Case("mask_of_noise", _train, _labels(_png(16, 16, 8, 2, b"".join(b"\0" + bytes(range(8 * i, 8 * i + 48)) for i in range(16)))),
         raises=InputError, match="shades"),
    Case("mask_of_another_size", _train, _labels(_png(8, 16, 8, 0, _rows(8, 16, b"\1"))), raises=InputError, match="8 x 16 and .* 16 x 16"),
    Case("mask_is_a_pipe", lambda folder: hierax("segment", "train", ".", "-o", "h.safetensors", "--kind", "knn"),
         _pipe,
         expect=refused, seconds=10),
    Case("classes_twice", _train, _labels(GREY, "index,name\n1,a\n1,b\n"), raises=InputError, match="one class"),
    Case("classes_of_huge_numbers", _train, _labels(GREY, "index,name\n" + "9" * 5000 + ",a\n"), raises=InputError, match="0 to 255"),
    Case("classes_without_end", _train, _labels(GREY, "index,name\n" + "1,a\n" * 400_000), raises=InputError, match="at most"),
    Case("head_of_text", _load, _text("h.safetensors", b"no head at all"), raises=CheckpointError, match="segment train"),
    Case("head_of_another_kind", _load, _head(lambda about, tensors: about.clear()), raises=CheckpointError, match="description"),
    Case("head_of_10_megabytes", _load, _text("h.safetensors", bytes(10_000_000)), raises=CheckpointError, match="below 1 MB", megabytes=20),
    Case("head_of_infinite_numbers", _load, _head(_infinite), raises=CheckpointError, match="finite"),
    Case("head_of_other_widths", _load, _head(lambda about, tensors: about.update(channels=[64])), raises=CheckpointError, match="stage1"),
    Case("head_of_a_class_that_is_not", _load, _head(_bad_label), raises=CheckpointError, match="of its classes"),
    Case("head_of_a_huge_tile", _load, _head(lambda about, tensors: about.update(tile=1 << 40)), raises=CheckpointError, match="tile"),
    Case("head_of_an_odd_tile", _predict, _head(lambda about, tensors: about.update(tile=65)), expect=refused, seconds=10),
    Case("head_that_names_an_address", _predict, _head(lambda about, tensors: about.update(model="http://localhost/x")),
         expect=lambda ran: refused(ran) and "no name of the catalogue" in ran.err, seconds=10),
    Case("head_of_another_model", _predict, _head(lambda about, tensors: None),
         expect=lambda ran: refused(ran) and "other weights" in ran.err, seconds=10),
]  # fmt: skip
