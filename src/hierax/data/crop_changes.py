"""What becomes of the colours of a crop in self-distillation: two published policies, each a table of random changes.

"dinov2" jitters colours, drops them, blurs and solarises. Its blur is as its code applies it: the argument that is
called the probability there is that of leaving the crop as it is, so the first large crop is never blurred, the second
in nine cases of ten, a small one in half. "birder" applies two or three operations of twelve to a large crop and
jitters and blurs small ones.

Source: DINOv2's data/augmentations.py (its issue on the blur: facebookresearch/dinov2#411); birder's level 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from numpy.random import Generator
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

Change = Callable[[Image.Image, Generator], Image.Image]
_Range = tuple[float, float]

# --- single changes --------------------------------------------------------------------------------------------------


def shifted_hue(image: Image.Image, share: float) -> Image.Image:
    """Hues turned by a share of the circle, in steps of 1 / 256."""
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(place + round(share * 255)) % 256 for place in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def blurred(image: Image.Image, taps: int, sigma: float) -> Image.Image:
    """A Gaussian of so many taps; edges are mirrored."""
    places = torch.arange(taps, dtype=torch.float32) - (taps - 1) / 2
    kernel = (-0.5 * (places / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, taps)
    side = taps // 2
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()  # (1, 3, h, w)
    pixels = F.pad(pixels, [side] * 4, mode="reflect")
    pixels = F.conv2d(F.conv2d(pixels, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    return Image.fromarray(pixels[0].permute(1, 2, 0).round().to(torch.uint8).numpy())


def jitter(*, brightness: float = 0, contrast: float = 0, saturation: float = 0, hue: float = 0) -> Change:
    """Brightness, contrast, saturation and hue in random order, each as far as that from what it was."""
    strengths = (brightness, contrast, saturation)
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

    def change(image: Image.Image, rng: Generator) -> Image.Image:
        for place in rng.permutation(4):
            draw = float(rng.uniform(-1, 1))
            if place == 3:
                image = shifted_hue(image, hue * draw) if hue else image
            elif strengths[place]:
                image = kinds[place](image).enhance(max(0.0, 1 + strengths[place] * draw))
        return image

    return change


def blur(taps: int, sigma: _Range) -> Change:
    """A blur of random width."""
    return lambda image, rng: blurred(image, taps, float(rng.uniform(*sigma)))


def solarize(threshold: int, around: float = 0.0) -> Change:
    """Bright values inverted, from a threshold on that varies by a share of itself."""
    spread = int(threshold * around)

    def change(image: Image.Image, rng: Generator) -> Image.Image:
        return ImageOps.solarize(image, min(255, threshold + int(rng.integers(-spread, spread + 1))))

    return change


def enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance], middle: float, around: float, least: float) -> Change:
    """A blend with what lacks a quality altogether, by a factor around a middle, within `least` and 2."""
    return lambda image, rng: kind(image).enhance(min(2.0, max(least, middle + float(rng.uniform(-around, around)))))


def _rotate(degrees: float) -> Change:
    return lambda image, rng: image.rotate(float(rng.uniform(-degrees, degrees)))


def _shear(degrees: float) -> Change:
    def change(image: Image.Image, rng: Generator) -> Image.Image:
        slope = math.tan(math.radians(float(rng.uniform(-degrees, degrees))))
        return image.transform(image.size, Image.Transform.AFFINE, (1, slope, -slope * image.height / 2, 0, 1, 0))

    return change


def _shift(share: float) -> Change:
    def change(image: Image.Image, rng: Generator) -> Image.Image:
        x, y = (round(share * side * float(rng.uniform(-1, 1))) for side in image.size)
        return image.transform(image.size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y))

    return change


# --- policies --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Policy:
    """What may happen to one kind of crop.

    Attributes:
        maybe: Changes in order, each with its probability.
        some: Operations of which some are drawn, with replacement.
        count: How many, (fewest, most).
        either: Whether the crop is resized bilinearly in half of the cases.
    """

    maybe: tuple[tuple[float, Change], ...] = ()
    some: tuple[Change, ...] = ()
    count: tuple[int, int] = (0, 0)
    either: bool = False

    def __call__(self, pixels: UInt8[Tensor, "3 h w"], rng: Generator) -> UInt8[Tensor, "3 h w"]:
        """The crop, changed."""
        changes = [change for probability, change in self.maybe if rng.random() < probability]
        if self.some:
            drawn = int(rng.integers(self.count[0], self.count[1] + 1))
            changes += [self.some[place] for place in rng.integers(len(self.some), size=drawn)]
        if not changes:
            return pixels
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        for change in changes:
            image = change(image, rng)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


_COLOURS = (0.8, jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1))
_GREY = (0.2, lambda image, rng: image.convert("L").convert("RGB"))
_BLUR = blur(9, (0.1, 2.0))
_BIRDER = Policy(
    some=(
        lambda image, rng: image,
        _rotate(11.25),
        jitter(brightness=0.2625),
        jitter(contrast=0.175, hue=0.0375),
        enhance(ImageEnhance.Color, 1.0, 0.35, 0.1),
        _shift(0.1),
        _shear(12.5),
        lambda image, rng: ImageOps.posterize(image, 6),
        blur(3, (0.5, 1.2)),
        lambda image, rng: ImageOps.autocontrast(image),
        enhance(ImageEnhance.Sharpness, 1.2, 0.2, 1.0),
        solarize(195, 0.3),
    ),
    count=(2, 3),
    either=True,
)
# Of each policy: for the first large crop, for the second, and for every small one.
POLICIES: dict[str, tuple[Policy, Policy, Policy]] = {
    "dinov2": (
        Policy((_COLOURS, _GREY)),
        Policy((_COLOURS, _GREY, (0.9, _BLUR), (0.2, solarize(128)))),
        Policy((_COLOURS, _GREY, (0.5, _BLUR))),
    ),
    "birder": (
        _BIRDER,
        _BIRDER,
        Policy(((0.8, jitter(brightness=0.25, contrast=0.15, hue=0.04)), (0.5, blur(3, (0.5, 1.2))))),
    ),
    "none": (Policy(), Policy(), Policy()),
}
