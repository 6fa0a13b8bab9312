"""RandAugment: some operations of a table, drawn at random, each as strong as a magnitude of 0 to 10 says.

The table holds what each operation's argument becomes at a magnitude. In the "increasing" table, which the paper of
Hiera trains with, a larger magnitude always changes an image more; in the plain one posterising and solarising fade
and the enhancements pass through the unchanged image half way.

Source: arXiv:1909.13719; the arguments, the noise on the magnitude and the chance of 0.5 are those that timm calls
"rand-m9-mstd0.5-inc1", because published recipes are written in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageEnhance, ImageOps

from .warp import Look, rotated, sheared, translated

MOST = 10  # the largest magnitude
_BYTES = np.arange(256)


class Operation(NamedTuple):
    """One row of the table.

    Attributes:
        apply: Changes an image of mode RGB by an argument.
        argument: The argument at a share of the largest magnitude, -1 to 1 where `signed`, else 0 to 1.
        signed: Whether half of the draws go the other way.
    """

    apply: Callable[[Image.Image, float, Look], Image.Image]
    argument: Callable[[float], float]
    signed: bool = False


class Change(NamedTuple):
    """An operation that was drawn, by its name in the table, and its argument."""

    name: str
    argument: float


def _through(table: Callable[[np.ndarray, float], np.ndarray]) -> Callable[[Image.Image, float, Look], Image.Image]:
    """An operation on each byte by itself: the table gives what all 256 become."""
    return lambda image, argument, _: image.point(table(_BYTES, argument).tolist() * 3)


def _enhanced(kind: Callable[[Image.Image], Any]) -> Callable[..., Image.Image]:
    """A blend with what lacks the quality altogether: 0 has none of it, 1 is the image, 2 twice as much."""
    return lambda image, factor, _: kind(image).enhance(factor)


_POSTERIZE = _through(lambda values, bits: values & (0xFF00 >> int(bits)))  # Pillow's own refuses to keep no bits
_SOLARIZE = _through(lambda values, least: np.where(values < least, values, 255 - values))
_COLOR, _CONTRAST = _enhanced(ImageEnhance.Color), _enhanced(ImageEnhance.Contrast)
_BRIGHTNESS, _SHARPNESS = _enhanced(ImageEnhance.Brightness), _enhanced(ImageEnhance.Sharpness)


def _away(share: float) -> float:
    """A factor of enhancement that moves away from 1, the unchanged image, to either side."""
    return max(0.1, 1 + share * 0.9)


def _across(share: float) -> float:
    """A factor of enhancement from nearly none to nearly twice."""
    return share * 1.8 + 0.1


INCREASING: dict[str, Operation] = {
    "autocontrast": Operation(lambda image, _, look: ImageOps.autocontrast(image), lambda share: 0),
    "equalize": Operation(lambda image, _, look: ImageOps.equalize(image), lambda share: 0),
    "invert": Operation(_through(lambda values, _: 255 - values), lambda share: 0),
    "rotate": Operation(rotated, lambda share: share * 30, signed=True),  # degrees
    "posterize": Operation(_POSTERIZE, lambda share: 4 - int(share * 4)),  # bits that stay
    "solarize": Operation(_SOLARIZE, lambda share: 256 - int(share * 256)),  # the least value that is inverted
    "solarize_add": Operation(
        _through(lambda values, more: np.where(values < 128, np.minimum(255, values + int(more)), values)),
        lambda share: int(share * 110),
    ),
    "color": Operation(_COLOR, _away, signed=True),
    "contrast": Operation(_CONTRAST, _away, signed=True),
    "brightness": Operation(_BRIGHTNESS, _away, signed=True),
    "sharpness": Operation(_SHARPNESS, _away, signed=True),
    "shear_x": Operation(sheared(0), lambda share: share * 0.3, signed=True),
    "shear_y": Operation(sheared(1), lambda share: share * 0.3, signed=True),
    "translate_x": Operation(translated(0), lambda share: share * 0.45, signed=True),  # of the width
    "translate_y": Operation(translated(1), lambda share: share * 0.45, signed=True),
}
PLAIN: dict[str, Operation] = INCREASING | {
    "posterize": Operation(_POSTERIZE, lambda share: int(share * 4)),
    "solarize": Operation(_SOLARIZE, lambda share: int(share * 256)),
    "color": Operation(_COLOR, _across),
    "contrast": Operation(_CONTRAST, _across),
    "brightness": Operation(_BRIGHTNESS, _across),
    "sharpness": Operation(_SHARPNESS, _across),
}


def draw(
    rng: Generator, operations: int, magnitude: float, *, std: float, probability: float, increasing: bool
) -> list[Change]:
    """What becomes of one sample.

    Args:
        rng: Where every draw comes from.
        operations: Operations that are drawn; one may come twice.
        magnitude: Their strength, of `MOST`.
        std: Standard deviation of the noise on the magnitude.
        probability: Chance that a drawn operation is applied.
        increasing: Which table.
    """
    table = INCREASING if increasing else PLAIN
    names, changes = list(table), []
    for place in rng.integers(len(names), size=operations):
        if rng.random() >= probability:
            continue
        share = min(max(rng.normal(magnitude, std), 0.0), MOST) / MOST
        operation = table[names[place]]
        if operation.signed and rng.random() > 0.5:
            share = -share
        changes.append(Change(names[place], operation.argument(share)))
    return changes


def applied(image: Image.Image, changes: list[Change], look: Look) -> Image.Image:
    """An image of mode RGB after these changes, in order."""
    for name, argument in changes:
        image = INCREASING[name].apply(image, argument, look)
    return image
