"""JPEG files that look like photographs to a resampler: gradients, edges and grain, of awkward sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

# (width, height): 343 is where crop roundings differ, 150 is smaller than the crop.
SIZES = ((343, 256), (301, 517), (640, 427), (150, 190))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image of smooth colour, hard edges and noise."""
    rng = np.random.default_rng([seed, width, height])
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + 4 * c) + c) * np.cos(y / (13 + 3 * c)) for c in range(3)]
    pixels = 128 + 70 * np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 10, 40)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_jpegs(folder: Path) -> list[Path]:
    """One JPEG of each size."""
    paths = [folder / f"{width}x{height}.jpg" for width, height in SIZES]
    for path, (width, height) in zip(paths, SIZES, strict=True):
        picture(width, height).save(path, quality=92)
    return paths
