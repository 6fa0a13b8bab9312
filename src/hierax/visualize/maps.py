"""Stage feature maps as colours, beside the image they were made from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from ..errors import InputError
from .paper import as_array, fitted, row_of


def pca_maps(
    features: Mapping[str, Float[ndarray, "n c h w"]],
) -> dict[str, UInt8[ndarray, "n h w 3"]]:
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
    return {stage: _pca(stage, torch.as_tensor(as_array(maps))) for stage, maps in features.items()}


def _pca(stage: str, maps: torch.Tensor) -> UInt8[ndarray, "n h w 3"]:
    if maps.ndim != 4 or maps.numel() == 0:
        raise InputError(f"Feature maps must be (n, c, h, w) with no empty axis; {stage!r} is {tuple(maps.shape)}.")
    if not bool(torch.isfinite(maps).all()):
        raise InputError(f"Feature maps must be finite; {stage!r} holds NaN or infinity.")
    n, c, h, w = maps.shape
    cells = maps.movedim(1, -1).reshape(-1, c).double()  # (n * h * w, c)
    cells = cells - cells.mean(0)
    strengths, basis = torch.linalg.eigh(cells.T @ cells)  # ascending
    basis = basis[:, -3:].flip(1)  # (c, at most 3)
    # A direction has no sign of its own; making its largest loading positive keeps colours stable between runs.
    largest = basis.abs().argmax(0, keepdim=True)
    basis = basis * torch.where(basis.gather(0, largest) < 0, -1.0, 1.0)
    # Directions that carry nothing but rounding stay grey instead of being stretched to full contrast.
    basis = basis * (strengths[-3:].flip(0) > 1e-12 * strengths[-1].clamp_min(1e-300))
    colors = np.full((len(cells), 3), 0.5)
    for channel, values in enumerate((cells @ basis).T.numpy()):
        colors[:, channel] = _stretched(values)
    return np.round(colors * 255).astype(np.uint8).reshape(n, h, w, 3)


def _stretched(values: Float[ndarray, " cells"]) -> Float[ndarray, " cells"]:
    """Values in 0..1, from the 1st to the 99th percentile; a constant becomes 0.5."""
    low, high = np.percentile(values, (1, 99))
    if high <= low:
        low, high = values.min(), values.max()
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.full_like(values, 0.5)


def feature_sheet(
    image: UInt8[ndarray, "h w 3"],
    maps: Mapping[str, UInt8[ndarray, "rows columns 3"]],
    *,
    tile: int = 224,
    channels: Mapping[str, int] | None = None,
) -> Image.Image:
    """One image beside its stage maps, cells enlarged without smoothing.

    Args:
        image: RGB pixels.
        maps: Per stage, one image's map as `pca_maps` colours it.
        tile: Longer side of each panel in pixels.
        channels: Per stage, the channels of the features, for the captions.
    """
    height, width = image.shape[:2]
    panels = [(fitted(image, tile, Image.Resampling.LANCZOS), "image", f"{width} x {height} px")]
    for stage, cells in maps.items():
        size = f"{cells.shape[1]} x {cells.shape[0]}"
        detail = f"{size}, {channels[stage]} channels" if channels and stage in channels else size
        # Maps share the panel of the image, whose shape squash preprocessing may have changed.
        panel = Image.fromarray(cells).resize(panels[0][0].size, Image.Resampling.NEAREST)
        panels.append((panel, stage, detail))
    return row_of(panels)
