"""An RGB image to the network's input, by the recipe of the checkpoint's origin.

The origins differ in three things that a close look can measure: which engine resizes, how the centre crop
rounds, and whether the aspect ratio survives. `PreprocessSpec` names them, this module obeys.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ..config import PreprocessSpec
from ..errors import InputError
from .decode import check_rgb
from .inplace import rgb_in_place, with_fourth

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# A 1 x 60000 image would become 3.9 gigapixels before its crop; beyond this, only the crop is computed.
_MAX_RESIZED_PIXELS = 64_000_000
_KEPT = 2  # pixels of a shrunk decode for each pixel of the resize, each way


def preprocess(
    image: UInt8[np.ndarray, "h w 3"] | Image.Image, spec: PreprocessSpec, original: tuple[int, int] | None = None
) -> Float[Tensor, "3 out_h out_w"]:
    """Resize, crop and normalise one image.

    An image smaller than the crop is padded with black, as its origin pads it.

    Args:
        image: RGB bytes (height, width, 3), or a PIL image of mode RGB, as `data.decode` gives them.
        spec: The recipe.
        original: (height, width) of an image that was decoded smaller; what it is resized to follows from that.

    Raises:
        InputError: The image is not RGB bytes.
    """
    if isinstance(image, Image.Image) and (image.mode != "RGB" or 0 in image.size):
        raise InputError(f"A PIL image must be RGB here; got {image.mode} of {image.size}. Use decode_image first.")
    pixels = _checked(image)
    resized = resized_size(original or (pixels.shape[0], pixels.shape[1]), spec)
    if resized[0] * resized[1] > _MAX_RESIZED_PIXELS:
        return _normalize(_crop_of_resized(pixels, resized, spec), spec)
    resize = _resize_pil if spec.engine == "pil" else _resize_torch
    return _normalize(center_crop(resize(pixels, resized, spec), spec), spec)


def _checked(image: np.ndarray | Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """RGB bytes, where they lie if that is in Pillow's memory."""
    if isinstance(image, Image.Image):
        in_place = rgb_in_place(image)
        return np.asarray(image) if in_place is None else in_place
    pixels = np.asarray(image)
    return pixels if with_fourth(pixels) is not None else check_rgb(pixels)


def resized_size(size: tuple[int, int], spec: PreprocessSpec) -> tuple[int, int]:
    """What an image of (height, width) pixels is resized to before the crop.

    "squash" aims at size / crop_ratio on each axis. "shortest" brings the shorter side to `resize_to`, or for
    a square result to size / crop_ratio; for any other shape it scales until size / crop_ratio is covered.
    """
    height, width = size
    target = [math.floor(side / spec.crop_ratio) for side in spec.size]
    if spec.resize == "squash":
        return (max(target[0], 1), max(target[1], 1))
    if spec.resize_to is None and target[0] != target[1]:
        ratio = min(height / target[0], width / target[1])
        return (round(height / ratio), round(width / ratio))
    short = spec.resize_to if spec.resize_to is not None else target[0]
    long = int(short * max(size) / min(size))
    return (long, short) if width <= height else (short, long)


def shrinks(size: tuple[int, int], spec: PreprocessSpec) -> int:
    """By how much an image of (height, width) may be decoded smaller: 1, 2, 4 or 8.

    At least twice the pixels that the resize asks for are kept each way, after which the result differs from that of a
    whole decode by 0.2 grey levels on average, about as much as rounding does. Sides are divided without a rest, for
    part of a pixel would shift the picture.
    """
    resized = resized_size(size, spec)
    spare = min(have / wanted for have, wanted in zip(size, resized, strict=True)) / _KEPT
    return max((n for n in (2, 4, 8) if n <= spare and not any(side % n for side in size)), default=1)


def center_crop(pixels: Tensor, spec: PreprocessSpec) -> Tensor:
    """Cut the centre of (..., height, width), padding with zeros what is smaller than the crop."""
    height, width = spec.size
    top, left = _padding_before((pixels.shape[-2], pixels.shape[-1]), spec)
    short = [max(side - have, 0) for side, have in zip(spec.size, pixels.shape[-2:], strict=True)]
    if any(short):
        pixels = F.pad(pixels, [left, short[1] - left, top, short[0] - top])
    top, left = crop_offsets((pixels.shape[-2], pixels.shape[-1]), spec)
    return pixels[..., top : top + height, left : left + width]


