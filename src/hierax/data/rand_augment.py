"""RandAugment: some operations of a table, drawn at random, each as strong as a magnitude of 0 to 10 says.

The table holds what each operation's argument becomes at a magnitude. In the "increasing" table, which the paper of
Hiera trains with, a larger magnitude always changes an image more; in the plain one posterising and solarising fade
and the enhancements pass through the unchanged image half way.

Source: arXiv:1909.13719; the arguments, the noise on the magnitude and the chance of 0.5 are those that timm calls
"rand-m9-mstd0.5-inc1", because published recipes are written in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from PIL import Image

from .warp import Look, Pixels, rotated, sheared, translated

MOST = 10  # the largest magnitude
_BYTES = np.arange(256)


class Operation(NamedTuple):
    """One row of the table.

    Attributes:
        apply: Changes an image by an argument.
        argument: The argument at a share of the largest magnitude, -1 to 1 where `signed`, else 0 to 1.
        signed: Whether half of the draws go the other way.
    """

    apply: Callable[[Pixels, float, Look], Pixels]
    argument: Callable[[float], float]
    signed: bool = False


class Change(NamedTuple):
    """An operation that was drawn, by its name in the table, and its argument."""

    name: str
    argument: float


def _looked_up(pixels: Pixels, tables: Iterable[np.ndarray]) -> Pixels:
    """Each byte through the table of its channel, or through one of all: what all 256 become.

    Quirk(numpy): indexing a table by bytes takes six times as long as `bytes.translate`.
    """
    listed = [np.clip(table, 0, 255).astype(np.uint8).tobytes() for table in tables]
    parts = [pixels] if len(listed) == 1 else list(pixels)
    changed = [bytearray(part).translate(table) for part, table in zip(parts, listed, strict=True)]
    return np.frombuffer(bytearray().join(changed), np.uint8).reshape(pixels.shape)


def _through(table: Callable[[np.ndarray, float], np.ndarray]) -> Callable[[Pixels, float, Look], Pixels]:
    """An operation on each byte by itself: the table gives what all 256 become."""
    return lambda pixels, argument, _: _looked_up(pixels, [table(_BYTES, argument)])


def _blended(less: Any, pixels: np.ndarray, factor: float) -> np.ndarray:
    """What lacks a quality altogether at 0, the image itself at 1, twice as much at 2; in Pillow's single precision."""
    mixed = np.subtract(pixels, less, dtype=np.float32)
    mixed *= np.float32(factor)
    mixed += less
    return np.clip(mixed, 0, 255, out=mixed).astype(np.uint8)


def _grey(pixels: Pixels) -> Float[np.ndarray, "h w"]:
    """As Pillow weighs the channels, in 65536ths; whole numbers below 2^24, which single precision holds."""
    grey = pixels[0] * np.float32(19595)
    grey += pixels[1] * np.float32(38470)
    grey += pixels[2] * np.float32(7471)
    grey += np.float32(1 << 15)
    grey *= np.float32(2**-16)
    return np.floor(grey, out=grey)


def _contrast(pixels: Pixels, factor: float, _: Look) -> Pixels:
    """Less of it is nearer to the mean grey."""
    return _looked_up(pixels, [_blended(np.float32(int(_grey(pixels).mean(dtype=np.float64) + 0.5)), _BYTES, factor)])


def _sharpness(pixels: Pixels, factor: float, _: Look) -> Pixels:
    """Less of it is nearer to a mean of nine pixels in which the middle one counts five times; edges stay."""
    wide = pixels.astype(np.uint16)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]  # (3, h - 2, w)
    total = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * wide[:, 1:-1, 1:-1]).astype(np.float32)
    smooth = pixels.astype(np.float32)
    smooth[:, 1:-1, 1:-1] = np.floor(total * np.float32(1 / 13) + np.float32(0.5))
    return _blended(smooth, pixels, factor)


def _autocontrast(pixels: Pixels, _argument: float, _: Look) -> Pixels:
    """Each channel stretched to all of black to white."""
    flat = pixels.reshape(len(pixels), -1)
    tables = []
    for low, high in zip(flat.min(1).tolist(), flat.max(1).tolist(), strict=True):
        scale = 255 / (high - low) if high > low else 1.0
        tables.append(np.trunc(_BYTES * scale + (-low * scale if high > low else 0)))
    return _looked_up(pixels, tables)


def _equalize(pixels: Pixels, _argument: float, _: Look) -> Pixels:
    """Each channel's values spread until all are about as frequent."""
    tables = []
    for channel in pixels:
        counts = np.array(Image.fromarray(channel).histogram())
        found = counts[counts > 0]
        step = int(found.sum() - found[-1]) // 255
        tables.append((step // 2 + np.cumsum(counts) - counts) // step if step else _BYTES)
    return _looked_up(pixels, tables)


_POSTERIZE = _through(lambda values, bits: values & (0xFF00 >> int(bits)))
_SOLARIZE = _through(lambda values, least: np.where(values < least, values, 255 - values))
_BRIGHTNESS = _through(lambda values, factor: _blended(np.float32(0), values, factor))


def _color(pixels: Pixels, factor: float, _: Look) -> Pixels:
    """Less of it is nearer to grey."""
    return _blended(_grey(pixels), pixels, factor)


def _away(share: float) -> float:
    """A factor of enhancement that moves away from 1, the unchanged image, to either side."""
    return max(0.1, 1 + share * 0.9)


def _across(share: float) -> float:
    """A factor of enhancement from nearly none to nearly twice."""
    return share * 1.8 + 0.1


INCREASING: dict[str, Operation] = {
    "autocontrast": Operation(_autocontrast, lambda share: 0),
    "equalize": Operation(_equalize, lambda share: 0),
    "invert": Operation(_through(lambda values, _: 255 - values), lambda share: 0),
    "rotate": Operation(rotated, lambda share: share * 30, signed=True),  # degrees
    "posterize": Operation(_POSTERIZE, lambda share: 4 - int(share * 4)),  # bits that stay
    "solarize": Operation(_SOLARIZE, lambda share: 256 - int(share * 256)),  # the least value that is inverted
    "solarize_add": Operation(
        _through(lambda values, more: np.where(values < 128, np.minimum(255, values + int(more)), values)),
        lambda share: int(share * 110),
    ),
    "color": Operation(_color, _away, signed=True),
    "contrast": Operation(_contrast, _away, signed=True),
    "brightness": Operation(_BRIGHTNESS, _away, signed=True),
    "sharpness": Operation(_sharpness, _away, signed=True),
    "shear_x": Operation(sheared(0), lambda share: share * 0.3, signed=True),
    "shear_y": Operation(sheared(1), lambda share: share * 0.3, signed=True),
    "translate_x": Operation(translated(0), lambda share: share * 0.45, signed=True),  # of the width
    "translate_y": Operation(translated(1), lambda share: share * 0.45, signed=True),
}
PLAIN: dict[str, Operation] = INCREASING | {
    "posterize": Operation(_POSTERIZE, lambda share: int(share * 4)),
    "solarize": Operation(_SOLARIZE, lambda share: int(share * 256)),
    "color": Operation(_color, _across),
    "contrast": Operation(_contrast, _across),
    "brightness": Operation(_BRIGHTNESS, _across),
    "sharpness": Operation(_sharpness, _across),
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


def applied(pixels: Pixels, changes: Iterable[Change], look: Look) -> Pixels:
    """An image after these changes, in order."""
    for name, argument in changes:
        pixels = INCREASING[name].apply(pixels, argument, look)
    return pixels
