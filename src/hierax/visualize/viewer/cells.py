"""Stage maps as small whole numbers of which a browser makes cosines, with the error that this costs.

A cosine needs no lengths and no particular axes. So each cell is scaled to length 1 and turned into the principal axes
of all cells of the stage, in which most numbers are near zero; these are rounded to steps of one size and deflated. A
number too large for a byte is kept in two, the first counting 128 steps.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

STEP = 1 / 250  # of a cell of length 1
WORST = 0.008  # largest error of a cosine, as measured; beyond it the steps are halved
_PROBES = 200  # cells whose cosines to all others are measured
_SPLIT = 128  # steps that the higher of two bytes counts


@dataclass(frozen=True)
class PackedCells:
    """The cells of one stage of some images.

    Attributes:
        planes: (axis, weight) of each plane: a cell's number on an axis is the weighted sum of its planes.
        numbers: For each image all planes one after another, signed bytes, deflated, as base64.
        norms: For each image the length of each cell, as 16-bit shares of the range, little-endian, deflated, base64.
        norm_range: Smallest and largest length of all images.
        worst: Largest difference of a cosine of whole numbers from that of the maps, as measured.
        mean: Mean difference.
    """

    planes: list[tuple[int, int]]
    numbers: list[str]
    norms: list[str]
    norm_range: tuple[float, float]
    worst: float
    mean: float


def pack(maps: Float[ndarray, "n c h w"]) -> PackedCells:
    """Pack finite maps; the same maps give the same bytes."""
    n, c, h, w = maps.shape
    cells = np.moveaxis(maps, 1, -1).reshape(-1, c)
    norms = np.sqrt(np.einsum("ij,ij->i", cells, cells, dtype=np.float64))
    units = (cells / np.maximum(norms, 1e-30)[:, None]).astype(np.float32)
    turned = units @ _axes(units)
    step = STEP
    while True:
        whole = np.rint(turned / np.float32(step)).astype(np.int16)
        worst, mean = _errors(units, whole)
        if worst <= WORST or step <= STEP / 64:  # beyond it two bytes do not hold a number
            break
        step /= 2
    planes, values = _split(whole)
    per_image = np.ascontiguousarray(values.reshape(len(planes), n, h * w).swapaxes(0, 1))  # (n, planes, h * w)
    low, high = float(norms.min()), float(norms.max())
    shares = np.rint((norms - low) / max(high - low, 1e-300) * 65535).astype("<u2").reshape(n, -1)
    numbers = [deflated(image.tobytes()) for image in per_image]
    return PackedCells(planes, numbers, [deflated(each.tobytes()) for each in shares], (low, high), worst, mean)


def deflated(data: bytes) -> str:
    """Bytes as text that `cells.js` reads."""
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def _axes(units: Float[ndarray, "cells c"]) -> Float[ndarray, "c c"]:
    """Principal axes about zero, the strongest first."""
    _, axes = np.linalg.eigh((units.T @ units).astype(np.float64))
    return axes[:, ::-1].astype(np.float32)


def _errors(units: Float[ndarray, "cells c"], whole: Int[ndarray, "cells c"]) -> tuple[float, float]:
    """Largest and mean error of the cosines of some cells to all."""
    rough = whole.astype(np.float32)
    lengths = np.linalg.norm(rough, axis=1, keepdims=True)
    rough /= np.where(lengths > 0, lengths, 1)
    some = np.random.default_rng(0).choice(len(units), min(_PROBES, len(units)), replace=False)
    wrong = np.abs(units[some] @ units.T - rough[some] @ rough.T)
    return float(wrong.max()), float(wrong.mean())


def _split(whole: Int[ndarray, "cells c"]) -> tuple[list[tuple[int, int]], Int[ndarray, "planes cells"]]:
    """Planes of bytes; axes on which every cell is zero have none."""
    planes, values = list[tuple[int, int]](), list[ndarray]()
    for axis, column in enumerate(whole.T):
        large = np.abs(column).max(initial=0) > 127
        high = np.rint(column / _SPLIT).astype(np.int16) if large else np.zeros_like(column)
        for weight, part in ((_SPLIT, high), (1, column - high * _SPLIT)):
            if part.any():
                planes.append((axis, weight))
                values.append(part.astype(np.int8))
    return planes, np.stack(values) if values else np.zeros((0, len(whole)), np.int8)
