"""Commands that measure a model, and the rendered set to measure the embedded one on: eval accuracy, render."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from .. import console
from .common import BatchSize, Device, Dtype, Engine, Fast, InputSize, MaxPixels, Model, exit_code, load


def accuracy(
    data: Positional[str],
    model: Model = None,
    protocol: Literal["checkpoint", "birder", "timm", "meta"] = "checkpoint",
    split: str = "validation",
    frame_stride: int | None = None,
    batch_size: BatchSize = 32,
    device: Device = "cpu",
    dtype: Dtype = None,
    fast: Fast = False,
    engine: Engine = "auto",
    input_size: InputSize = None,
    max_pixels: MaxPixels = None,
    format: Literal["text", "json"] = "text",
) -> int:
    """Measure top-1 and top-5 accuracy on labelled images, with exact counts.

    Args:
        data: As for finetune.
        protocol: Preprocess as the checkpoint says, or as birder, timm or Meta evaluate.
        split: Which split, where the data has splits; "all" takes every sub-folder for a class.
        frame_stride: For clips, source frames from one frame to the next; the checkpoint's without it.
        format: How to print.
    """
    from ..evaluate.accuracy import accuracy as measured

    options = {"protocol": protocol, "split": split, "frame_stride": frame_stride, "batch_size": batch_size}
    loading = {"device": device, "dtype": dtype, "fast": fast, "engine": engine, "input_size": input_size}
    result = measured(data, load(model, max_pixels=max_pixels, **loading), **options)
    numbers = {name: value if value == value else None for name, value in result.to_dict().items()}  # NaN is no JSON
    console.emit(json.dumps(numbers) if format == "json" else str(result))
    console.name_problems(result.unreadable)
    return exit_code(result.total + len(result.unreadable), len(result.unreadable))


def render(
    destination: Positional[Path],
    count: int = 1600,
    seed: int = 1,
    size: int = 96,
    format: Literal["jpg", "png"] = "jpg",
) -> None:
    """Write a labelled set of rendered shapes and textures, one folder per class.

    Args:
        destination: Folder to write; must be new or empty.
        count: Images in all.
        seed: Another seed gives other images; the embedded model was trained on seed 0.
        size: Side in pixels.
        format: File type.
    """
    from ..data.datasets.shapes import render_folder

    console.emit(str(render_folder(destination, count=count, seed=seed, size=size, image_format=format)))
