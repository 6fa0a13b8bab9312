"""`classification_transform`: birder's inference preprocess for PIL images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ...config import PreprocessSpec
from ...data.decode import open_rgb
from ...data.preprocess import preprocess, resized_size
from ...errors import InputError

_MAX_COVER_PIXELS = 64_000_000


def classification_transform(
    size: Sequence[int], rgv_values: Mapping[str, Any], center_crop: float = 1.0, simple_crop: bool = False
) -> Callable[[Image.Image], Float[Tensor, "3 h w"]]:
    """Inference preprocess of birder; the second parameter is spelt as there.

    Args:
        size: (height, width) of the result, in pixels.
        rgv_values: `rgb_stats` of a `ModelInfo`: mean and std per channel, in 0..1.
        center_crop: Side of the crop over the side of the resized image.
        simple_crop: Keep the aspect ratio: resize to cover, then crop the centre.

    Returns:
        A function from a PIL image, of any mode, to a float tensor (3, h, w). It raises InputError for what is no PIL
        image, cannot be decoded, or with `simple_crop` is so narrow that the resized image would not fit into memory.

    Raises:
        InputError: An impossible size, ratio or statistic.
    """
    if isinstance(size, (str, int)) or len(size) != 2:
        raise InputError(f"size must be (height, width), as get_size_from_signature gives it; got {size!r}.")
    if not isinstance(rgv_values, Mapping) or not {"mean", "std"} <= rgv_values.keys():
        raise InputError(f"rgv_values must have 'mean' and 'std', as ModelInfo.rgb_stats has; got {rgv_values!r}.")
    height, width = int(size[0]), int(size[1])
    stats: Any = {name: tuple(map(float, rgv_values[name])) for name in ("mean", "std")}
    spec = PreprocessSpec(size=(height, width), resize="squash", crop_ratio=center_crop, **stats)
    return functools.partial(_input_of, spec=spec, cover=simple_crop)  # which can be pickled


def _input_of(image: Image.Image, *, spec: PreprocessSpec, cover: bool) -> Float[Tensor, "3 h w"]:
    """One image squashed to what the recipe aims at before the crop, or resized to cover it."""
    if not isinstance(image, Image.Image):
        raise InputError(f"The transform takes a PIL image; got {type(image).__name__}. Use PIL.Image.open.")
    rgb = open_rgb(image, upright=False)
    if cover:
        width, height = rgb.size
        h, w = resized_size((height, width), spec)
        wide = width * h >= height * w
        size = (max(w, h * width // height), h) if wide else (w, max(h, w * height // width))
        if size[0] * size[1] > _MAX_COVER_PIXELS:
            raise InputError(f"An image of {width} x {height} would be resized to {size[0]} x {size[1]}. Crop it.")
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
        spec = dataclasses.replace(spec, resize="shortest", crop_ratio=1.0, resize_to=min(size))  # crop only
    return preprocess(rgb, spec)
