"""Random changes to training images and clips, each a function of the sample's key and nothing else.

Crops and flips are done on bytes, antialiased, before anything becomes a float; the photometric ones are
kornia's. A clip is changed as a whole: all its frames get the same crop and the same operations.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.random import Generator
from PIL import Image
from torch import Tensor, nn

from ..errors import MissingExtraError, RecipeError
from ..schema import Between, NonNegative, Share, conform

_Above = Annotated[float, Between(above=0)]
_Area = Annotated[float, Between(above=0, most=1)]
_Operations = Annotated[int, Between(least=1, most=14)]  # kornia has fourteen
_Magnitude = Annotated[int, Between(above=0, below=30)]


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Random changes to one sample.

    Attributes:
        crop_scale: Area of the random crop over the image's, (smallest, largest).
        crop_ratio: Aspect ratio of the random crop, (smallest, largest).
        flip: Probability of a horizontal flip.
        color_jitter: Strength of brightness, contrast and saturation changes; 0 is off.
        rand_augment: RandAugment as (operations, magnitude of 30); None is off.
        erasing: Probability of erasing a rectangle.
    """

    crop_scale: tuple[_Area, _Area] = (0.08, 1.0)
    crop_ratio: tuple[_Above, _Above] = (0.75, 4 / 3)
    flip: Share = 0.5
    color_jitter: NonNegative = 0.0
    rand_augment: tuple[_Operations, _Magnitude] | None = None
    erasing: Share = 0.0

    def __post_init__(self) -> None:
        """Refuse what is out of bounds."""
        conform(self, RecipeError)
        for key in ("crop_scale", "crop_ratio"):
            smallest, largest = getattr(self, key)
            if smallest > largest:
                raise RecipeError(f"{key} must be (smallest, largest); got {(smallest, largest)}.")


@dataclass(frozen=True, kw_only=True)
class Augment(AugmentSettings):
    """What changes samples at random, each by its key.

    Attributes:
        size: Pixels of the result, (height, width).
        bicubic: Bicubic instead of bilinear resizing.
    """

    size: tuple[int, int]
    bicubic: bool = True

    def __call__(self, frames: UInt8[np.ndarray, "t h w 3"], key: int) -> UInt8[Tensor, "t 3 out_h out_w"]:
        """Change the frames of one clip alike; an image is a clip of one frame."""
        rng = np.random.Generator(np.random.PCG64(key))
        box = self._box(rng, *frames.shape[1:3])
        method = Image.Resampling.BICUBIC if self.bicubic else Image.Resampling.BILINEAR
        height, width = self.size
        cut = [Image.fromarray(frame).resize((width, height), method, box=box) for frame in frames]
        pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in cut])).permute(0, 3, 1, 2)
        if rng.random() < self.flip:
            pixels = pixels.flip(-1)
        if self.color_jitter or self.rand_augment or self.erasing:
            pixels = self._photometric(pixels, int(rng.integers(2**31)))
        return pixels.contiguous()

    def _box(self, rng: Generator, height: int, width: int) -> tuple[int, int, int, int]:
        """A crop of random area and aspect ratio, (left, top, right, bottom) in whole pixels.

        After ten draws that do not fit, the largest centred crop of a legal aspect ratio.

        Source: Inception's crop, arXiv:1409.4842.
        """
        narrowest, widest = self.crop_ratio
        for _ in range(10):
            area = height * width * rng.uniform(*self.crop_scale)
            aspect = math.exp(rng.uniform(math.log(narrowest), math.log(widest)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
                return left, top, left + w, top + h
        aspect = min(max(width / height, narrowest), widest)
        w, h = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def _photometric(self, pixels: UInt8[Tensor, "t 3 h w"], seed: int) -> UInt8[Tensor, "t 3 h w"]:
        """Kornia's operations; they draw from torch's global generator, which is put back afterwards."""
        operations = _operations(self.color_jitter, self.rand_augment, self.erasing)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            frames = pixels.float().div_(255)
            for operation in operations:
                # Kornia draws for every image of a batch; the frames of a clip share one draw.
                if len(frames) == 1:
                    frames = operation(frames)
                else:
                    frames = torch.cat([_again(operation, frame[None], seed) for frame in frames])
            return frames.clamp(0, 1).mul(255).round().to(torch.uint8)


def _again(operation: nn.Module, frame: Float[Tensor, "1 3 h w"], seed: int) -> Float[Tensor, "1 3 h w"]:
    """The operation with the same draw for every frame."""
    torch.manual_seed(seed)
    return operation(frame)


@functools.lru_cache(maxsize=8)
def _operations(jitter: float, rand_augment: tuple[int, ...] | None, erasing: float) -> list[nn.Module]:
    """What a sample goes through; built once a process, because building takes as long as applying."""
    try:
        import kornia.augmentation as kornia
        from kornia.augmentation.auto import RandAugment
    except ImportError as error:
        raise MissingExtraError("train", "kornia") from error
    operations: list[nn.Module] = []
    if jitter:
        operations.append(kornia.ColorJitter(jitter, jitter, jitter, 0.0, p=1.0))
    if rand_augment:
        operations.append(RandAugment(n=rand_augment[0], m=rand_augment[1]))
    if erasing:
        # Mid-grey is about zero once the pixels are normalised.
        operations.append(kornia.RandomErasing(p=erasing, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), value=0.45))
    return operations


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

    Source: arXiv:1710.09412, arXiv:1905.04899. Ours, because kornia's mixup knows no Beta distribution.
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
