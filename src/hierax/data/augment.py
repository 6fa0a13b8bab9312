"""Random changes to training images and clips, each a function of the sample's key and nothing else.

The crop is drawn from the size that a file declares, so that large photographs need not be decoded whole. A clip is
changed as a whole: all its frames get the same crop and the same operations.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from ..errors import RecipeError, brief
from ..schema import Between, NonNegative, Share, conform
from . import rand_augment
from .erase import rectangle
from .inplace import with_fourth
from .rand_augment import Change
from .warp import Look

_Above = Annotated[float, Between(above=0)]
_Area = Annotated[float, Between(above=0, most=1)]
_Operations = Annotated[int, Between(least=1, most=14)]
_Magnitude = Annotated[int, Between(least=1, most=rand_augment.MOST)]
_Noise = Annotated[float, Between(least=0, most=rand_augment.MOST)]
_Box = tuple[int, int, int, int]  # top, left, bottom, right
_SHRINKS = (8, 4, 2)  # what a JPEG's blocks of eight pixels can be decoded to


class _Drawn(NamedTuple):
    """What becomes of one sample."""

    box: _Box
    flipped: bool
    changes: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Random changes to one sample.

    Attributes:
        crop_scale: Area of the random crop over the image's, (smallest, largest).
        crop_ratio: Aspect ratio of the random crop over that of the result, (smallest, largest).
        flip: Probability of a horizontal flip.
        color_jitter: Strength of brightness, contrast and saturation changes; 0 is off.
        rand_augment: RandAugment as (operations, magnitude of 10); None is off.
        rand_augment_std: Standard deviation of the noise on the magnitude.
        rand_augment_probability: Chance that a drawn operation is applied.
        rand_augment_increasing: Whether every operation changes more at a larger magnitude, as in the paper; False
            takes the table in which some fade.
        erasing: Probability of noise in place of a rectangle.
    """

    crop_scale: tuple[_Area, _Area] = (0.08, 1.0)
    crop_ratio: tuple[_Above, _Above] = (0.75, 4 / 3)
    flip: Share = 0.5
    color_jitter: NonNegative = 0.0
    rand_augment: tuple[_Operations, _Magnitude] | None = None
    rand_augment_std: _Noise = 0.5
    rand_augment_probability: Share = 0.5
    rand_augment_increasing: bool = True
    erasing: Share = 0.0

    def __post_init__(self) -> None:
        """Refuse what is out of bounds."""
        _refuse_magnitudes_of_thirty(self.rand_augment)
        conform(self, RecipeError)
        for key in ("crop_scale", "crop_ratio"):
            smallest, largest = getattr(self, key)
            if smallest > largest:
                raise RecipeError(f"{key} must be (smallest, largest); got {(smallest, largest)}.")


def _refuse_magnitudes_of_thirty(value: object) -> None:
    """Recipes of hierax 0.1 counted to thirty."""
    magnitude = value[1] if isinstance(value, (list, tuple)) and len(value) == 2 else None
    if isinstance(magnitude, int) and magnitude > rand_augment.MOST:
        raise RecipeError(
            f"rand_augment must be (operations, magnitude) with a magnitude of at most {rand_augment.MOST}; got "
            f"{brief(value)}. Magnitudes count to {rand_augment.MOST} now, as published recipes do; of one that counts "
            "to 30, write a third."
        )


