"""safetensors files: headers changed as JSON, with the length before them right again."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import torch
from safetensors.torch import save

import hierax

from ....members import MEMBERS, written
from ..mutate import any_bytes, json_tree, one_of
from ..target import Target


def act(folder: Path, data: bytes) -> None:
    """Load it as a person would."""
    path = folder / "x.safetensors"
    path.write_bytes(data)
    hierax.load(path)


def seeds(folder: Path) -> list[bytes]:
    """A whole checkpoint, a timm one, and a few small tensors."""
    whole = [
        written(MEMBERS[name], folder / f"{to}.safetensors", to)
        for name, to in (("Hiera", "meta"), ("timm abswin", "timm"))
    ]
    small = {
        "a": torch.ones(2, 3),
        "b": torch.ones(4, dtype=torch.float16),
        "c": torch.tensor([1, 2]),
        "d": torch.zeros(0),
    }
    return [*(path.read_bytes() for path in whole), save(small, metadata={"format": "pt", "hierax_version": "0"})]


def header(data: bytes, rng: random.Random) -> bytes:
    """The header changed, its length right, or wrong on purpose."""
    (length,) = struct.unpack("<Q", data[:8])
    text = (json_tree if rng.random() < 0.8 else any_bytes)(data[8 : 8 + length], rng)
    told = len(text) if rng.random() < 0.9 else rng.choice((0, 1, len(text) - 1, len(data), 100_000_000, 2**63))
    return struct.pack("<Q", told) + text + data[8 + length :]


def metadata(data: bytes, rng: random.Random) -> bytes:
    """Metadata that says something about the network."""
    (length,) = struct.unpack("<Q", data[:8])
    keys = (
        "format",
        "hierax_version",
        "net_tag",
        "task",
        "signature",
        "rgb_stats",
        "class_to_idx",
        "config",
        "modelspec",
    )
    values = (
        "",
        "pt",
        "null",
        "[]",
        "{}",
        "[1, 2]",
        '{"a": ' * 900 + "1" + "}" * 900,
        "9" * 5000,
        '{"inputs": [{"data_shape": [0, 3, 1, 1]}]}',
        "NaN",
    )
    told = ", ".join(f'"{rng.choice(keys)}": {_quoted(rng.choice(values))}' for _ in range(rng.randrange(1, 5)))
    text = b'{"__metadata__": {' + told.encode() + b"}, " + data[9 : 8 + length].lstrip()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


TARGET = Target("safetensors", act, seeds, one_of(any_bytes, header, header, header, metadata))
