"""What is on a viewer's page: pictures, packed maps and facts of each stage, as plain JSON-able data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from ...config import STAGE_NAMES, ModelConfig, block_table
from ..figures import thumbnail
from ..maps import Basis, colour_maps
from .cells import deflated, pack

BYTES_PER_IMAGE = 4_700_000  # of a page, where nobody has said which stages are to be on it: two stay below 10 MB
_PICTURE_QUALITY = 88


@dataclass(frozen=True)
class Shown:
    """One image of a page.

    Attributes:
        name: What stands under it.
        seen: What the network saw of it.
        maps: Its map of each stage.
    """

    name: str
    seen: UInt8[ndarray, "h w 3"]
    maps: Mapping[str, Float[ndarray, "c rows columns"]]


def view_data(
    shown: Sequence[Shown],
    config: ModelConfig,
    bases: Mapping[str, Basis],
    *,
    about: Mapping[str, str],
    colours_from: str,
    missing: Sequence[tuple[str, str]] = (),
    most_bytes: int | None = None,
) -> dict[str, Any]:
    """All that a page shows.

    Args:
        shown: The images, all of one size.
        config: The network.
        bases: For each stage, what gives it colours.
        about: Facts of the model in words, such as its name and licence.
        colours_from: Where the bases come from.
        missing: Name and reason of each image that could not be read.
        most_bytes: Of pictures and maps: the finest stages beyond it are left out, but never all.
    """
    pictures = [thumbnail(image.seen, max(image.seen.shape), quality=_PICTURE_QUALITY) for image in shown]
    stages, left_out, size = list[dict[str, Any]](), list[str](), sum(map(len, pictures))
    for stage in sorted(bases, key=STAGE_NAMES.index, reverse=True):
        maps = np.stack([image.maps[stage] for image in shown])
        found = {} if left_out else _stage(stage, maps, config, bases[stage])
        size += sum(len(text) for key in ("numbers", "norms", "colours") for text in found.get(key, ()))
        if left_out or (stages and most_bytes is not None and size > most_bytes):
            left_out.insert(0, stage)
        else:
            stages.insert(0, found)
    images = [
        {"name": image.name, "height": image.seen.shape[0], "width": image.seen.shape[1], "picture": picture}
        for image, picture in zip(shown, pictures, strict=True)
    ]
    return {
        "about": dict(about),
        "images": images,
        "missing": [{"name": name, "reason": reason} for name, reason in missing],
        "stages": stages,
        "left_out": left_out,
        "colours_from": colours_from,
    }


def _stage(stage: str, maps: Float[ndarray, "n c h w"], config: ModelConfig, basis: Basis) -> dict[str, Any]:
    packed = pack(maps)
    index = STAGE_NAMES.index(stage)
    stride, window = config.strides[index], config.resolved_windows[index]
    unit = [max(1, side * patch // stride) for side, patch in
            zip(config.mask_unit[-2:], config.patch_stride[-2:], strict=True)]  # fmt: skip
    return {
        "name": stage,
        "channels": maps.shape[1],
        "rows": maps.shape[2],
        "columns": maps.shape[3],
        "stride": stride,
        "window": None if window is None else list(window[-2:]),
        "unit": unit,
        "attention": attention(config, index),
        "planes": packed.planes,
        "numbers": packed.numbers,
        "norms": packed.norms,
        "norm_range": packed.norm_range,
        "worst": packed.worst,
        "mean": packed.mean,
        "colours": [deflated(image.tobytes()) for image in colour_maps(stage, maps, basis)],
        "explained": [round(float(share), 4) for share in basis.explained],
    }


def attention(config: ModelConfig, stage: int) -> str:
    """Where the blocks of a stage (counted from 0) look, in words."""
    reach = Counter[str]()
    for block in block_table(config):
        if block.stage != stage + 1:
            continue
        # The first block of a stage has its window in cells of the stage before, whose queries it pools.
        stride = config.strides[stage - 1 if stage and block.q_stride else stage]
        sides = None if block.window is None else [side * stride for side in block.window[-2:]]
        reach["the whole image" if sides is None else f"windows of {sides[0]} x {sides[1]} px"] += 1
    total = sum(reach.values())
    told = ", ".join(f"{count} in {where}" for where, count in reach.items())
    return f"{total} {'block' if total == 1 else 'blocks'}: {told}"


def map_bytes(config: ModelConfig, size: tuple[int, int], stages: Sequence[str]) -> int:
    """Bytes of one image's maps at one byte a number, for a network input of (height, width)."""
    found = 0
    for stage in stages:
        index = STAGE_NAMES.index(stage)
        found += config.channels[index] * math.prod(side // config.strides[index] for side in size)
    return found