def seen_from(size: tuple[int, int], spec: PreprocessSpec) -> tuple[int, int]:
    """Where a network's input begins, (top, left), in an image of (height, width) that was resized; padding is < 0."""
    wide = (max(size[0], spec.size[0]), max(size[1], spec.size[1]))
    (down, across), (top, left) = _padding_before(size, spec), crop_offsets(wide, spec)
    return top - down, left - across


def _padding_before(size: tuple[int, int], spec: PreprocessSpec) -> tuple[int, int]:
    """Rows above and columns to the left that an image of (height, width) lacks."""
    # Quirk(transformers): its Pillow backend puts the odd row of padding first, torchvision last.
    first = spec.engine == "pil" and spec.crop_rounding == "floor"
    short = [max(side - have, 0) for side, have in zip(spec.size, size, strict=True)]
    top, left = ((gap + 1) // 2 if first else gap // 2 for gap in short)
    return top, left


def crop_offsets(size: tuple[int, int], spec: PreprocessSpec) -> tuple[int, int]:
    """Top and left of the centre crop in an image of (height, width) pixels that is no smaller than it."""
    spare = [have - side for have, side in zip(size, spec.size, strict=True)]
    if spec.crop_rounding == "floor":
        return (spare[0] // 2, spare[1] // 2)
    # Quirk(torchvision): half a pixel goes to the even side, so 119 spare pixels start at 60 and 117 at 58.
    return (round(spare[0] / 2), round(spare[1] / 2))


def _resize_pil(image: np.ndarray, resized: tuple[int, int], spec: PreprocessSpec) -> UInt8[Tensor, "3 h w"]:
    if image.shape[:2] == resized:
        return _planes(image)
    return _planes(_picture(image).resize((resized[1], resized[0]), _FILTERS[spec.interpolation]))


def _picture(image: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    """For Pillow, without a copy where it had the pixels before."""
    whole = with_fourth(image)
    if whole is None:
        return Image.fromarray(image)
    return Image.frombuffer("RGBX", (image.shape[1], image.shape[0]), whole, "raw", "RGBX", 0, 1)


def _planes(pixels: np.ndarray | Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Each colour by itself, without what Pillow keeps beside the three."""
    return torch.from_numpy(np.array(np.asarray(pixels)[..., :3].transpose(2, 0, 1), order="C"))


def _resize_torch(image: np.ndarray, resized: tuple[int, int], spec: PreprocessSpec) -> Tensor:
    """Resize as torch does, on bytes or on floats in 0..1."""

    def resize(pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[-2:]) == resized:
            return pixels
        options = {"size": resized, "mode": spec.interpolation, "align_corners": False, "antialias": True}
        return F.interpolate(pixels[None], **options)[0]

    if spec.engine == "float":  # channel by channel: the floats of a large image take four times its memory
        channels = (torch.from_numpy(np.array(image[None, ..., c])).float().div_(255) for c in range(3))
        return torch.cat([resize(channel) for channel in channels])  # (3, h, w)
    return resize(_planes(image))


def _crop_of_resized(image: np.ndarray, resized: tuple[int, int], spec: PreprocessSpec) -> Tensor:
    """The centre crop of a resize too large to be computed whole; the same up to rounding and clipping."""
    picture = _picture(image)
    keep = [min(side, have) for side, have in zip(spec.size, resized, strict=True)]
    top, left = (max(offset, 0) for offset in crop_offsets(resized, spec))
    down, across = picture.height / resized[0], picture.width / resized[1]  # source pixels per resized pixel
    box = (left * across, top * down, (left + keep[1]) * across, (top + keep[0]) * down)
    cut = picture.resize((keep[1], keep[0]), _FILTERS[spec.interpolation], box=box)
    pixels = center_crop(_planes(cut), spec)
    return pixels.float().div_(255) if spec.engine == "float" else pixels


def _normalize(pixels: Tensor, spec: PreprocessSpec) -> Float[Tensor, "3 h w"]:
    """To zero mean and unit deviation, in the origin's own order of operations."""
    mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
    pixels = pixels.contiguous()  # what follows takes half the time if each colour lies together
    if spec.engine == "uint8":
        # Quirk(transformers): rescaling is folded into the statistics.
        return pixels.float().sub_(mean * 255).div_(std * 255)
    floats = pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels
    return floats.sub_(mean).div_(std)