@dataclass(frozen=True, kw_only=True)
class Augment(AugmentSettings):
    """What changes samples at random, each by its key.

    Attributes:
        size: Pixels of the result, (height, width).
        whole: Whether images are brought to the result's shape whole, whatever their own: the ratio of a crop is then
            over that of the image.
        bicubic: Bicubic instead of bilinear resizing.
        fill: Colour of what a rotation, a shear or a shift uncovers, RGB bytes; by default ImageNet's mean.
    """

    size: tuple[int, int]
    whole: bool = False
    bicubic: bool = True
    fill: tuple[int, int, int] = (124, 116, 104)

    def __call__(
        self, frames: UInt8[np.ndarray, "t h w 3"], key: int, size: tuple[int, int] | None = None
    ) -> UInt8[Tensor, "t 3 out_h out_w"]:
        """Change the frames of one clip alike; an image is a clip of one frame.

        Args:
            frames: RGB bytes.
            key: Every draw follows from it.
            size: Height and width of the source where the frames were decoded smaller, as `shrink` allows.
        """
        whole = (frames.shape[1], frames.shape[2]) if size is None else size
        drawn = self._drawn(whole, key)
        cut = _cut if whole == frames.shape[1:3] else functools.partial(_cut_smaller, whole=whole)
        made = [self._changed(cut(frame, drawn.box, self.size, self.bicubic), drawn) for frame in frames]
        return torch.stack(made) if len(made) > 1 else made[0][None]

    def shrink(self, size: tuple[int, int], key: int) -> int:
        """By how much a source of (height, width) pixels may be decoded smaller: 1, 2, 4 or 8.

        The crop then still has at least as many pixels each way as the result.
        """
        top, left, bottom, right = self._drawn(size, key).box
        spare = min((bottom - top) / self.size[0], (right - left) / self.size[1])
        return next((factor for factor in _SHRINKS if factor <= spare), 1)

    def erased(self, key: int) -> Int[Tensor, " 5"]:
        """The rectangle that `erase.erase` fills with noise once the pixels are normalised."""
        return rectangle(key, self.size, self.erasing)

    @functools.lru_cache(maxsize=64)  # noqa: B019  (a view is asked for its size, then for its pixels)
    def _drawn(self, size: tuple[int, int], key: int) -> _Drawn:
        """Every draw for a source of (height, width) pixels."""
        rng = np.random.Generator(np.random.PCG64(key))
        box = self._box(rng, *size)
        flipped = bool(rng.random() < self.flip)
        changes: list[Change] = []
        if self.rand_augment is not None:
            operations, magnitude = self.rand_augment
            changes = rand_augment.draw(
                rng, operations, magnitude, std=self.rand_augment_std, probability=self.rand_augment_probability,
                increasing=self.rand_augment_increasing,
            )  # fmt: skip
        if self.color_jitter:
            changes += _jitter(rng, self.color_jitter)
        return _Drawn(box, flipped, tuple(changes))

    def _changed(self, pixels: UInt8[Tensor, "3 h w"], drawn: _Drawn) -> UInt8[Tensor, "3 h w"]:
        """One frame, flipped and changed."""
        if drawn.flipped:
            pixels = pixels.flip(-1)
        if not drawn.changes:
            return pixels.contiguous()
        look = Look(self.fill, self.bicubic)
        return torch.from_numpy(rand_augment.applied(pixels.contiguous().numpy(), drawn.changes, look))

    def _box(self, rng: Generator, height: int, width: int) -> _Box:
        """A crop of random area and aspect ratio, (top, left, bottom, right) in whole pixels.

        After ten draws that do not fit, the largest centred crop of a legal aspect ratio.

        Source: Inception's crop, arXiv:1409.4842.
        """
        usual = width / height if self.whole else self.size[1] / self.size[0]
        narrowest, widest = (ratio * usual for ratio in self.crop_ratio)
        for _ in range(10):
            area = height * width * rng.uniform(*self.crop_scale)
            aspect = math.exp(rng.uniform(math.log(narrowest), math.log(widest)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
                return top, left, top + h, left + w
        aspect = min(max(width / height, narrowest), widest)
        w, h = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
        left, top = (width - w) // 2, (height - h) // 2
        return top, left, top + h, left + w


def _cut(
    frame: UInt8[np.ndarray, "h w 3"], box: _Box, size: tuple[int, int], bicubic: bool
) -> UInt8[Tensor, "3 out_h out_w"]:
    """A box of a frame, resized; by torch, which takes a third of Pillow's time for the same to one grey level."""
    top, left, bottom, right = box
    fourth = with_fourth(frame)
    part = np.array((frame if fourth is None else fourth)[top:bottom, left:right])
    pixels = torch.from_numpy(part).permute(2, 0, 1)[None]  # (1, 3 or 4, h, w)
    mode = "bicubic" if bicubic else "bilinear"
    return F.interpolate(pixels, size, mode=mode, align_corners=False, antialias=True)[0, :3]


def _cut_smaller(
    frame: UInt8[np.ndarray, "h w 3"], box: _Box, size: tuple[int, int], bicubic: bool, *, whole: tuple[int, int]
) -> UInt8[Tensor, "3 out_h out_w"]:
    """As `_cut`, of a frame that was decoded smaller than the `whole` that the box is of.

    The box then ends within pixels. Rounding it would move the view by up to half a pixel, which is twice to four
    times as much as decoding smaller changes; Pillow takes it as it is.
    """
    down, across = frame.shape[0] / whole[0], frame.shape[1] / whole[1]
    top, left, bottom, right = box
    method = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    place = (left * across, top * down, right * across, bottom * down)
    fourth = with_fourth(frame)
    image = Image.fromarray(frame) if fourth is None else Image.fromarray(fourth, "RGBX")
    cut = image.resize((size[1], size[0]), method, box=place)
    return torch.from_numpy(np.array(cut)).permute(2, 0, 1)[:3]  # (3, out_h, out_w)


def _jitter(rng: Generator, strength: float) -> list[Change]:
    """Brightness, contrast and saturation in random order, each by a factor up to `strength` away from 1."""
    names = ("brightness", "contrast", "color")
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, size=3)
    return [Change(names[place], float(factors[place])) for place in rng.permutation(3)]


def mix(
    pixels: Float[Tensor, "b 3 *pixels"],
    targets: Float[Tensor, "b classes"],
    *,
    mixup: float,
    cutmix: float,
    choice: str,
    rng: Generator,
) -> tuple[Float[Tensor, "b 3 *pixels"], Float[Tensor, "b classes"]]:
    """Mixup or cutmix of each sample with the one at the mirrored place of the batch, with one draw a batch.

    Args:
        pixels: Normalised images or clips.
        targets: Class probabilities.
        mixup: Alpha of the Beta distribution that the share is drawn from; 0 is off.
        cutmix: The same for cutmix.
        choice: "always" takes one of those that are on, "uniform" may also take none.
        rng: Where the draw comes from.

    Source: arXiv:1710.09412, arXiv:1905.04899.
    """
    ways = [("none", 0.0)] if choice == "uniform" else []
    ways += [(name, alpha) for name, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha > 0]
    way, alpha = ways[int(rng.integers(len(ways)))] if ways else ("none", 0.0)
    if way == "none" or len(pixels) < 2:
        return pixels, targets
    share, other = float(rng.beta(alpha, alpha)), pixels.flip(0)
    if way == "mixup":
        pixels = pixels * share + other * (1 - share)
    else:
        height, width = pixels.shape[-2:]
        h, w = int(height * math.sqrt(1 - share)), int(width * math.sqrt(1 - share))
        y, x = int(rng.integers(height)), int(rng.integers(width))
        top, bottom = max(y - h // 2, 0), min(y + h // 2, height)
        left, right = max(x - w // 2, 0), min(x + w // 2, width)
        pixels = pixels.clone()
        pixels[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return pixels, targets * share + targets.flip(0) * (1 - share)


def soft_targets(labels: Int[Tensor, " b"], classes: int, smoothing: float) -> Float[Tensor, "b classes"]:
    """One-hot targets with a share spread evenly over all classes."""
    hot = torch.nn.functional.one_hot(labels, classes).float()
    return hot * (1 - smoothing) + smoothing / classes
