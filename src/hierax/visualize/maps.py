"""Stage feature maps as colours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from ..errors import InputError


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
    return {stage: _pca(stage, np.asarray(maps)) for stage, maps in features.items()}


def _pca(stage: str, maps: Float[ndarray, "n c h w"]) -> UInt8[ndarray, "n h w 3"]:
    if maps.ndim != 4 or not maps.size:
        raise InputError(f"Feature maps must be (n, c, h, w) with no empty axis; {stage!r} is {maps.shape}.")
    if not np.isfinite(maps).all():
        raise InputError(f"Feature maps must be finite; {stage!r} holds NaN or infinity.")
    n, c, h, w = maps.shape
    cells = np.moveaxis(maps, 1, -1).reshape(-1, c).astype(np.float64)  # (n * h * w, c)
    cells -= cells.mean(0)
    strengths, basis = np.linalg.eigh(cells.T @ cells)  # ascending
    strengths, basis = strengths[:-4:-1], basis[:, :-4:-1]  # (at most 3), (c, at most 3)
    # A direction has no sign of its own; making its largest loading positive keeps colours stable between runs.
    largest = np.take_along_axis(basis, np.abs(basis).argmax(0, keepdims=True), 0)
    basis = np.where(largest < 0, -basis, basis)
    # Directions that carry nothing but rounding stay grey instead of being stretched to full contrast.
    basis = basis * (strengths > 1e-12 * max(strengths[0], 1e-300))
    colors = np.full((len(cells), 3), 0.5)
    for channel, values in enumerate((cells @ basis).T):
        colors[:, channel] = _stretched(values)
    return np.round(colors * 255).astype(np.uint8).reshape(n, h, w, 3)


def _stretched(values: Float[ndarray, " cells"]) -> Float[ndarray, " cells"]:
    """Values in 0..1, from the 1st to the 99th percentile; a constant becomes 0.5."""
    low, high = np.percentile(values, (1, 99))
    if high <= low:
        low, high = values.min(), values.max()
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.full_like(values, 0.5)
