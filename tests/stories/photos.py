"""A folder of small photographs, in the place of a user's own.

Pieces of the two photographs that come with scikit-learn, in one sub-folder each; without it, rendered shapes of two
classes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image


def write(folder: Path, count: int = 12) -> None:
    """Write `count` pictures of 160 x 120 pixels of each kind."""
    for kind, whole in zip(("flowers", "temples"), sources(), strict=True):
        (folder / kind).mkdir(parents=True)
        rng = np.random.default_rng(len(kind))
        for number in range(count):
            top, left = rng.integers(0, whole.shape[0] - 240), rng.integers(0, whole.shape[1] - 320)
            piece = Image.fromarray(whole[top : top + 240, left : left + 320]).resize((160, 120))
            piece.save(folder / kind / f"{number:02}.jpg", quality=90)


def sources() -> list[np.ndarray]:
    """Two large pictures."""
    if importlib.util.find_spec("sklearn") is not None:
        from sklearn.datasets import load_sample_image

        return [load_sample_image(name) for name in ("flower.jpg", "china.jpg")]
    from hierax.data.datasets.shapes import render

    return [np.tile(render(index, seed=1, size=320)[0], (2, 2, 1)) for index in (0, 5)]
