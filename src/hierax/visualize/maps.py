"""Stage feature maps as colours: by the three strongest directions of a set of maps, its basis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from ..errors import InputError

# A direction has no sign of its own; this rule keeps colours stable between runs.
SIGN_RULE = "the loading of largest magnitude of each component is positive"


@dataclass(frozen=True)
class Basis:
    """The three strongest directions of a stage's features in a set of images, and what becomes a colour.

    Attributes:
        mean: Of all cells, (c,).
        components: Unit vectors, the strongest first, (3, c); one that carries nothing but rounding is zero.
        explained: Share of the variance that each carries, (3,).
        low: Projection on each that becomes 0, (3,): the 1st percentile.
        high: Projection on each that becomes full colour, (3,): the 99th percentile.
        images: Number of images it was fitted to.
    """

    mean: Float[ndarray, " c"]
    components: Float[ndarray, "3 c"]
    explained: Float[ndarray, "3"]
    low: Float[ndarray, "3"]
    high: Float[ndarray, "3"]
    images: int


def pca_maps(features: Mapping[str, Float[ndarray, "n c h w"]]) -> dict[str, UInt8[ndarray, "n h w 3"]]:
    """Colour feature maps by their three strongest directions, red the strongest.

    One basis and one scale are shared by all images of a stage, so that equal colours mean equal features across
    the batch. Colours of different stages are unrelated.

    Args:
        features: Per stage, the maps of a batch.

    Returns:
        Per stage, RGB maps of the same height and width.

    Raises:
        InputError: A stage is not an array (n, c, h, w), is empty, or has values that are not finite.
    """
    return {stage: colour_maps(stage, maps, fit_basis(stage, maps)) for stage, maps in features.items()}


def fit_basis(stage: str, maps: Float[ndarray, "n c h w"]) -> Basis:
    """The basis of a stage's maps; the same maps in any order give the same.

    Args:
        stage: For messages.
        maps: Of all images to fit to.

    Raises:
        InputError: As `pca_maps`.
    """
    cells = _cells(stage, maps)
    mean = cells.mean(0)
    cells = cells - mean
    strengths, directions = np.linalg.eigh(cells.T @ cells)  # ascending
    total = max(strengths.sum(), 1e-300)
    strengths, directions = strengths[:-4:-1], directions[:, :-4:-1]  # (at most 3), (c, at most 3)
    largest = np.take_along_axis(directions, np.abs(directions).argmax(0, keepdims=True), 0)
    directions = np.where(largest < 0, -directions, directions)
    # Directions that carry nothing but rounding stay grey instead of being stretched to full contrast.
    directions = directions * (strengths > 1e-12 * max(strengths[0], 1e-300))
    components, explained = np.zeros((3, len(mean))), np.zeros(3)
    components[: len(strengths)] = directions.T
    explained[: len(strengths)] = np.clip(strengths / total, 0, 1)
    values = cells @ components.T
    low, high = np.percentile(values, (1, 99), axis=0)
    flat = high <= low
    low, high = np.where(flat, values.min(0), low), np.where(flat, values.max(0), high)
    return Basis(mean, components, explained, low, high, images=len(maps))


def colour_maps(stage: str, maps: Float[ndarray, "n c h w"], basis: Basis) -> UInt8[ndarray, "n h w 3"]:
    """Maps in the colours of a basis, whichever maps it was fitted to; what lies beyond its range is full or no colour.

    Raises:
        InputError: As `pca_maps`, or the basis is of another number of channels.
    """
    cells = _cells(stage, maps)
    n, c, h, w = np.shape(maps)
    if c != len(basis.mean):
        raise InputError(
            f"A basis fits maps of its own number of channels; that of {stage!r} has {len(basis.mean)}, the maps have "
            f"{c}. Use the model that it was fitted with."
        )
    values = (cells - basis.mean) @ basis.components.T
    spread = basis.high - basis.low
    colors = np.clip((values - basis.low) / np.where(spread > 0, spread, 1), 0, 1)
    colors[:, spread <= 0] = 0.5
    return np.round(colors * 255).astype(np.uint8).reshape(n, h, w, 3)


def _cells(stage: str, maps: Float[ndarray, "n c h w"]) -> Float[ndarray, "cells c"]:
    maps = np.asarray(maps)
    if maps.ndim != 4 or not maps.size:
        raise InputError(f"Feature maps must be (n, c, h, w) with no empty axis; {stage!r} is {maps.shape}.")
    if not np.isfinite(maps).all():
        raise InputError(f"Feature maps must be finite; {stage!r} holds NaN or infinity.")
    return np.moveaxis(maps, 1, -1).reshape(-1, maps.shape[1]).astype(np.float64)  # (n * h * w, c)
