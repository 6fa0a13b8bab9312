"""`classification_transform`: birder's inference preprocess for PIL images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ...config import PreprocessSpec
from ...data.decode import open_rgb
from ...data.preprocess import preprocess
from ...errors import InputError

_MAX_COVER_PIXELS = 64_000_000


@dataclass(frozen=True)
class ClassificationTransform:
    """Callable from a PIL image of any mode to the network's input.

    Attributes:
        spec: Our recipe of the same numbers.
        base_size: (height, width) to resize to before the crop.
        simple_crop: Keep the aspect ratio and cover `base_size`, instead of squashing to it.
    """

    spec: PreprocessSpec
    base_size: tuple[int, int]
    simple_crop: bool

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 h w"]:
        """Preprocess one image.

        Raises:
            InputError: Not a PIL image, or one that cannot be decoded.
        """
        if not isinstance(image, Image.Image):
            raise InputError(f"The transform takes a PIL image; got {type(image).__name__}. Use PIL.Image.open.")
        rgb, spec = open_rgb(image, upright=False), self.spec
        if self.simple_crop:
            rgb = rgb.resize(self.cover(rgb.width, rgb.height), Image.Resampling.BICUBIC)
            spec = dataclasses.replace(spec, resize="shortest", crop_ratio=1.0, resize_to=min(rgb.size))  # crop only
        return preprocess(rgb, spec)

    def cover(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that cover `base_size` at the image's aspect ratio.

        Raises:
            InputError: The image is so narrow that the result would not fit into memory.
        """
        h, w = self.base_size
        wide = width * h >= height * w
        size = (max(w, h * width // height), h) if wide else (w, max(h, w * height // width))
        if size[0] * size[1] > _MAX_COVER_PIXELS:
            raise InputError(f"An image of {width} x {height} would be resized to {size[0]} x {size[1]}. Crop it.")
        return size


def classification_transform(
    size: Sequence[int], rgv_values: Mapping[str, Any], center_crop: float = 1.0, simple_crop: bool = False
) -> ClassificationTransform:
    """Inference preprocess of birder; the second parameter is spelt as there.

    Args:
        size: (height, width) of the result, in pixels.
        rgv_values: `rgb_stats` of a `ModelInfo`: mean and std per channel, in 0..1.
        center_crop: Side of the crop over the side of the resized image.
        simple_crop: Keep the aspect ratio: resize to cover, then crop the centre.

    Returns:
        A function from a PIL image, of any mode, to a float tensor (3, h, w).

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
    return ClassificationTransform(spec, (int(height / center_crop), int(width / center_crop)), simple_crop)
