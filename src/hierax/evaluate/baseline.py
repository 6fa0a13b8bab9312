"""Features made by hand: histograms of colours and of edges, which a network should beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from ..data.decode import decode_image

NAME = "colour+edges"
VERSION = 1  # raise it when numbers change: features are kept
_SIDE = 64
_SHADES = 4  # of each of red, green and blue
_DIRECTIONS = 8  # of edges, over half a turn
_CELLS = 4  # a side
SIZE = _SHADES**3 + _DIRECTIONS * _CELLS**2


def colour_and_edges(source: Any) -> Float[ndarray, " c"]:
    """Histograms of one image, scaled to 64 x 64 pixels: its 64 colours, and its edges by direction in 4 x 4 cells.

    An edge counts by its steepness. Each of both parts is the square root of shares, so that it has length 1, or 0
    where an image has no edges.

    Args:
        source: As for `decode_image`.

    Raises:
        InputError: The image cannot be read.

    Source: cells and directions as in the edge histogram of MPEG-7 (ISO/IEC 15938-3).
    """
    image = Image.fromarray(decode_image(source)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return np.concatenate([_shares(_colours(pixels)), _shares(_edges(pixels))]).astype(np.float32)


def _shares(counts: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    return np.sqrt(counts / max(counts.sum(), 1e-12))


def _colours(pixels: UInt8[ndarray, "h w 3"]) -> Float[ndarray, " n"]:
    shade = pixels.astype(np.int64) * _SHADES // 256
    return np.bincount((shade @ [_SHADES**2, _SHADES, 1]).ravel(), minlength=_SHADES**3).astype(np.float64)


def _edges(pixels: UInt8[ndarray, "h w 3"]) -> Float[ndarray, " n"]:
    grey = pixels.astype(np.float64) @ [0.299, 0.587, 0.114]
    down, right = np.gradient(grey)
    turn = np.arctan2(down, right) / np.pi % 1.0  # of an edge, not of its sign
    direction = np.minimum((turn * _DIRECTIONS).astype(np.int64), _DIRECTIONS - 1)
    cell = np.arange(_SIDE) * _CELLS // _SIDE
    place = (cell[:, None] * _CELLS + cell) * _DIRECTIONS + direction
    return np.bincount(place.ravel(), np.hypot(down, right).ravel(), minlength=_DIRECTIONS * _CELLS**2)
