"""Commands that measure frozen maps, pixel by pixel: eval segmentation, eval propagation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from .common import Device, Dtype, MaxPixels
from .evaluation import Format, Models, Overwrite, Plot, check_sources, loaded, told, told_apart
from .segment import ClassFile, Size, Tile, Unlabelled, size_of, stages_of

if TYPE_CHECKING:
    from ..evaluate.result import Scores

Masked = Annotated[
    Positional[str | None],
    arg(metavar="DATA", help_behavior_hint="(required)", help="Folder of images and masks, or ADE20k's."),
]
Clips = Annotated[
    Positional[str | None],
    arg(metavar="DATA", help_behavior_hint="(required)", help="Folder in the layout of DAVIS."),
]


def segmentation(
    data: Masked = None,
    model: Models = (),
    classes: ClassFile = None,
    unlabelled: Unlabelled = None,
    reduce_zero_label: bool | None = None,
    stages: str | None = None,
    size: Size = None,
    tile: Tile = None,
    cells: int = 50_000,
    seed: int = 0,
    baselines: Literal["none", "colours", "all"] = "colours",
    device: Device = "cpu",
    dtype: Dtype = None,
    max_pixels: MaxPixels = None,
    plot: Plot = None,
    overwrite: Overwrite = False,
    format: Format = "table",
) -> int:
    """Measure maps by a linear probe of pixels (extra "eval"): mean intersection over union on images left apart.

    Args:
        reduce_zero_label: Let the number 0 mean no class; in ADE20k's layout it does without this.
        stages: Which maps, with commas between; all without it.
        cells: That are learned from, drawn at random from all training images.
        seed: Of that, and of the fifth that is judged where there are no splits.
        baselines: Rows to compare with: colours of cells; all: also each network with random weights.
    """
    from ..evaluate import segmentation as judged

    asked: dict[str, Any] = {"classes": classes, "unlabelled": unlabelled, "reduce_zero_label": reduce_zero_label}
    asked |= {"stages": stages_of(stages), "size": size_of(size), "tile": tile, "cells": cells, "seed": seed}
    loading = {"device": device, "dtype": dtype, "max_pixels": max_pixels}
    judge = _judge(judged, data, model, loading, baselines=baselines, **asked)
    return told(judge, format, plot, overwrite=overwrite)


def propagation(
    data: Clips = None,
    model: Models = (),
    split: str = "val",
    stages: str | None = None,
    size: Size = None,
    tile: Tile = None,
    frames: int = 7,
    radius: int = 12,
    top_k: int = 5,
    temperature: float = 0.1,
    baselines: Literal["none", "still", "all"] = "still",
    device: Device = "cpu",
    dtype: Dtype = None,
    max_pixels: MaxPixels = None,
    plot: Plot = None,
    overwrite: Overwrite = False,
    format: Format = "table",
) -> int:
    """Measure maps by labels that follow them through clips: J and F of DAVIS 2017.

    Args:
        split: Which list of ImageSets; all clips where there is no such folder.
        stages: Whose maps are compared, with commas between; stage2,stage3 without it.
        size: Shorter side in pixels at which frames are looked at, or full; 480 without it.
        frames: As for segment propagate.
        radius: As for segment propagate.
        top_k: As for segment propagate.
        temperature: As for segment propagate.
        baselines: Rows to compare with: the first mask, unchanged; all: also each network with random weights.
    """
    from ..dense.track import Following
    from ..evaluate import propagation as judged

    asked: dict[str, Any] = {"split": split, "how": Following(frames, radius, top_k, temperature)}
    asked |= {"stages": stages_of(stages), "size": size_of(size), "tile": tile}
    loading = {"device": device, "dtype": dtype, "max_pixels": max_pixels}
    judge = _judge(judged, data, model, loading, baselines=baselines, **asked)
    return told(judge, format, plot, overwrite=overwrite)


def _judge(
    judged: Callable[..., Scores],
    data: str | None,
    models: Sequence[Sequence[str]],
    loading: dict[str, Any],
    **asked: Any,
) -> Callable[[], Scores]:
    """What evaluates, with all that it takes."""
    data, names = told_apart(data, models, "a folder of images and masks, or of clips and theirs")
    check_sources(names)
    return partial(judged, data, loaded(names, loading), **asked, progress=True)
