"""Containers that say more than they hold: files with holes, records that overlap, SAM 2 files, files that change."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import hierax
from hierax.config import ARCHITECTURES
from hierax.errors import CheckpointError, HieraxError
from hierax.weights import files
from hierax.weights.formats import sam2

from ...members import MEMBERS, written
from .case import Case
from .torch_archives import changed
from .torch_files import refused

TRUNK = "image_encoder.trunk."
JUST_BELOW = (16 << 30) - 4096


def _sparse(folder: Path) -> None:
    """A kilobyte on the disk that says 16 GB of weights."""
    count = (JUST_BELOW - 4096) // 4
    text = json.dumps({"x": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode().ljust(4088)
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(folder / "x.safetensors", 4096 + 4 * count)


def _entry(data: bytearray, directory: int, number: int) -> int:
    """Where an entry of the directory begins."""
    at = directory
    for _ in range(number):
        at = data.index(b"PK\x01\x02", at + 1)
    return at


def _same_place(data: bytearray, directory: int) -> None:
    """Two entries of the directory lead to one local header."""
    first, second = (_entry(data, directory, number) for number in (1, 2))
    data[second + 42 : second + 46] = data[first + 42 : first + 46]


def _inside(data: bytearray, directory: int) -> None:
    """A local header lies inside the bytes of the record before it, as in a bomb of overlapping files."""
    second = _entry(data, directory, 2)
    (at,) = struct.unpack_from("<I", data, second + 42)
    struct.pack_into("<I", data, second + 42, at - 64)


def _longer(data: bytearray, directory: int) -> None:
    """A record reaches over the header of the next one."""
    first = _entry(data, directory, 1)
    for place in (first + 20, first + 24):
        struct.pack_into("<I", data, place, struct.unpack_from("<I", data, place)[0] + 300)


def _public_toy() -> None:
    """Make the tiny trunk one of the public ones, in this process alone."""
    ARCHITECTURES["sam2_hiera_toy"] = dataclasses.replace(MEMBERS["SAM 2 trunk"], name="sam2_hiera_toy")
    sam2.NAMES = ("sam2_hiera_toy",)


def _whole_sam2(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Writes other weights of that trunk, and a whole SAM 2 file, changed."""

    def make(folder: Path) -> None:
        _public_toy()
        written(ARCHITECTURES["sam2_hiera_toy"], folder / "trained", "hierax")
        model = files.read(written(ARCHITECTURES["sam2_hiera_toy"], folder / "x.pt", "sam2")).tensors
        torch.save(change({**model, "sam_mask_decoder.x": torch.ones(3)}), folder / "x.pt")

    return make


def _graft(folder: Path) -> None:
    _public_toy()
    before = (folder / "x.pt").read_bytes()
    try:
        hierax.convert(folder / "trained", folder / "x.pt", to="sam2")
    except HieraxError:
        if (folder / "x.pt").read_bytes() != before or (folder / "x.pt.bak").exists():
            raise AssertionError("a refusal changed the file") from None
        raise


def _grafted(folder: Path) -> bool:
    """Whether the file holds the trunk, and the rest, after the exchange."""
    _graft(folder)
    return {f"{TRUNK}pos_embed", "sam_mask_decoder.x"} <= files.read(folder / "x.pt").tensors.keys()


def _changing(*names: str) -> Callable[[Path], object]:
    """Load a path again and again while another thread exchanges, cuts and overwrites what is there.

    Nothing but our errors may come of it; a process that had mapped the file would die.
    """

    def act(folder: Path) -> object:
        place, contents = folder / names[0], [(folder / name).read_bytes() for name in names]
        done, wrong = threading.Event(), list[BaseException]()

        def change() -> None:
            turn = 0
            while not done.is_set():
                turn += 1
                content = contents[turn // 4 % len(contents)]
                with contextlib.suppress(OSError):
                    if turn % 4 == 0:
                        place.write_bytes(content)
                    elif turn % 4 == 1:
                        with place.open("r+b") as stream:
                            stream.seek(turn % len(content))
                            stream.write(b"\xff" * 5000)
                    elif turn % 4 == 2:
                        os.truncate(place, turn * 7919 % len(content))
                    else:
                        (folder / "next").write_bytes(content)
                        os.replace(folder / "next", place)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            for _ in range(60):
                try:
                    hierax.load(place)
                except HieraxError:
                    pass
                except BaseException as error:
                    wrong.append(error)
                    raise
        finally:
            done.set()
            thread.join()
        return len(wrong)

    return act


def _two_kinds(folder: Path) -> None:
    hierax.load().save(folder / "a.pth", format="meta")
    hierax.load().save(folder / "b.safetensors", format="timm")
    shutil.copy(folder / "a.pth", folder / "x.pth")


def _without_axes(model: dict[str, Any]) -> dict[str, Any]:
    return {"model": {**model, f"{TRUNK}blocks.0.norm2.weight": torch.tensor(1.0)}}


CASES = [
    Case("hole_of_16_gigabytes", lambda folder: hierax.load(folder / "x.safetensors"), _sparse, raises=CheckpointError,
         match="on the disk", megabytes=50),
    refused("records_in_one_place", changed(_same_place), "overlap"),
    refused("record_inside_another", changed(_inside), "overlap"),
    refused("record_over_the_next", changed(_longer), "without its checksum"),
    Case("graft_onto_tensors_without_axes", _graft, _whole_sam2(_without_axes), raises=CheckpointError, match="fewer axes"),
    Case("graft_onto_nan", _grafted, expect=bool,
         make=_whole_sam2(lambda model: {"model": {**model, f"{TRUNK}pos_embed": model[f"{TRUNK}pos_embed"] * torch.nan}})),
    # What lay under "model" beside the weights was written over the trunk.
    Case("graft_beside_another_model", _grafted, expect=bool,
         make=_whole_sam2(lambda model: {"state_dict": model, "model": {"x": 1}})),
    Case("changed_while_read", _changing("x.pth", "a.pth", "b.safetensors"), _two_kinds, expect=lambda wrong: wrong == 0,
         seconds=30),
]  # fmt: skip
